"""Memory for blocks on their way between a stream and a disk, used again and again.

Fresh memory for each block costs a page fault every 4 KiB, and lies in no cache yet: together as much as decrypting
what goes in.
"""

from __future__ import annotations

from typing import Final

SPARE_BYTES: Final = 8 * 1024 * 1024
"""Bytes that are kept for whoever comes next."""


class Buffers:
    """Spare buffers of one content's conversations. Not for several threads.

    Args:
        least: Bytes that a buffer has at least, so that messages of different lengths can share it.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._spare: list[bytearray] = []
        self._bytes = 0

    @property
    def spare_bytes(self) -> int:
        """Bytes that nobody uses now."""
        return self._bytes

    def take(self, length: int) -> memoryview:
        """Room for so many bytes, with anything in it. Who does not give it back only makes it cost more."""
        while self._spare:
            buffer = self._spare.pop()
            self._bytes -= len(buffer)
            if len(buffer) >= length:
                return memoryview(buffer)[:length]
        return memoryview(bytearray(max(length, self._least)))[:length]

    def give_back(self, view: memoryview) -> None:
        """What `take` gave is not used any more, neither are parts of it."""
        buffer = view.obj
        if isinstance(buffer, bytearray) and self._bytes + len(buffer) <= SPARE_BYTES:
            self._spare.append(buffer)
            self._bytes += len(buffer)

    def clear(self) -> None:
        """Nobody comes for a while."""
        self._spare.clear()
        self._bytes = 0
