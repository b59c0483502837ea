"""The key-value cache of one generation: for each layer a buffer of keys and one of values, written in place.

A buffer starts small and doubles until it has the room that the generation reserved, so a token is copied less than
once on average, and a decode step copies nothing but its own rows. Within a buffer all tokens of a head lie one
behind the other, as attention reads them.

Cutting a text back is a smaller length: rows behind it are written over. The length moves only when a step has gone
well through all layers.

Importing this module loads torch: load it lazily.
"""

from __future__ import annotations

import torch
from torch import Tensor

FIRST_TOKENS = 64
"""Tokens of the smallest buffer: short texts never grow, and a step of decoding grows nothing twice."""


class LayerCache:
    """Keys and values of one layer, each of shape (heads, tokens, width)."""

    __slots__ = ("keys", "values")

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def write(self, start: int, keys: Tensor, values: Tensor, room: int) -> tuple[Tensor, Tensor]:
        """Puts rows in from `start` on.

        Args:
            start: Where the first row goes; what lies before it is kept.
            keys: Shape (heads, rows, width).
            values: The same, perhaps of another width.
            room: Tokens that the buffers may ever hold.

        Returns:
            Keys and values of all tokens up to the last row.
        """
        stop = start + keys.shape[1]
        if self.keys is None or self.values is None or self.keys.shape[1] < stop:
            self.keys = _grown(self.keys, keys, start, stop, room)
            self.values = _grown(self.values, values, start, stop, room)
        self.keys[:, start:stop] = keys
        self.values[:, start:stop] = values
        return self.keys[:, :stop], self.values[:, :stop]

    def copy(self, length: int) -> LayerCache:
        """Its first tokens in buffers of their own."""
        made = LayerCache()
        if self.keys is not None and self.values is not None:
            made.keys, made.values = self.keys[:, :length].clone(), self.values[:, :length].clone()
        return made

    @property
    def bytes(self) -> int:
        """What the buffers take."""
        return sum(part.nbytes for part in (self.keys, self.values) if part is not None)


class KeyValueCache:
    """All layers of one generation.

    Args:
        layers: How many.
        room: Tokens that it may come to hold.

    Attributes:
        length: Tokens that it holds.
    """

    __slots__ = ("layers", "length", "room")

    def __init__(self, layers: int, room: int) -> None:
        self.layers = [LayerCache() for _ in range(layers)]
        self.room = room
        self.length = 0

    def copy(self, length: int, room: int) -> KeyValueCache:
        """A cache of its own that begins with the same tokens."""
        made = KeyValueCache(0, room)
        made.layers = [layer.copy(length) for layer in self.layers]
        made.length = length
        return made

    @property
    def bytes(self) -> int:
        """What it takes now; never more than its room."""
        return sum(layer.bytes for layer in self.layers)


def _grown(old: Tensor | None, rows: Tensor, start: int, stop: int, room: int) -> Tensor:
    heads, _, width = rows.shape
    had = 0 if old is None else old.shape[1]
    made = torch.empty(
        (heads, max(stop, min(room, max(FIRST_TOKENS, 2 * had))), width), dtype=rows.dtype, device=rows.device
    )
    if old is not None:
        made[:, :start] = old[:, :start]
    return made


__all__ = ["KeyValueCache", "LayerCache"]
