"""A set of piece numbers as a row of bits (BEP 3: the first piece is the highest bit of the first byte)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_BITS = tuple(tuple(bit for bit in range(8) if byte & (0x80 >> bit)) for byte in range(256))


class Bitfield:
    """Which of `length` pieces are in the set. ``len()`` counts them.

    Example:
        >>> held = Bitfield(10, [0, 9])
        >>> held.to_bytes().hex(), 9 in held, len(held)
        ('8040', True, 2)
    """

    __slots__ = ("_bytes", "_count", "length")

    def __init__(self, length: int, pieces: Iterable[int] = ()) -> None:
        self.length = length
        self._bytes = bytearray((length + 7) // 8)
        self._count = 0
        for piece in pieces:
            self.add(piece)

    @classmethod
    def full(cls, length: int) -> Bitfield:
        """All of the pieces."""
        held = cls(length)
        held._bytes[:] = b"\xff" * len(held._bytes)
        if length % 8:
            held._bytes[-1] = 0xFF << (8 - length % 8) & 0xFF
        held._count = length
        return held

    @classmethod
    def from_bytes(cls, length: int, data: bytes | memoryview) -> Bitfield:
        """Reads what `to_bytes` wrote.

        Raises:
            ValueError: It has another length, or bits behind the last piece.
        """
        held = cls(length)
        if len(data) != len(held._bytes):
            raise ValueError(f"a bitfield of {length} pieces has {len(held._bytes)} bytes, this has {len(data)}")
        held._bytes[:] = data
        if length % 8 and held._bytes[-1] & (0xFF >> (length % 8)):
            raise ValueError("a bitfield has bits behind its last piece")
        held._count = int.from_bytes(held._bytes, "big").bit_count()
        return held

    def to_bytes(self) -> bytes:
        """One bit a piece."""
        return bytes(self._bytes)

    def add(self, piece: int) -> bool:
        """Puts a piece in; says whether it was new."""
        if not 0 <= piece < self.length:
            raise IndexError(f"there is no piece {piece} of {self.length}")
        bit = 0x80 >> (piece & 7)
        if self._bytes[piece >> 3] & bit:
            return False
        self._bytes[piece >> 3] |= bit
        self._count += 1
        return True

    def discard(self, piece: int) -> bool:
        """Takes a piece out; says whether it was there."""
        if piece not in self:
            return False
        self._bytes[piece >> 3] &= ~(0x80 >> (piece & 7)) & 0xFF
        self._count -= 1
        return True

    def offers(self, wanted: Bitfield, held: Bitfield) -> bool:
        """Whether any piece in this set is in `wanted` and not in `held`; all three of the same length."""
        mine, theirs = int.from_bytes(self._bytes, "big"), int.from_bytes(wanted._bytes, "big")
        return bool(mine & theirs & ~int.from_bytes(held._bytes, "big"))

    @property
    def complete(self) -> bool:
        """Whether every piece is in."""
        return self._count == self.length

    def copy(self) -> Bitfield:
        """Another one with the same pieces."""
        return Bitfield.from_bytes(self.length, bytes(self._bytes))

    def __contains__(self, piece: object) -> bool:
        if not isinstance(piece, int) or not 0 <= piece < self.length:
            return False
        return bool(self._bytes[piece >> 3] & (0x80 >> (piece & 7)))

    def __iter__(self) -> Iterator[int]:
        for index, byte in enumerate(bytes(self._bytes)):
            for bit in _BITS[byte]:
                yield index * 8 + bit

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bitfield):
            return NotImplemented
        return self.length == other.length and self._bytes == other._bytes

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Bitfield({self._count} of {self.length})"
