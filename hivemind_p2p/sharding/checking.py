"""Tries out, when a stage is loaded, that what we assume of its family is so.

- Nothing happens before the layers of a stage that is not the first: hidden states go in as they came.
- Each layer attends once, and our packed attention gives what the family's own gives: a family that adds something to
  its scores that we do not know of is found out here, not in its texts.
- What it computes are numbers.

So a family that does not fit is refused with a reason. Importing this module loads torch and transformers.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from hivemind_p2p.errors import CheckpointError, UnsupportedModelError
from hivemind_p2p.sharding import packed
from hivemind_p2p.sharding.body import Body
from hivemind_p2p.sharding.building import Built, find_layers
from hivemind_p2p.sharding.kv_cache import KeyValueCache

NAME = "hivemind_checking"
"""Under which the library finds the attention function that compares."""

ROWS = 5
"""Rows that are tried out."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.01}
"""The largest difference, as a part of the output's length (2-norm), that another order of summing explains."""

DOES_NOT_RUN = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError, NotImplementedError)


@dataclass(slots=True)
class _Findings:
    pack: packed.Pack
    layers: set[int] = field(default_factory=set)
    worst: float = 0.0


@torch.inference_mode()
def check(built: Built, dtype: torch.dtype) -> int:
    """Tries a stage out.

    Returns:
        Bytes that one token takes in its caches.

    Raises:
        UnsupportedModelError: It does something that packed attention does not do.
        CheckpointError: It computes what are no numbers.
    """
    name = type(built.base).__name__
    cache = None if built.encoder else KeyValueCache(len(built.span), ROWS)
    pack = packed.Pack([packed.Segment(0, ROWS, 0, cache)])
    with _recording(built, pack) as findings:
        try:
            rows = Body.of(built).hidden(pack, _inputs(built), torch.arange(ROWS))
        except DOES_NOT_RUN as error:
            raise UnsupportedModelError(f"{name} does not run on a packed row: {error}") from error
    if findings.layers != set(range(len(built.span))) and not built.encoder:
        raise UnsupportedModelError(f"not all layers of {name} attend: they keep state that is in no key-value cache")
    if not bool(torch.isfinite(rows).all()):
        raise CheckpointError(f"the weights of layers {built.span} make values that are no numbers")
    if findings.worst > TOLERANCE[dtype]:
        raise UnsupportedModelError(f"{name} attends in a way of its own: packed, it differs by {findings.worst:.1%}")
    if not built.first and not built.encoder:
        _check_beginning(built, name)
    return 0 if cache is None else cache.bytes // ROWS


def _inputs(built: Built) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if built.first:
        return torch.randint(0, int(built.config.vocab_size), (ROWS,), generator=generator)
    parameter = next(built.base.parameters())
    return torch.randn((ROWS, int(built.config.hidden_size)), generator=generator).to(parameter)


def _check_beginning(built: Built, name: str) -> None:
    """With no layers at all, and no norm, what went in comes out."""
    base, before = built.base, _inputs(built)
    holder, layers = find_layers(base, len(built.span))
    kept, count = getattr(holder, layers), base.config.num_hidden_layers
    norms = {norm: part for norm, part in holder.named_children() if "norm" in norm or norm == "ln_f"}
    setattr(holder, layers, nn.ModuleList())
    base.config.num_hidden_layers = 0
    for norm in norms:
        setattr(holder, norm, nn.Identity())
    try:
        positions = torch.arange(ROWS).unsqueeze(0)
        after = base(inputs_embeds=before.unsqueeze(0), position_ids=positions, use_cache=False).last_hidden_state[0]
    finally:
        setattr(holder, layers, kept)
        base.config.num_hidden_layers = count
        for norm, part in norms.items():
            setattr(holder, norm, part)
    if not torch.equal(before, after):
        raise UnsupportedModelError(f"{name} changes hidden states before its first layer, so it cannot be cut")


@contextlib.contextmanager
def _recording(built: Built, pack: packed.Pack) -> Iterator[_Findings]:
    """While the block runs, the layers attend by the family's own function, and ours is compared with it."""
    findings = _Findings(pack)

    def compare(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **named: Any) -> Any:
        own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if own is None:
            raise NotImplementedError("its attention cannot be exchanged")
        ours, _ = packed.attend(module, query, key, value, mask, **named)
        theirs = own(module, query, key, value, mask, **named)
        findings.layers.add(getattr(module, "layer_idx", -1))
        length = float(torch.linalg.vector_norm(theirs[0].float()))
        difference = float(torch.linalg.vector_norm((theirs[0] - ours).float())) / max(length, 1e-30)
        findings.worst = max(findings.worst, difference)
        return theirs

    AttentionInterface.register(NAME, compare)
    AttentionMaskInterface.register(NAME, eager_mask)
    configs = {id(part.config): part.config for part in built.module.modules() if hasattr(part, "config")}
    names = {key: config._attn_implementation for key, config in configs.items()}
    for config in configs.values():
        config._attn_implementation = NAME
    try:
        yield findings
    finally:
        for key, config in configs.items():
            config._attn_implementation = names[key]


__all__ = ["check"]
