"""The libp2p transport, over loopback: dialling, dying connections, cancelled writes, slow readers, quick ends."""

import socket
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio.testing

from hivemind_p2p.errors import (
    AddressError,
    NoRecordError,
    NotSpokenError,
    PeerUnreachableError,
    PortInUseError,
    ProtocolError,
    StreamClosedError,
)
from hivemind_p2p.identity import Identity
from hivemind_p2p.net import transport
from hivemind_p2p.net.router import Router
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.proto.common_pb2 import Signed
from hivemind_p2p.types import PeerInfo

PROTOCOL = "/test/transport/1"
ALICE, BOB, CAROL = (Identity(letter * 32) for letter in (b"a", b"b", b"c"))
LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]
PATIENCE = 20


@asynccontextmanager
async def two_transports():
    async with open_transport(ALICE, LOOPBACK) as alice, open_transport(BOB, LOOPBACK) as bob:
        alice.learn(PeerInfo(bob.peer_id, bob.addresses))
        with trio.fail_after(PATIENCE):
            yield alice, bob


async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.aclose()


async def ask(transport, peer_id, question=b"hello"):
    stream = await transport.open_stream(peer_id, PROTOCOL)
    await stream.send_all(question)
    await stream.send_eof()
    answer = bytearray()
    while data := await stream.receive_some():
        answer += data
    await stream.aclose()
    return bytes(answer)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_importing_the_network_does_not_load_libp2p():
    modules = (
        "transport",
        "liveness",
        "accepting",
        "stream_negotiation",
        "libp2p_host",
        "dialing",
        "listening",
        "router",
        "memory",
        "framing",
        "addresses",
    )
    imports = "; ".join(f"import hivemind_p2p.net.{name}" for name in modules)
    check = f"{imports}; import hivemind_p2p.testing.streams, sys; assert not {{'libp2p', 'torch'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


async def test_streams_go_both_ways_over_one_connection():
    async with two_transports() as (alice, bob):
        alice.set_handler(PROTOCOL, echo)
        bob.set_handler(PROTOCOL, echo)
        assert await ask(alice, BOB.peer_id) == b"hello"
        assert await ask(bob, ALICE.peer_id) == b"hello", "bob was never told where alice listens"
        assert alice.statistics().connections == bob.statistics().connections == 1
        assert bob.statistics().dials == 0


async def test_the_remote_peer_is_known_on_both_sides():
    async with two_transports() as (alice, bob):
        seen = []

        async def note(stream):
            seen.append((stream.remote, stream.protocol))
            await stream.aclose()

        bob.set_handler(PROTOCOL, note)
        stream = await alice.open_stream(BOB.peer_id, PROTOCOL)
        assert (stream.remote, stream.protocol) == (BOB.peer_id, PROTOCOL)
        assert await stream.receive_some() == b""
        assert seen == [(ALICE.peer_id, PROTOCOL)]


async def test_nothing_is_said_on_a_connection_but_what_was_asked_for():
    async with two_transports() as (alice, bob):
        bob.set_handler(PROTOCOL, echo)
        assert await ask(alice, BOB.peer_id) == b"hello"
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (await alice.connect(BOB.peer_id)).carried == 1
        with pytest.raises(NotSpokenError):
            await alice.open_stream(BOB.peer_id, "/ipfs/id/push/1.0.0")


async def test_many_callers_share_one_dial():
    async with two_transports() as (alice, bob):
        bob.set_handler(PROTOCOL, echo)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask, alice, BOB.peer_id)
        assert alice.statistics().dials == 1
        assert alice.statistics().connections == 1


async def test_dead_addresses_do_not_hide_a_good_one():
    async with two_transports() as (alice, bob):
        bob.set_handler(PROTOCOL, echo)
        dead = f"/ip4/127.0.0.1/tcp/{free_port()}"
        with socket.socket() as silent:  # accepts and never says a word
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            stalled = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
            alice.learn(PeerInfo(BOB.peer_id, (dead, stalled, "/ip4/127.0.0.1/udp/1/quic-v1", *bob.addresses)))
            assert await ask(alice, BOB.peer_id) == b"hello"


async def test_a_failed_dial_tells_each_address_and_blocks_nobody():
    async with two_transports() as (alice, bob):
        bob.set_handler(PROTOCOL, echo)
        dead = tuple(f"/ip4/127.0.0.1/tcp/{free_port()}" for _ in range(2))
        alice.learn(PeerInfo(BOB.peer_id, dead))
        with pytest.raises(PeerUnreachableError, match=f"{BOB.peer_id}.*{dead[0]}.*{dead[1]}"):
            await alice.open_stream(BOB.peer_id, PROTOCOL)
        alice.learn(PeerInfo(BOB.peer_id, bob.addresses))
        assert await ask(alice, BOB.peer_id) == b"hello"
        assert alice.statistics().failed_dials == 1


async def test_a_peer_may_be_known_by_a_name():
    async with two_transports() as (alice, bob):
        bob.set_handler(PROTOCOL, echo)
        port = bob.addresses[0].rpartition("/")[2]
        alice.learn(PeerInfo(BOB.peer_id, (f"/dns4/localhost/tcp/{port}",)))
        assert await ask(alice, BOB.peer_id) == b"hello"


async def test_why_a_dial_has_failed_is_told_in_words_of_our_own():
    async with two_transports() as (alice, bob), open_transport(CAROL, LOOPBACK, psk=b"c" * 32) as carol:
        unused = f"/ip4/127.0.0.1/tcp/{free_port()}"
        alice.learn(PeerInfo(CAROL.peer_id, (unused, *bob.addresses, *carol.addresses)))
        with pytest.raises(PeerUnreachableError) as caught:
            await alice.connect(CAROL.peer_id)
        assert f"({unused}: nothing listens there;" in caught.value.message
        assert f"{bob.addresses[0]}: peer {BOB.peer_id} answered where {CAROL.peer_id}" in caught.value.message
        assert f"{carol.addresses[0]}: it does not speak this hive's encryption" in caught.value.message


async def test_only_so_many_addresses_are_remembered(monkeypatch):
    monkeypatch.setattr(transport, "MOST_LEARNED", 2)
    async with two_transports() as (alice, bob):
        bob.set_handler(PROTOCOL, echo)
        for letter in (b"x", b"y"):
            assert await ask(alice, BOB.peer_id) == b"hello"  # one that is in use is not the one that is forgotten
            await alice.disconnect(BOB.peer_id)
            alice.learn(PeerInfo(Identity(letter * 32).peer_id, ("/ip4/127.0.0.1/tcp/1",)))
        assert await ask(alice, BOB.peer_id) == b"hello"
        with pytest.raises(PeerUnreachableError, match="no address is known"):
            await alice.connect(Identity(b"x" * 32).peer_id)


async def test_another_peer_at_the_address_is_not_taken_for_the_one_called():
    async with two_transports() as (alice, bob):
        bob.set_handler(PROTOCOL, echo)
        alice.learn(PeerInfo(CAROL.peer_id, bob.addresses))
        with pytest.raises(PeerUnreachableError, match=r"answered where .* was expected"):
            await alice.open_stream(CAROL.peer_id, PROTOCOL)


async def test_what_cannot_be_called_says_why():
    async with two_transports() as (alice, _):
        with pytest.raises(PeerUnreachableError, match="no address is known"):
            await alice.open_stream(CAROL.peer_id, PROTOCOL)
        with pytest.raises(PeerUnreachableError, match="cannot dial itself"):
            await alice.open_stream(ALICE.peer_id, PROTOCOL)
        with pytest.raises(ProtocolError, match=f"does not speak {PROTOCOL}"):
            await alice.open_stream(BOB.peer_id, PROTOCOL)
        alice.learn(PeerInfo(CAROL.peer_id, ("/memory/1",)))
        with pytest.raises(PeerUnreachableError, match="none of /memory/1 can be dialled"):
            await alice.open_stream(CAROL.peer_id, PROTOCOL)


async def test_a_peer_that_comes_back_is_dialled_again():
    port = free_port()
    listen = [f"/ip4/127.0.0.1/tcp/{port}"]
    async with open_transport(ALICE, LOOPBACK) as alice:
        alice.learn(PeerInfo(BOB.peer_id, tuple(listen)))
        for _ in range(2):
            async with open_transport(BOB, listen) as bob:
                assert bob.addresses == tuple(listen)
                bob.set_handler(PROTOCOL, echo)
                assert await ask(alice, BOB.peer_id) == b"hello"
        with pytest.raises(PeerUnreachableError):
            await alice.open_stream(BOB.peer_id, PROTOCOL)


async def test_a_reader_learns_that_the_other_transport_was_closed():
    async with open_transport(ALICE, LOOPBACK) as alice, AsyncExitStack() as stack:
        bob = await stack.enter_async_context(open_transport(BOB, LOOPBACK))
        alice.learn(PeerInfo(BOB.peer_id, bob.addresses))
        bob.set_handler(PROTOCOL, echo)
        stream = await alice.open_stream(BOB.peer_id, PROTOCOL)
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        await stack.aclose()
        with trio.fail_after(PATIENCE):
            try:
                assert await stream.receive_some() == b""
            except trio.BrokenResourceError:
                return


async def test_a_handler_that_raises_costs_its_stream_only():
    async with two_transports() as (alice, bob):

        async def fail(stream):
            raise ValueError("a bug")

        bob.set_handler("/test/broken/1", fail)
        bob.set_handler(PROTOCOL, echo)
        for _ in range(3):
            stream = await alice.open_stream(BOB.peer_id, "/test/broken/1")
            assert await stream.receive_some() == b""
        assert await ask(alice, BOB.peer_id) == b"hello"
        assert alice.statistics().dials == 1


async def test_cancelled_writes_leave_the_connection_whole():
    async with two_transports() as (alice, bob):
        clogged = []

        async def never_read(stream):
            clogged.append(stream)
            await trio.sleep_forever()

        bob.set_handler("/test/clogged/1", never_read)
        bob.set_handler(PROTOCOL, echo)
        for _ in range(5):
            stream = await alice.open_stream(BOB.peer_id, "/test/clogged/1")
            with trio.move_on_after(0.05) as scope:
                await stream.send_all(bytes(64 << 20))
            assert scope.cancelled_caught
            await stream.aclose()
        data = bytes(range(256)) * 1024
        assert await ask(alice, BOB.peer_id, data) == data
        assert alice.statistics().dials == 1


async def test_cancelled_opens_leave_the_connection_whole():
    async with two_transports() as (alice, bob):
        bob.set_handler(PROTOCOL, echo)
        await ask(alice, BOB.peer_id)
        for step in range(20):
            with trio.move_on_after(step * 0.0002):
                stream = await alice.open_stream(BOB.peer_id, PROTOCOL)
                await stream.aclose()
        assert await ask(alice, BOB.peer_id) == b"hello"
        assert alice.statistics().dials == 1


async def test_more_streams_than_a_connection_holds_at_once_leave_nothing_behind():
    async with two_transports() as (alice, bob):
        bob.set_handler(PROTOCOL, echo)
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(ask, alice, BOB.peer_id)
        connections = [transport._swarm.get_connections()[0] for transport in (alice, bob)]
        while any(connection.get_streams() or connection.muxed_conn.streams for connection in connections):  # noqa: ASYNC110 - libp2p does not tell
            await trio.sleep(0.01)
        assert alice.statistics().opened == 300


async def test_nothing_is_dialled_unasked():
    async with two_transports() as (alice, _):
        assert not alice._swarm.auto_connector._started


async def test_a_slow_reader_gets_everything():
    """Stock libp2p gives a reader five seconds; here the clock of the writer is not asked."""
    async with two_transports() as (alice, bob):
        go_on = trio.Event()
        received = []

        async def read_late(stream):
            await go_on.wait()
            while data := await stream.receive_some():
                received.append(len(data))
            await stream.aclose()

        bob.set_handler(PROTOCOL, read_late)
        stream = await alice.open_stream(BOB.peer_id, PROTOCOL)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(4 << 20))
            await trio.sleep(5.5)  # the point is the real time that passes
            assert not received
            go_on.set()
        await stream.send_eof()
        assert await stream.receive_some() == b""
        assert sum(received) == 4 << 20


async def test_a_refusal_reaches_a_caller_whose_request_was_not_read():
    async with two_transports() as (alice, bob), trio.open_nursery() as nursery:
        near, far = Router(alice, nursery), Router(bob, nursery)

        async def refuse(channel):
            raise NoRecordError("not here")

        far.serve(PROTOCOL, refuse)
        for _ in range(10):
            channel = await near.open(BOB.peer_id, PROTOCOL)
            await channel.send(Signed(body=b"please"), bytes(30_000))
            with pytest.raises(NoRecordError):
                await channel.receive(Signed)
            await channel.aclose()


async def test_a_cut_off_message_is_a_closed_stream():
    async with two_transports() as (alice, bob), trio.open_nursery() as nursery:
        near, far = Router(alice, nursery), Router(bob, nursery)
        cut_off, told = trio.Event(), trio.Event()
        outcome = []

        async def receive(channel):
            await channel.receive(Signed)
            await cut_off.wait()
            try:
                await channel.receive(Signed, max_payload=1 << 27)
            except StreamClosedError as error:
                outcome.append(error.message)
            told.set()

        far.serve(PROTOCOL, receive)
        channel = await near.open(BOB.peer_id, PROTOCOL)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as sending:
                await channel.send(Signed())
                sending.start_soon(channel.send, Signed(), bytes(64 << 20))
                await trio.testing.wait_all_tasks_blocked(0.01)  # the window is full, in the middle of the message
                scope.cancel()
        assert scope.cancelled_caught
        cut_off.set()
        await told.wait()
        assert "mid-message" in outcome[0]


async def test_a_taken_port_is_told():
    async with open_transport(ALICE, LOOPBACK) as alice:
        with pytest.raises(PortInUseError, match=alice.addresses[0]):
            async with open_transport(BOB, list(alice.addresses)):
                pytest.fail("two transports share a port")


@pytest.mark.parametrize("address", ["nonsense", "/ip4/127.0.0.1/udp/0/quic-v1", "/dns4/localhost/tcp/0"])
async def test_an_address_that_cannot_be_listened_at_is_told(address):
    with pytest.raises(AddressError):
        async with open_transport(ALICE, [address]):
            pytest.fail("listens at nonsense")


async def test_a_peer_may_only_dial():
    async with open_transport(ALICE, []) as alice, open_transport(BOB, LOOPBACK) as bob:
        assert alice.addresses == ()
        bob.set_handler(PROTOCOL, echo)
        alice.learn(PeerInfo(BOB.peer_id, bob.addresses))
        assert await ask(alice, BOB.peer_id) == b"hello"


async def test_errors_of_the_block_are_raised_as_they_are():
    with pytest.raises(KeyError, match="mine"):
        async with open_transport(ALICE, LOOPBACK):
            raise KeyError("mine")


async def test_closing_is_quick_and_leaves_no_tasks():
    def tasks():
        return trio.lowlevel.current_statistics().tasks_living

    async with open_transport(CAROL, LOOPBACK):
        pass
    before = tasks()
    async with two_transports() as (alice, bob):

        async def linger(stream):
            await trio.sleep_forever()

        bob.set_handler(PROTOCOL, linger)
        for _ in range(10):
            stream = await alice.open_stream(BOB.peer_id, PROTOCOL)
        started = trio.current_time()
    assert trio.current_time() - started < 3
    with trio.move_on_after(2):
        while tasks() > before:  # noqa: ASYNC110 - nor does trio
            await trio.sleep(0.01)
    assert tasks() <= before
    with pytest.raises(PeerUnreachableError, match="closed"):
        await alice.open_stream(BOB.peer_id, PROTOCOL)
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"too late")
    await stream.aclose()


async def test_cancelling_the_block_closes_the_transport():
    with trio.fail_after(PATIENCE):
        with trio.move_on_after(0.3):
            async with open_transport(ALICE, LOOPBACK) as alice:
                await trio.sleep_forever()
        async with open_transport(BOB, list(alice.addresses)):
            pass


async def test_streams_that_are_for_nothing_shut_nobody_out(monkeypatch):
    monkeypatch.setattr("hivemind_p2p.net.transport.MOST_CHOOSING", 20)
    async with two_transports() as (alice, bob), open_transport(CAROL, []) as carol:
        bob.set_handler(PROTOCOL, echo)
        carol.learn(PeerInfo(bob.peer_id, bob.addresses))
        connection = await alice.connect(BOB.peer_id)
        silent = [await connection.open_stream() for _ in range(40)]
        for stream in silent:
            await stream.send_all(b"\x13")
        with pytest.raises(trio.BrokenResourceError):
            await silent[-1].receive_some()
        assert await ask(carol, BOB.peer_id) == b"hello"
        for stream in silent:
            stream.abort()
        assert await ask(alice, BOB.peer_id) == b"hello"
