"""Channels over the memory network: calls, failures, floods, and a peer that calls itself."""

import pytest
import trio
import trio.testing

from hivemind_p2p.errors import (
    BusyError,
    DeadlineExceededError,
    NoRecordError,
    PeerUnreachableError,
    ProtocolError,
    RemoteError,
    StreamClosedError,
)
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.memory import MemoryNetwork
from hivemind_p2p.net.router import Router
from hivemind_p2p.proto import common_pb2
from hivemind_p2p.types import PeerInfo

ECHO = "/test/echo/1"
ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)


def pair(nursery, **network_arguments):
    network = MemoryNetwork(**network_arguments)
    alice, bob = network.join(ALICE), network.join(BOB)
    alice.learn(PeerInfo(bob.peer_id, bob.addresses))
    return Router(alice, nursery), Router(bob, nursery)


def signed(body: bytes) -> common_pb2.Signed:
    return common_pb2.Signed(body=body)


async def echo(channel):
    while True:
        header, payload = await channel.receive(common_pb2.Signed, max_payload=1 << 20)
        await channel.send(header, payload)


async def answer_of(router, peer_id, protocol=ECHO):
    channel = await router.open(peer_id, protocol)
    try:
        with trio.fail_after(60):
            await channel.send(signed(b"hello"))
            return await channel.receive(common_pb2.Signed)
    finally:
        await channel.aclose()


async def test_a_call_is_answered(nursery, autojump_clock):
    alice, bob = pair(nursery, latency=0.1)
    bob.serve(ECHO, echo)
    channel = await alice.open(BOB.peer_id, ECHO)
    await channel.send(signed(b"hello"), [b"raw ", b"bytes"])
    header, payload = await channel.receive(common_pb2.Signed, max_payload=100)
    assert (header.body, bytes(payload)) == (b"hello", b"raw bytes")
    assert channel.remote == BOB.peer_id
    await channel.aclose()


async def test_the_end_of_a_conversation_is_no_failure(nursery, autojump_clock):
    alice, bob = pair(nursery)
    bob.serve(ECHO, echo)
    channel = await alice.open(BOB.peer_id, ECHO)
    await channel.send_eof()
    with pytest.raises(StreamClosedError, match="between messages"):
        await channel.receive(common_pb2.Signed)
    await trio.testing.wait_all_tasks_blocked()
    assert (bob.statistics().answered, bob.statistics().failed) == (1, 0)


async def test_an_error_of_ours_reaches_the_caller_as_its_class_and_names_the_peer(nursery, autojump_clock):
    alice, bob = pair(nursery)

    async def refuse(channel):
        raise NoRecordError("nothing is stored under 'x'", hint="Publish it first.")

    bob.serve(ECHO, refuse)
    with pytest.raises(NoRecordError, match=f"{BOB.peer_id}.*nothing is stored") as caught:
        await answer_of(alice, BOB.peer_id)
    assert caught.value.hint == "Publish it first."


async def test_an_error_inside_nurseries_is_unwrapped(nursery, autojump_clock):
    alice, bob = pair(nursery)

    async def refuse(channel):
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(trio.sleep_forever)
            inner.start_soon(fail)

    async def fail():
        raise NoRecordError("nothing")

    bob.serve(ECHO, refuse)
    with pytest.raises(NoRecordError):
        await answer_of(alice, BOB.peer_id)


@pytest.mark.parametrize("broken", [ValueError("secret"), ExceptionGroup("two", [ValueError("a"), KeyError("b")])])
async def test_a_buggy_handler_costs_one_conversation_and_tells_no_secrets(nursery, autojump_clock, broken):
    alice, bob = pair(nursery)

    async def fail(channel):
        raise broken

    bob.serve(ECHO, fail)
    for _ in range(2):
        with pytest.raises(RemoteError) as caught:
            await answer_of(alice, BOB.peer_id)
        assert type(broken).__name__ in caught.value.message
        assert "secret" not in caught.value.message
    assert bob.statistics().failed == 2


async def test_a_failure_during_cancellation_does_not_outlive_it(autojump_clock):
    async def fail_when_cancelled(channel):
        async with trio.open_nursery() as inner:
            inner.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("in the clean-up")

    async with trio.open_nursery() as nursery:
        router = Router(MemoryNetwork().join(ALICE), nursery)
        router.serve(ECHO, fail_when_cancelled)
        await router.open(ALICE.peer_id, ECHO)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert router.statistics().failed == 1


async def test_too_many_at_once_are_refused_and_the_next_is_served(nursery, autojump_clock):
    alice, bob = pair(nursery)
    bob.serve(ECHO, echo, most_at_once=2)
    taken = [await alice.open(BOB.peer_id, ECHO) for _ in range(2)]
    with pytest.raises(BusyError):
        await answer_of(alice, BOB.peer_id)
    await taken[0].aclose()
    header, _ = await answer_of(alice, BOB.peer_id)
    assert header.body == b"hello"
    assert bob.statistics().refused == 1


async def test_a_handlers_own_deadline_becomes_a_deadline_error(nursery, autojump_clock):
    alice, bob = pair(nursery)

    async def wait(channel):
        with trio.fail_after(3):
            await trio.sleep_forever()

    bob.serve(ECHO, wait)
    with pytest.raises(DeadlineExceededError, match=BOB.peer_id):
        await answer_of(alice, BOB.peer_id)


async def test_a_peer_calls_itself(nursery, autojump_clock):
    alice, _ = pair(nursery)
    alice.serve(ECHO, echo)
    header, _ = await answer_of(alice, ALICE.peer_id)
    assert header.body == b"hello"
    with pytest.raises(ProtocolError, match="/test/other"):
        await alice.open(ALICE.peer_id, "/test/other")


async def test_opening_has_a_deadline(nursery, autojump_clock):
    alice, bob = pair(nursery, latency=4.0)
    bob.serve(ECHO, echo)
    with pytest.raises(DeadlineExceededError, match="within 2 s"):
        await alice.open(BOB.peer_id, ECHO, deadline=2)
    assert alice.statistics().unopened == 1


async def test_what_cannot_be_opened_says_why(nursery, autojump_clock):
    alice, bob = pair(nursery)
    with pytest.raises(ProtocolError, match="does not speak /test/echo/1"):
        await alice.open(BOB.peer_id, ECHO)
    with pytest.raises(PeerUnreachableError, match="no address"):
        await bob.open(Identity(b"c" * 32).peer_id, ECHO)


async def test_a_protocol_that_frames_its_own_messages_gets_bare_streams(autojump_clock):
    async with trio.open_nursery() as nursery:
        alice, bob = pair(nursery)

        async def shout(stream):
            await stream.send_all((await stream.receive_some()).upper())

        bob.serve_stream("/test/shout/1", shout)
        stream = await alice.open_stream(bob.peer_id, "/test/shout/1")
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"HELLO"
        assert await stream.receive_some() == b""
        await stream.aclose()
        assert bob.statistics().answered == 1


async def test_a_bare_handler_that_raises_or_is_busy_ends_its_stream_only(autojump_clock):
    async with trio.open_nursery() as nursery:
        alice, bob = pair(nursery)

        async def stumble(stream):
            await stream.receive_some()
            raise ValueError("a bug")

        bob.serve_stream("/test/bug/1", stumble, most_at_once=1)
        first = await alice.open_stream(bob.peer_id, "/test/bug/1")
        await trio.testing.wait_all_tasks_blocked()
        second = await alice.open_stream(bob.peer_id, "/test/bug/1")
        assert await second.receive_some() == b""
        await first.send_all(b"x")
        assert await first.receive_some() == b""
        statistics = bob.statistics()
        assert (statistics.failed, statistics.refused, statistics.answering) == (1, 1, {"/test/bug/1": 0})
        await first.aclose()
        await second.aclose()
