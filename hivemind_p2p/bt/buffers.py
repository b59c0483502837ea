"""Memory for blocks on their way between a stream and a disk, used again and again.

Fresh memory for each block costs a page fault every 4 KiB, and lies in no cache yet: together as much as decrypting
what goes in. While a helper process checks pieces (`helpers`), they arrive in memory that it sees too.
"""

from __future__ import annotations

from collections.abc import Sequence
from mmap import mmap
from typing import Final

SPARE_BYTES: Final = 8 * 1024 * 1024
"""Bytes that are kept for whoever comes next."""


class Buffers:
    """Spare buffers of one content's conversations. Not for several threads.

    Attributes:
        least: Bytes that a buffer has at least, so that messages of different lengths can share it.
    """

    def __init__(self, least: int) -> None:
        self.least = least
        self._spare: list[bytearray] = []
        self._bytes = 0
        self._shared: frozenset[int] = frozenset()
        self._spare_shared: list[mmap] = []

    @property
    def spare_bytes(self) -> int:
        """Bytes of this process alone that nobody uses now."""
        return self._bytes

    def share(self, segments: Sequence[mmap]) -> None:
        """Has memory used before all other that another process sees, too; until the next call, or `unshare`.

        Args:
            segments: Each of `least` bytes or more.
        """
        self._shared = frozenset(map(id, segments))
        self._spare_shared = list(segments)

    def unshare(self) -> None:
        """Has it used no more. What is in use now is forgotten when it is given back."""
        self.share(())

    def take(self, length: int) -> memoryview:
        """Room for so many bytes, with anything in it. Who does not give it back only makes it cost more."""
        if self._spare_shared and length <= len(self._spare_shared[-1]):
            return memoryview(self._spare_shared.pop())[:length]
        while self._spare:
            buffer = self._spare.pop()
            self._bytes -= len(buffer)
            if len(buffer) >= length:
                return memoryview(buffer)[:length]
        return memoryview(bytearray(max(length, self.least)))[:length]

    def give_back(self, view: memoryview) -> None:
        """What `take` gave is not used any more, neither are parts of it."""
        buffer = view.obj
        if isinstance(buffer, mmap):
            if id(buffer) in self._shared:
                self._spare_shared.append(buffer)
        elif isinstance(buffer, bytearray) and self._bytes + len(buffer) <= SPARE_BYTES:
            self._spare.append(buffer)
            self._bytes += len(buffer)

    def clear(self) -> None:
        """Nobody comes for a while: this process's own memory is freed."""
        self._spare.clear()
        self._bytes = 0
