"""Tiny random encoders of several architectures, with the files that the sentence-transformers library keeps."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.sharding.tiny import LETTERS

LAYERS, WIDTH, CONTEXT = 5, 32, 64
FAMILIES = ("bert", "roberta", "minilm", "electra", "xlm-roberta", "distilbert")
CLS, SEP, PAD = 96, 97, 98


def _config(family: str) -> Any:
    import transformers

    sizes = {
        "vocab_size": 99,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "pad_token_id": PAD if family not in {"roberta", "xlm-roberta"} else 1,
        # These count positions from behind their padding token's id.
        "max_position_embeddings": CONTEXT + (2 if "roberta" in family else 0),
    }
    if family == "distilbert":
        return transformers.DistilBertConfig(
            vocab_size=99, dim=WIDTH, n_layers=LAYERS, n_heads=4, hidden_dim=48, max_position_embeddings=CONTEXT
        )
    kinds = {
        "bert": transformers.BertConfig,
        "minilm": transformers.BertConfig,
        "roberta": transformers.RobertaConfig,
        "xlm-roberta": transformers.XLMRobertaConfig,
        "electra": transformers.ElectraConfig,
    }
    extra = {"embedding_size": WIDTH} if family == "electra" else {}
    return kinds[family](**sizes, **extra)


@cache
def whole(family: str) -> Any:
    """The whole model, random weights, in one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import transformers

        torch.set_num_threads(1)
        torch.manual_seed(7)
        # As published: BERT and RoBERTa with the head that they were trained with, others without.
        auto = transformers.AutoModelForMaskedLM if family in {"bert", "roberta"} else transformers.AutoModel
        model = auto.from_config(_config(family)).eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embeddings" not in name:
                parameter.data.mul_(8)
        return model


def save(family: str, folder: Path) -> Path:
    """A checkpoint folder of it, with a tokenizer of one letter a token between two special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging

        logging.disable_progress_bar()
        whole(family).save_pretrained(folder)
    letters = {letter: index for index, letter in enumerate(LETTERS, start=1)}
    letters |= {"<unknown>": 0, "[CLS]": CLS, "[SEP]": SEP, "[PAD]": PAD}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<unknown>"))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    # As the published MiniLMs have it: whoever reads the file has to switch both off.
    tokenizer.enable_padding(length=40, pad_id=PAD, pad_token="[PAD]")
    tokenizer.enable_truncation(16)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def describe(folder: Path, *, modules: Sequence[str] = ("Transformer", "Pooling", "Normalize"), **pooling: Any) -> Path:
    """Writes what the sentence-transformers library would keep beside it."""
    kinds = [f"sentence_transformers.models.{name}" for name in modules]
    paths = ["" if name == "Transformer" else f"{number}_{name}" for number, name in enumerate(modules)]
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": kind}
        for number, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    if "Pooling" in modules:
        (folder / "1_Pooling").mkdir(exist_ok=True)
        settings = {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": not pooling, **pooling}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    return folder


def hidden(family: str, ids: Sequence[int]) -> Any:
    """What the whole model makes of one text: shape (tokens, WIDTH)."""
    import torch

    with torch.inference_mode():
        model = whole(family).base_model
        given = torch.tensor([list(ids)])
        return model(given, attention_mask=torch.ones_like(given)).last_hidden_state[0]
