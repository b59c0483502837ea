"""Which protocol a new stream speaks: multistream-select 1.0, with all that one side has to say in one write.

Both sides first say ``/multistream/1.0.0``. Then the one that opened the stream names a protocol, and the other
repeats the name to agree, or says ``na``. Each message is a line, with its length before it as a varint. Nothing in
the specification makes a side wait for the other's first line, so opening a stream takes one round trip here, where
stock libp2p takes two.

`Proposer` and `Chooser` decide what to say: bytes in, bytes out. They hand back what was read beyond the negotiation,
which is the conversation's first bytes.

Source: https://github.com/multiformats/multistream-select
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hivemind_p2p.errors import NotSpokenError, ProtocolError

HEADER: Final = "/multistream/1.0.0"
NOT_AVAILABLE: Final = "na"

MAX_LINE: Final = 1024
"""Bytes of a line: a protocol's name is far shorter. The specification allows 64 KiB."""

MOST_PROPOSALS: Final = 16
"""Names that a side may try on one stream before it is taken for a flood."""


def encode(*lines: str) -> bytes:
    """Lines as they go over the wire.

    Raises:
        ValueError: A line is longer than `MAX_LINE` allows.
    """
    encoded = bytearray()
    for line in lines:
        data = line.encode() + b"\n"
        if len(data) > MAX_LINE:
            raise ValueError(f"a line of {len(data)} bytes is over {MAX_LINE}: {line[:64]!r}")
        encoded += _varint(len(data)) + data
    return bytes(encoded)


class Lines:
    """Takes bytes as they come and gives whole lines."""

    def __init__(self) -> None:
        self._unread = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Takes more bytes."""
        self._unread += data

    def next(self) -> str | None:
        """The next line without its end; None if it has not come yet.

        Raises:
            ProtocolError: It is too long, is empty, or is no text with an end of line.
        """
        length, start = self._length()
        if length is None or len(self._unread) < start + length:
            return None
        line = bytes(self._unread[start : start + length])
        del self._unread[: start + length]
        if not line.endswith(b"\n"):
            raise ProtocolError("a line of the protocol negotiation has no end")
        try:
            return line[:-1].decode()
        except UnicodeDecodeError as error:
            raise ProtocolError("a line of the protocol negotiation is no text") from error

    def rest(self) -> bytes:
        """Everything that was not part of a line, which is forgotten here."""
        rest = bytes(self._unread)
        self._unread.clear()
        return rest

    def _length(self) -> tuple[int | None, int]:
        """The length of the next line, if it has come, and where the line starts."""
        length = 0
        for index in range(min(len(self._unread), 2)):  # two bytes name up to 16,383
            byte = self._unread[index]
            length |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if not 0 < length <= MAX_LINE:
                    raise ProtocolError(f"a line of {length} bytes in the protocol negotiation")
                return length, index + 1
        if len(self._unread) >= 2:
            raise ProtocolError(f"a line of over {MAX_LINE} bytes in the protocol negotiation")
        return None, 0


class Proposer:
    """The side that opened the stream and wants one protocol.

    Args:
        protocol: Its name.
    """

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self._lines = Lines()
        self._greeted = False

    def start(self) -> bytes:
        """All that this side has to say."""
        return encode(HEADER, self._protocol)

    def receive(self, data: bytes | bytearray | memoryview) -> bytes | None:
        """Takes what the other side has said.

        Returns:
            What it has said beyond the negotiation, mostly nothing; None while it has not agreed yet.

        Raises:
            NotSpokenError: It does not speak the protocol.
            ProtocolError: It speaks nonsense.
        """
        self._lines.feed(data)
        while (line := self._lines.next()) is not None:
            if not self._greeted:
                _check_greeting(line)
                self._greeted = True
            elif line == self._protocol:
                return self._lines.rest()
            elif line == NOT_AVAILABLE:
                raise NotSpokenError(f"it does not speak {self._protocol}")
            else:
                raise ProtocolError(f"it answered the proposal of {self._protocol} with another name")
        return None


class Chooser:
    """The side to which the stream was opened.

    Args:
        speaks: Whether this side speaks a protocol.
    """

    def __init__(self, speaks: Callable[[str], bool]) -> None:
        self._speaks = speaks
        self._lines = Lines()
        self._greeted = False
        self._refused = 0
        self.chosen: str | None = None

    def receive(self, data: bytes | bytearray | memoryview) -> bytes:
        """Takes what the other side has said; `chosen` is set once both agree.

        Returns:
            What to answer.

        Raises:
            ProtocolError: It speaks nonsense, or tries name after name.
        """
        self._lines.feed(data)
        answers: list[str] = []
        while self.chosen is None and (line := self._lines.next()) is not None:
            answers.append(self._answer(line))
        return encode(*answers)

    def rest(self) -> bytes:
        """What the other side has said beyond the negotiation."""
        return self._lines.rest()

    def _answer(self, line: str) -> str:
        if not self._greeted:
            _check_greeting(line)
            self._greeted = True
            return HEADER
        if self._speaks(line):
            self.chosen = line
            return line
        self._refused += 1
        if self._refused > MOST_PROPOSALS:
            raise ProtocolError(f"it proposed over {MOST_PROPOSALS} protocols on one stream")
        return NOT_AVAILABLE


def _check_greeting(line: str) -> None:
    if line != HEADER:
        raise ProtocolError(f"the protocol negotiation began with something else than {HEADER}")


def _varint(number: int) -> bytes:
    return bytes((number,) if number < 0x80 else (number & 0x7F | 0x80, number >> 7))
