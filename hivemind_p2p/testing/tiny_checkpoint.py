"""Writing the tiny language model to a Hugging Face folder, and letting it write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hivemind_p2p.testing.tiny_corpus import END_OF_TEXT

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAXIMUM_FOLDER_BYTES = 8_000_000
"""What the repository accepts of a model."""


def save_checkpoint(model: Any, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a Hugging Face folder: weights in bfloat16, configuration and tokenizer.

    Args:
        model: what `build_model` made; it stays in float32.
        tokenizer: what the model's token ids mean.
        folder: made if it is missing; files of an earlier save are replaced.
    """
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=model.config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)


def continue_text(model: Any, tokenizer: Tokenizer, prompt: str, new_tokens: int) -> str:
    """Return a prompt and what the model writes after it, always taking the likeliest token."""
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False)
    return str(tokenizer.decode(written[0].tolist()))


def check_folder_size(folder: Path) -> int:
    """Return how many bytes the files of a checkpoint folder take.

    Raises:
        ValueError: more than `MAXIMUM_FOLDER_BYTES`.
    """
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > MAXIMUM_FOLDER_BYTES:
        raise ValueError(
            f"{folder} takes {size:,} bytes, more than {MAXIMUM_FOLDER_BYTES:,}: "
            "choose a smaller hidden_size or fewer layers."
        )
    return size
