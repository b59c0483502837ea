"""Packed attention: the rows of many generations go through a model as one long row, and part only in the attention.

The linear layers, which are where the memory is read, run once over the whole pack. The library calls the attention
function that the config names (`NAME`); ours splits the rows by generation, writes each one's keys and values into its
own cache (`kv_cache.py`), and attends to that. So masks are ours as well: the library makes none for a name that it has
no mask function for. What families differ in comes as arguments: scaling, sliding window, soft cap, sinks.

Which pack a call belongs to is kept by thread, not handed through the model: not all families hand arguments of ours
on to their attention.

Importing this module loads torch and transformers: load it lazily.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from hivemind_p2p.sharding.kv_cache import KeyValueCache

NAME = "hivemind_packed"
"""Under which the library finds the function."""

SCORES = 2**22
"""Scores that are held at once where they have to be written out: 16 MiB."""


@dataclass(slots=True)
class Segment:
    """The rows of one generation.

    Attributes:
        start: Of the first row, in the pack.
        stop: Behind the last row, in the pack.
        position: Of the first row, in the text.
        cache: Holds what came before; None for an encoder's text, which is complete.
    """

    start: int
    stop: int
    position: int
    cache: KeyValueCache | None
    masks: dict[int, Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start

    def mask(self, window: int, first: int, device: torch.device) -> Tensor:
        """Which keys each row sees; made once a step for all layers of one window.

        Args:
            window: Tokens that a row sees, itself included; 0 for all.
            first: The position of the first key.
            device: Where it is needed.
        """
        found = self.masks.get(window)
        if found is None:
            rows = torch.arange(self.position, self.position + self.rows, device=device).unsqueeze(1)
            keys = torch.arange(first, self.position + self.rows, device=device)
            found = keys <= rows
            if window:
                found &= keys > rows - window
            self.masks[window] = found
        return found


@dataclass(slots=True)
class Pack:
    """The generations of one step.

    Attributes:
        segments: Their rows, one behind the other.
        offset: The number of the first layer, as the layers count themselves.
        calls: How often attention was asked for: once a layer, or the model keeps state that is not in the caches.
    """

    segments: Sequence[Segment]
    offset: int = 0
    calls: int = 0


_current = threading.local()


@contextlib.contextmanager
def packed(pack: Pack) -> Iterator[Pack]:
    """While the block runs, models that run in this thread attend by this pack."""
    register()
    before = getattr(_current, "pack", None)
    _current.pack = pack
    try:
        yield pack
    finally:
        _current.pack = before


def register() -> None:
    """Lets the library know the function."""
    if NAME not in AttentionInterface().valid_keys():
        AttentionInterface.register(NAME, attend)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention of one layer, as the library calls it.

    Args:
        module: The library's attention; it knows its layer's number.
        query: Shape (1, heads, rows, width).
        key: Shape (1, key heads, rows, width).
        value: Shape (1, key heads, rows, perhaps another width).
        scaling: Of the scores.
        sliding_window: How many tokens a row sees, itself included.
        softcap: Bends scores so that they stay below it.
        s_aux: Sinks: one more score for each head, whose share of the attention goes nowhere.

    Returns:
        Shape (1, rows, heads, width), and no weights.
    """
    pack: Pack = _current.pack
    pack.calls += 1
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rule = _Rule(scale, sliding_window or 0, softcap or 0.0, s_aux)
    if len(pack.segments) == 1:
        made = _one(module, pack, pack.segments[0], query[0], key[0], value[0], rule)
        return made.transpose(0, 1).unsqueeze(0), None
    out = query.new_empty((query.shape[2], query.shape[1], value.shape[3]))
    for segment in pack.segments:
        rows = slice(segment.start, segment.stop)
        made = _one(module, pack, segment, query[0, :, rows], key[0, :, rows], value[0, :, rows], rule)
        out[rows] = made.transpose(0, 1)
    return out.unsqueeze(0), None


@dataclass(frozen=True, slots=True)
class _Rule:
    """What families differ in."""

    scale: float
    window: int
    softcap: float
    sinks: Tensor | None

    @property
    def plain(self) -> bool:
        """Whether torch's own attention can do it."""
        return not self.softcap and self.sinks is None


def _one(module: Any, pack: Pack, segment: Segment, query: Tensor, key: Tensor, value: Tensor, rule: _Rule) -> Tensor:
    """One generation: shape (heads, rows, width) in and out."""
    cache, first = segment.cache, 0
    if cache is None:
        return _attended(query, key, value, rule, _both_ways(segment, rule.window, query.device), causal=False)
    layer = cache.layers[module.layer_idx - pack.offset]
    key, value = layer.write(segment.position, key, value, cache.room)
    if rule.window and key.shape[1] > rule.window:
        # No row sees further back than the first one.
        first = max(0, segment.position - rule.window + 1)
        key, value = key[:, first:], value[:, first:]
    if segment.rows == 1:
        return _attended(query, key, value, rule, None, causal=False)
    if rule.plain and not segment.position and not first and (not rule.window or key.shape[1] <= rule.window):
        return _attended(query, key, value, rule, None, causal=True)
    return _attended(query, key, value, rule, segment.mask(rule.window, first, query.device), causal=False)


def _attended(query: Tensor, key: Tensor, value: Tensor, rule: _Rule, mask: Tensor | None, *, causal: bool) -> Tensor:
    """Query heads that share a key head are one more dimension, so that keys are never repeated in memory."""
    heads, rows, width = query.shape
    sharing = heads // key.shape[0]
    if not rule.plain:
        return _written_out(query, key, value, rule, mask)
    if rows == 1:
        one = query.reshape(1, -1, sharing, width)
        made = scaled_dot_product_attention(one, key.unsqueeze(0), value.unsqueeze(0), scale=rule.scale)
        return made.reshape(heads, 1, -1)
    grouped = query.reshape(-1, sharing, rows, width)
    keys = key.unsqueeze(1).expand(-1, sharing, -1, -1)
    values = value.unsqueeze(1).expand(-1, sharing, -1, -1)
    made = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, is_causal=causal, scale=rule.scale)
    return made.reshape(heads, rows, -1)


def _written_out(query: Tensor, key: Tensor, value: Tensor, rule: _Rule, mask: Tensor | None) -> Tensor:
    """Attention with soft-capped scores or sinks, some rows at a time."""
    heads, rows, width = query.shape
    key_heads, keys, _ = key.shape
    grouped = query.reshape(key_heads, -1, rows, width)
    each = max(1, SCORES // (heads * keys))
    made = []
    for start in range(0, rows, each):
        part = grouped[:, :, start : start + each]
        scores = torch.matmul(part, key.transpose(1, 2).unsqueeze(1)) * rule.scale
        if rule.softcap:
            scores = torch.tanh(scores / rule.softcap) * rule.softcap
        if mask is not None:
            scores = scores.masked_fill(~mask[start : start + each], float("-inf"))
        weights = _weights(scores.float(), rule.sinks).to(value.dtype)
        made.append(torch.matmul(weights, value.unsqueeze(1)))
    return torch.cat(made, dim=2).reshape(heads, rows, -1)


def _weights(scores: Tensor, sinks: Tensor | None) -> Tensor:
    if sinks is None:
        return torch.softmax(scores, dim=-1)
    column = sinks.float().view(scores.shape[0], scores.shape[1], 1, 1).expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat((scores, column), dim=-1), dim=-1)[..., :-1]


def _both_ways(segment: Segment, window: int, device: torch.device) -> Tensor | None:
    """An encoder's mask; a row sees less than `window` tokens to either side."""
    if not window or segment.rows <= window:
        return None
    place = torch.arange(segment.rows, device=device)
    return (place.unsqueeze(1) - place).abs() < window


__all__ = ["NAME", "Pack", "Segment", "attend", "packed", "register"]
