"""Bencoding (BEP 3): the four-type format that BitTorrent metainfo is written in.

    integer     i42e
    string      4:spam          any bytes
    list        li1ei2ee
    dictionary  d3:cow3:mooe    keys are strings, in the order of their bytes

Every value has exactly one encoding, which is what lets a hash of the encoded bytes stand for the value. `decode`
refuses everything else, and bounds size and depth, since what it reads comes from strangers.
"""

from __future__ import annotations

from typing import TypeAlias

Value: TypeAlias = "int | bytes | list[Value] | dict[bytes, Value]"

MOST_BYTES = 16 * 1024 * 1024
"""Longest text that `decode` reads: the metainfo of several terabytes."""

DEEPEST = 64
"""Lists and dictionaries inside each other: twice what a path as deep as `paths` allows needs."""

_LONGEST_INTEGER = 20  # digits and sign of a 64-bit integer
_DIGITS = b"0123456789"


class BencodeError(ValueError):
    """Not canonical bencoding, or larger or deeper than allowed."""


def encode(value: Value) -> bytes:
    """The one encoding of a value.

    Raises:
        TypeError: It holds something other than integers, bytes, lists and dictionaries with keys of bytes.
    """
    parts: list[bytes] = []
    _append(value, parts)
    return b"".join(parts)


def _append(value: Value, parts: list[bytes]) -> None:
    if isinstance(value, bool):
        raise TypeError("bencoding has no booleans")
    if isinstance(value, int):
        parts.append(b"i%de" % value)
    elif isinstance(value, bytes):
        parts.append(b"%d:" % len(value))
        parts.append(value)
    elif isinstance(value, list):
        parts.append(b"l")
        for item in value:
            _append(item, parts)
        parts.append(b"e")
    elif isinstance(value, dict):
        parts.append(b"d")
        for key in sorted(value):
            _append(key, parts)
            _append(value[key], parts)
        parts.append(b"e")
    else:
        raise TypeError(f"bencoding has no {type(value).__name__}")


def decode(data: bytes, *, most_bytes: int = MOST_BYTES, deepest: int = DEEPEST) -> Value:
    """The value that `data` is the encoding of: ``encode(decode(data)) == data``.

    Raises:
        BencodeError: It is malformed, not canonical, followed by more bytes, too long or too deep.
    """
    if len(data) > most_bytes:
        raise BencodeError(f"{len(data)} bytes, more than the {most_bytes} allowed")
    reader = _Reader(data, deepest)
    value = reader.value(0)
    if reader.position != len(data):
        raise BencodeError(f"{len(data) - reader.position} bytes follow the value")
    return value


class _Reader:
    def __init__(self, data: bytes, deepest: int) -> None:
        self.data = data
        self.position = 0
        self.deepest = deepest

    def value(self, depth: int) -> Value:
        mark = self._peek()
        if mark == b"i":
            return self._integer()
        if mark in _DIGITS:
            return self._string()
        if depth >= self.deepest:
            raise BencodeError(f"deeper than {self.deepest}")
        if mark == b"l":
            return self._list(depth)
        if mark == b"d":
            return self._dictionary(depth)
        raise BencodeError(f"no value starts with {mark!r} at byte {self.position}")

    def _peek(self) -> bytes:
        mark = self.data[self.position : self.position + 1]
        if not mark:
            raise BencodeError("ends in the middle of a value")
        return mark

    def _number_until(self, end: bytes) -> int:
        stop = self.data.find(end, self.position, self.position + _LONGEST_INTEGER + 1)
        if stop < 0:
            raise BencodeError(f"no number at byte {self.position}")
        text = self.data[self.position : stop]
        digits = text.removeprefix(b"-")
        # isdigit of bytes knows ASCII digits only; a leading zero or "-0" would be a second spelling.
        if not digits.isdigit() or (digits[:1] == b"0" and text != b"0"):
            raise BencodeError(f"not a number: {text!r}")
        self.position = stop + 1
        return int(text)

    def _integer(self) -> int:
        self.position += 1
        return self._number_until(b"e")

    def _string(self) -> bytes:
        length = self._number_until(b":")
        stop = self.position + length
        if stop > len(self.data):
            raise BencodeError(f"a string of {length} bytes ends behind the data")
        text = self.data[self.position : stop]
        self.position = stop
        return text

    def _list(self, depth: int) -> list[Value]:
        self.position += 1
        items: list[Value] = []
        while self._peek() != b"e":
            items.append(self.value(depth + 1))
        self.position += 1
        return items

    def _dictionary(self, depth: int) -> dict[bytes, Value]:
        self.position += 1
        items: dict[bytes, Value] = {}
        last: bytes | None = None
        while self._peek() != b"e":
            if self._peek() not in _DIGITS:
                raise BencodeError(f"a key is no string at byte {self.position}")
            key = self._string()
            if last is not None and key <= last:
                raise BencodeError(f"the key {key[:40]!r} is out of order or stands twice")
            items[key] = self.value(depth + 1)
            last = key
        self.position += 1
        return items
