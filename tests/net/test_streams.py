"""All byte streams pass the conformance check."""

from contextlib import AsyncExitStack

import pytest
import trio

from hivemind_p2p.identity import Identity
from hivemind_p2p.net.memory import MemoryNetwork
from hivemind_p2p.net.pipe import stream_pair
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.testing.streams import check_stream
from hivemind_p2p.types import PeerInfo

PROTOCOL = "/test/stream/1"
ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)
LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]


def pair_maker(alice, bob):
    """Opens streams from one transport to another, and hands out both ends."""
    send, receive = trio.open_memory_channel(16)
    alice.learn(PeerInfo(bob.peer_id, bob.addresses))

    async def accept(stream):
        await send.send(stream)
        await trio.sleep_forever()

    bob.set_handler(PROTOCOL, accept)

    async def make_pair():
        opened = await alice.open_stream(bob.peer_id, PROTOCOL)
        await opened.send_all(b"!")
        accepted = await receive.receive()
        assert await accepted.receive_some(1) == b"!"
        return opened, accepted

    return make_pair


@pytest.mark.parametrize("settings", [{}, {"latency": 0.02}, {"latency": 0.01, "bandwidth": 20_000_000}])
async def test_memory_streams(autojump_clock, settings):
    network = MemoryNetwork(**settings)
    await check_stream(pair_maker(network.join(ALICE), network.join(BOB)))


async def test_streams_of_a_peer_that_calls_itself(autojump_clock):
    async def make_pair():
        await trio.lowlevel.checkpoint()
        return stream_pair(ALICE.peer_id, ALICE.peer_id, PROTOCOL)

    await check_stream(make_pair)


@pytest.mark.parametrize("opener", ["alice", "bob"])
async def test_libp2p_streams(opener):
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(open_transport(ALICE, LOOPBACK))
        bob = await stack.enter_async_context(open_transport(BOB, LOOPBACK))
        ends = (alice, bob) if opener == "alice" else (bob, alice)
        await check_stream(pair_maker(*ends))
