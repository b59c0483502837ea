"""Where in what is wanted the pieces are that have arrived: a row of cells, each with the share of its pieces."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from hivemind_p2p.bt.bitfield import Bitfield

CELLS = 64
"""Cells of a map: as many as a line on a screen shows beside some words. Fewer where there are fewer pieces."""

FULL = 255


class PieceMap:
    """Counts the pieces of each cell.

    Args:
        wanted: The pieces, ascending.
        held: Which of them are there already.
    """

    def __init__(self, wanted: Sequence[int], held: Bitfield) -> None:
        self._wanted = wanted
        self._cells = min(CELLS, len(wanted))
        self._there = [0] * self._cells
        self._all = [0] * self._cells
        for rank, piece in enumerate(wanted):
            cell = rank * self._cells // len(wanted)
            self._all[cell] += 1
            self._there[cell] += piece in held

    def add(self, piece: int) -> None:
        """A wanted piece has arrived."""
        rank = bisect_left(self._wanted, piece)
        if rank < len(self._wanted) and self._wanted[rank] == piece:
            self._there[rank * self._cells // len(self._wanted)] += 1

    def to_bytes(self) -> bytes:
        """One byte a cell, from 0 (nothing) to 255 (all of its pieces, and only then)."""
        return bytes([there * FULL // every for there, every in zip(self._there, self._all, strict=True)])
