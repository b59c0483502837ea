"""Agreeing on a protocol over a stream that breaks, ends, stalls, or carries on at once."""

import pytest
import trio
from trio.testing import memory_stream_pair

from hivemind_p2p.errors import NotSpokenError, ProtocolError
from hivemind_p2p.net.negotiation import HEADER, encode
from hivemind_p2p.net.stream_negotiation import choose, propose

ECHO = "/hivemind/echo/1"


class Stream:
    """A memory stream that takes bytes back."""

    def __init__(self, stream):
        self.stream = stream
        self.back = b""
        self.send_all = stream.send_all

    async def receive_some(self, max_bytes=None):
        back, self.back = self.back, b""
        return back or bytes(await self.stream.receive_some(max_bytes))

    def unread(self, data):
        self.back = data


def pair():
    return tuple(Stream(stream) for stream in memory_stream_pair())


async def test_both_agree_and_what_follows_is_not_lost():
    ours, theirs = pair()

    async def other():
        assert await choose(theirs, ECHO.__eq__) == ECHO
        await theirs.send_all(b"welcome")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await propose(ours, ECHO)
    assert await ours.receive_some() == b"welcome"


async def test_a_request_sent_along_is_received():
    ours, theirs = pair()
    await ours.send_all(encode(HEADER, ECHO) + b"request")
    assert await choose(theirs, ECHO.__eq__) == ECHO
    assert await theirs.receive_some() == b"request"


async def test_a_protocol_that_is_not_spoken_is_refused():
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(choose, theirs, ECHO.__eq__)
        with pytest.raises(NotSpokenError, match="/hivemind/other/1"):
            await propose(ours, "/hivemind/other/1")
        nursery.cancel_scope.cancel()


async def test_an_end_in_the_middle_is_an_error():
    ours, theirs = pair()
    await theirs.stream.send_all(encode(HEADER))
    await theirs.stream.send_eof()
    with pytest.raises(ProtocolError, match="ended"):
        await choose(ours, ECHO.__eq__)


async def test_whoever_opens_a_stream_and_says_nothing_is_left(autojump_clock):
    ours, _theirs = pair()
    with pytest.raises(ProtocolError, match="within 10 s"):
        await choose(ours, ECHO.__eq__)
