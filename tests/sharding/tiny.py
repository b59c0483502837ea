"""Tiny random checkpoints of several architectures, made once a test run."""

from __future__ import annotations

import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any

VOCABULARY = 96
LAYERS = 5
FAMILIES = ("llama", "qwen2", "gpt2", "gemma2")
ALL_FAMILIES = (*FAMILIES, "qwen3", "mistral", "gemma3", "phi3", "mixtral", "qwen3_moe")
LETTERS = [chr(code) for code in range(32, 32 + VOCABULARY - 1)]


def _config(family: str) -> Any:
    import transformers

    if family == "gpt2":
        return transformers.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=LAYERS,
            n_head=4,
            n_positions=128,
            bos_token_id=None,
            eos_token_id=None,
        )
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if family == "gemma2":
        # A short window, so that prompts run out of it; a low cap, so that leaving it out shows.
        return transformers.Gemma2Config(**sizes, head_dim=8, sliding_window=8, final_logit_softcapping=2.0)
    if family == "gemma3":
        return transformers.Gemma3TextConfig(
            **sizes,
            head_dim=8,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
        )
    if family == "qwen3_moe":
        return transformers.Qwen3MoeConfig(
            **sizes, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24
        )
    of_family = {
        "llama": transformers.LlamaConfig,
        "qwen2": transformers.Qwen2Config,
        "qwen3": partial(transformers.Qwen3Config, head_dim=8),
        "mistral": partial(transformers.MistralConfig, sliding_window=8),
        "phi3": partial(transformers.Phi3Config, pad_token_id=None),
        "mixtral": partial(transformers.MixtralConfig, num_local_experts=4),
    }
    return of_family[family](**sizes)


@cache
def whole(family: str) -> Any:
    """The whole model, random weights, in one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import transformers

        torch.set_num_threads(1)
        torch.manual_seed(7)
        model = transformers.AutoModelForCausalLM.from_config(_config(family)).eval()
        for name, parameter in model.named_parameters():
            # Untrained models repeat one token: larger weights make texts that tell a wrong layer apart.
            if parameter.dim() > 1:
                parameter.data.mul_(2 if "emb" in name or "wte" in name else 20)
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        return model


def save(family: str, folder: Path, *, max_shard_size: str = "5GB") -> Path:
    """A checkpoint folder of it, with a tokenizer of one letter a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging

        logging.disable_progress_bar()
        whole(family).save_pretrained(folder, max_shard_size=max_shard_size)
    letters = {"<end>": 0} | {letter: index for index, letter in enumerate(LETTERS, start=1)}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def expected(family: str, prompt: list[int], new: int) -> list[int]:
    """What the whole model writes, greedily, the prompt included."""
    import torch

    ids = torch.tensor([prompt])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = whole(family).generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
    return [int(token) for token in written[0]]
