"""How far two clocks are apart: the arithmetic, and the conversation over the memory network."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import DeadlineExceededError, ProtocolError, StreamClosedError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net import clock
from hivemind_p2p.net.clock import ClockSample, ask_clock, difference, serve_clock
from hivemind_p2p.net.memory import MemoryNetwork
from hivemind_p2p.net.router import Router
from hivemind_p2p.proto.clock_pb2 import ClockAnswer, ClockRequest
from hivemind_p2p.types import PeerInfo

ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)


def pair(nursery, **network_arguments):
    network = MemoryNetwork(**network_arguments)
    alice, bob = network.join(ALICE), network.join(BOB)
    alice.learn(PeerInfo(bob.peer_id, bob.addresses))
    return Router(alice, nursery), Router(bob, nursery)


times = st.floats(0, 2e9, allow_nan=False)
delays = st.floats(0, 10)


@given(times, st.floats(-1e6, 1e6), delays, delays)
def test_the_true_difference_lies_within_the_uncertainty(asked, ahead, there, back):
    told = asked - ahead + there
    found = difference([ClockSample(asked, told, asked + there + back)])
    assert abs(found.ahead - ahead) <= found.uncertainty + 1e-3


def test_the_fastest_round_trip_counts():
    samples = [ClockSample(0, 100, 50), ClockSample(60, 65, 62), ClockSample(70, 90, 100)]
    assert difference(samples) == clock.ClockDifference(ahead=-4, uncertainty=1)


def test_a_clock_that_is_set_back_meanwhile_has_no_negative_uncertainty():
    assert difference([ClockSample(100, 50, 90)]).uncertainty == 0


async def test_a_peer_tells_the_time(nursery, autojump_clock):
    alice, bob = pair(nursery, latency=0.25)
    serve_clock(bob, lambda: 1000 + trio.current_time())
    found = await ask_clock(alice, BOB.peer_id, lambda: 1090 + trio.current_time())
    assert found.ahead == pytest.approx(90, abs=0.01)
    assert found.uncertainty == pytest.approx(0.25, abs=0.01)


async def test_a_peer_that_does_not_tell_the_time(nursery, autojump_clock):
    alice, _ = pair(nursery)
    with pytest.raises(ProtocolError):
        await ask_clock(alice, BOB.peer_id, trio.current_time)


async def test_a_peer_that_says_nothing_is_left(nursery, autojump_clock):
    alice, bob = pair(nursery)

    async def say_nothing(channel):
        await trio.sleep_forever()

    bob.serve(clock.PROTOCOL, say_nothing)
    with pytest.raises(DeadlineExceededError, match="did not tell the time"):
        await ask_clock(alice, BOB.peer_id, trio.current_time)


@pytest.mark.parametrize("answers", [0, 1])
async def test_a_peer_that_leaves_in_the_middle(nursery, autojump_clock, answers):
    alice, bob = pair(nursery)

    async def leave(channel):
        for _ in range(answers):
            await channel.receive(ClockRequest)
            await channel.send(ClockAnswer(milliseconds=5000))

    bob.serve(clock.PROTOCOL, leave)
    if answers:
        assert (await ask_clock(alice, BOB.peer_id, lambda: 8.0)).ahead == 3
        return
    with pytest.raises(StreamClosedError):
        await ask_clock(alice, BOB.peer_id, lambda: 8.0)


async def test_nobody_keeps_a_channel_for_ever(nursery, autojump_clock):
    alice, bob = pair(nursery)
    serve_clock(bob, lambda: 1.0)
    channel = await alice.open(BOB.peer_id, clock.PROTOCOL)
    for _ in range(clock.MOST_QUESTIONS):
        await channel.send(ClockRequest())
        await channel.receive(ClockAnswer)
    with pytest.raises(StreamClosedError):
        await channel.receive(ClockAnswer)
    await channel.aclose()
