"""Bencoding (BEP 3): the four-type format that BitTorrent metainfo is written in.

    integer     i42e
    string      4:spam          any bytes
    list        li1ei2ee
    dictionary  d3:cow3:mooe    keys are strings, in the order of their bytes

Every value has exactly one encoding, which is what lets a hash of the encoded bytes stand for the value. `decode`
refuses everything else, and bounds size and depth, since what it reads comes from strangers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

Value: TypeAlias = "int | bytes | list[Value] | dict[bytes, Value]"

MOST_BYTES = 16 * 1024 * 1024
"""Longest text that `decode` reads: the metainfo of several terabytes."""

DEEPEST = 64
"""Lists and dictionaries inside each other: twice what a path as deep as `paths` allows needs."""

_NUMBER = re.compile(rb"0|-?[1-9][0-9]{0,18}")  # as many digits as a 64-bit integer has
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
    reader = Reader(data, deepest=deepest)
    value = reader.value()
    reader.finish()
    return value


class Reader:
    """Reads an encoding from front to back: for data that would take many times its size as a `Value`.

    Example:
        >>> reader = Reader(b"d1:ai1e1:bli2ei3eee")
        >>> [(key, reader.value()) for key in reader.each_key()]
        [(b'a', 1), (b'b', [2, 3])]

    Attributes:
        data: The encoding.
        position: Where the next value begins.
    """

    def __init__(self, data: bytes, *, start: int = 0, deepest: int = DEEPEST) -> None:
        self.data = data
        self.position = start
        self._deepest = deepest
        self._depth = 0

    def finish(self) -> None:
        """Says that there should be nothing more.

        Raises:
            BencodeError: There is.
        """
        if self.position != len(self.data):
            raise BencodeError(f"{len(self.data) - self.position} bytes follow the value")

    def value(self) -> Value:
        """The next value.

        Raises:
            BencodeError: It is malformed, not canonical or too deep.
        """
        mark = self._peek()
        if mark == b"i":
            return self._integer()
        if mark in _DIGITS:
            return self._string()
        if mark == b"l":
            return list(self.items())
        if mark == b"d":
            return {key: self.value() for key in self.each_key()}
        raise BencodeError(f"no value starts with {mark!r} at byte {self.position}")

    def skip(self) -> None:
        """Steps over the next value, which is checked like any other.

        Raises:
            BencodeError: It is malformed, not canonical or too deep.
        """
        mark = self._peek()
        if mark == b"d":
            for _ in self.each_key():
                self.skip()
        elif mark == b"l":
            for _ in self._entered(b"l"):
                self.skip()
        elif mark in _DIGITS:
            self._step_over_string()
        else:
            self.value()

    def comes_next(self, text: bytes) -> bool:
        """Whether the next value begins like this."""
        return self.data.startswith(text, self.position)

    def items(self) -> Iterator[Value]:
        """The values of the list that comes next.

        Raises:
            BencodeError: Something else comes next, or a value is malformed.
        """
        for _ in self._entered(b"l"):
            yield self.value()

    def each_key(self) -> Iterator[bytes]:
        """The keys of the dictionary that comes next; after each one its value has to be read or skipped.

        Raises:
            BencodeError: Something else comes next, or a key is malformed, out of order or stands twice.
        """
        last: bytes | None = None
        for _ in self._entered(b"d"):
            if self._peek() not in _DIGITS:
                raise BencodeError(f"a key is no string at byte {self.position}")
            key = self._string()
            if last is not None and key <= last:
                raise BencodeError(f"the key {key[:40]!r} is out of order or stands twice")
            last = key
            yield key

    def _entered(self, mark: bytes) -> Iterator[None]:
        """Once for each item of a list or dictionary, until its end."""
        if self._peek() != mark:
            raise BencodeError(f"no {'list' if mark == b'l' else 'dictionary'} at byte {self.position}")
        if self._depth >= self._deepest:
            raise BencodeError(f"deeper than {self._deepest}")
        self._depth += 1
        self.position += 1
        while self._peek() != b"e":
            yield
        self.position += 1
        self._depth -= 1

    def _peek(self) -> bytes:
        mark = self.data[self.position : self.position + 1]
        if not mark:
            raise BencodeError("ends in the middle of a value")
        return mark

    def _number_until(self, end: bytes) -> int:
        found = _NUMBER.match(self.data, self.position)
        # A leading zero or "-0" would be a second spelling of a number: the pattern stops before what follows.
        if found is None or not self.data.startswith(end, found.end()):
            text = self.data[self.position : self.position + 24]
            raise BencodeError(f"no number at byte {self.position}: {text!r}")
        self.position = found.end() + 1
        return int(found[0])

    def _integer(self) -> int:
        self.position += 1
        return self._number_until(b"e")

    def _string(self) -> bytes:
        start, stop = self._step_over_string()
        return self.data[start:stop]

    def _step_over_string(self) -> tuple[int, int]:
        length = self._number_until(b":")
        start, stop = self.position, self.position + length
        if length < 0 or stop > len(self.data):
            raise BencodeError(f"a string of {length} bytes ends behind the data")
        self.position = stop
        return start, stop
