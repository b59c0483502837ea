"""Agreeing on a new stream's protocol: `negotiation` spoken over a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import trio

from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.interfaces import Buffer
from hivemind_p2p.net.negotiation import MAX_LINE, Chooser, Proposer

READ_BYTES: Final = 2 * MAX_LINE
"""Bytes asked for at once: both of the other side's lines."""

CHOICE_TIMEOUT: Final = 10.0
"""Seconds for a side that opened a stream to say what it wants: it says so at once, unless it is stopped."""


class Negotiable(Protocol):
    """What is needed of a stream."""

    async def send_all(self, data: Buffer) -> None:
        """Sends everything."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes, or none at the end."""

    def unread(self, data: bytes) -> None:
        """Puts bytes back, to be received again."""


async def propose(stream: Negotiable, protocol: str) -> None:
    """Agrees on a protocol, as the side that opened the stream.

    Raises:
        NotSpokenError: The other side does not speak it.
        ProtocolError: The other side speaks nonsense, or ends the stream.
        trio.BrokenResourceError: The stream broke.
    """
    proposer = Proposer(protocol)
    await stream.send_all(proposer.start())
    while True:
        data = await stream.receive_some(READ_BYTES)
        if not data:
            raise ProtocolError(f"it ended the stream instead of agreeing on {protocol}")
        rest = proposer.receive(data)
        if rest is not None:
            stream.unread(rest)
            return


async def choose(stream: Negotiable, speaks: Callable[[str], bool]) -> str:
    """Agrees on a protocol, as the side to which the stream was opened.

    Returns:
        The protocol that the other side has proposed.

    Raises:
        ProtocolError: The other side speaks nonsense, ends the stream, or says nothing for `CHOICE_TIMEOUT`.
        trio.BrokenResourceError: The stream broke.
    """
    try:
        with trio.fail_after(CHOICE_TIMEOUT):
            return await _choose(stream, Chooser(speaks))
    except trio.TooSlowError as error:
        raise ProtocolError(f"it did not say within {CHOICE_TIMEOUT:g} s what a stream is for") from error


async def _choose(stream: Negotiable, chooser: Chooser) -> str:
    while True:
        data = await stream.receive_some(READ_BYTES)
        if not data:
            raise ProtocolError("it ended a stream without saying what it was for")
        answer = chooser.receive(data)
        if answer:
            await stream.send_all(answer)
        if chooser.chosen is not None:
            stream.unread(chooser.rest())
            return chooser.chosen
