"""Secure connections: over a socket and through a stream, with stock libp2p at the other end, and with trouble."""

import os

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.connection_types import ConnectionType
from libp2p.crypto import x25519
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.io.trio import TrioTCPStream
from libp2p.io.utils import read_exactly
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import Transport as StockTransport

from hivemind_p2p.errors import HandshakeError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net import wires
from hivemind_p2p.net.noise import PRIVATE_PROTOCOL, PROTOCOL
from hivemind_p2p.net.noise_transport import HANDSHAKE_TIMEOUT, NoiseTransport

ALICE, BOB, EVE = (Identity(letter * 32) for letter in (b"a", b"b", b"e"))
SECRET = b"k" * 32
DATA = bytes(range(256)) * 4096


class MemoryStream(ReadWriteCloser):
    """What a relayed connection has in place of a socket: read, write, close."""

    def __init__(self, stream):
        self.stream = stream
        self.closed = False

    async def read(self, n=None):
        data = await self.stream.receive_some(n)
        if not data:
            raise StreamEOF
        return bytes(data)

    async def write(self, data):
        await self.stream.send_all(data)

    async def close(self):
        self.closed = True
        await self.stream.aclose()

    def get_remote_address(self):
        return None


def in_memory():
    ends = trio.testing.memory_stream_pair()
    return [
        RawConnection(MemoryStream(end), dials, connection_type=ConnectionType.RELAYED, addresses=[])
        for end, dials in zip(ends, (True, False), strict=True)
    ]


def on_sockets():
    ends = trio.socket.socketpair()
    return [
        RawConnection(TrioTCPStream(trio.SocketStream(end)), dials)
        for end, dials in zip(ends, (True, False), strict=True)
    ]


each_wire = pytest.mark.parametrize("connect", [in_memory, on_sockets], ids=["relayed", "socket"])


def stock_transport(identity):
    return StockTransport(create_new_key_pair(identity.seed), x25519.create_new_key_pair().private_key)


async def secure(raws, *, alice=None, bob=None, expected=BOB):
    """Both ends, secured; an end that failed is its error."""
    ends = {}

    async def one(name, run, *arguments):
        try:
            ends[name] = await run(*arguments)
        except HandshakeFailure as error:
            ends[name] = error

    alice, bob = alice or NoiseTransport(ALICE), bob or NoiseTransport(BOB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "alice", alice.secure_outbound, raws[0], ID.from_base58(expected.peer_id))
        nursery.start_soon(one, "bob", bob.secure_inbound, raws[1])
    return ends["alice"], ends["bob"]


async def close(*connections):
    for connection in connections:
        await connection.close()


async def ends(raw):
    """Whether nothing more comes."""
    try:
        return not await raw.read(100)
    except IOException:
        return True


async def receive_all(connection, size):
    received = bytearray()
    while len(received) < size:
        plaintext = await connection.receive()
        assert plaintext
        received += plaintext
    return received


# -- both sides --------------------------------------------------------------------------------------------------------


@each_wire
@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "private"])
async def test_what_is_sent_arrives_in_both_directions(connect, secret):
    raws = connect()
    alice, bob = await secure(raws, alice=NoiseTransport(ALICE, secret), bob=NoiseTransport(BOB, secret))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(alice.send, [b"header", memoryview(DATA), b"end"])
        nursery.start_soon(bob.send, [DATA[::-1]])
        assert await receive_all(bob, len(DATA) + 9) == b"header" + DATA + b"end"
        assert await receive_all(alice, len(DATA)) == DATA[::-1]
    await close(alice, bob)


@each_wire
async def test_who_is_who(connect):
    raws = connect()
    alice, bob = await secure(raws)

    assert (alice.remote, bob.remote) == (BOB.peer_id, ALICE.peer_id)
    assert alice.get_remote_peer() == bob.get_local_peer() == ID.from_base58(BOB.peer_id)
    assert bob.get_remote_public_key() == alice.get_local_private_key().get_public_key()
    assert (alice.is_initiator, bob.is_initiator) == (True, False)
    assert alice.relayed == (connect is in_memory)
    assert alice.get_connection_type() is (ConnectionType.RELAYED if alice.relayed else ConnectionType.DIRECT)
    assert alice.get_transport_addresses() == []
    assert alice.get_remote_address() is None
    await close(alice, bob)


@each_wire
async def test_the_end_is_an_end(connect):
    raws = connect()
    alice, bob = await secure(raws)
    await alice.send([b"last words"])
    await alice.close()

    assert await bob.receive() == b"last words"
    assert await bob.receive() == b""
    assert await bob.receive() == b""
    await close(bob)


@each_wire
async def test_what_follows_the_handshake_at_once_is_not_lost(connect):
    raws = connect()
    reached = {}

    async def dial():
        reached["alice"] = await NoiseTransport(ALICE).secure_outbound(raws[0], ID.from_base58(BOB.peer_id))
        await reached["alice"].send([b"at once"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        bob = await NoiseTransport(BOB).secure_inbound(raws[1])
        assert await bob.receive() == b"at once"
    await close(reached["alice"], bob)


async def test_nothing_is_sent_for_nothing():
    raws = on_sockets()
    alice, bob = await secure(raws)
    await alice.send([])
    await alice.send([b""])
    await alice.send([b"something"])
    assert await bob.receive() == b"something"
    await close(alice, bob)


@settings(max_examples=20)
@given(parts=st.lists(st.binary(max_size=40), min_size=1, max_size=20), chunk=st.integers(1, 150))
def test_packets_cut_at_any_place(parts, chunk):
    class Slow(MemoryStream):
        async def read(self, n=None):
            return await super().read(chunk)

    async def main():
        ends = trio.testing.memory_stream_pair()
        raws = [
            RawConnection(kind(end), kind is MemoryStream) for kind, end in zip((MemoryStream, Slow), ends, strict=True)
        ]
        alice, bob = await secure(raws)
        await alice.send(parts)
        await alice.close()
        received = bytearray()
        while plaintext := await bob.receive():
            received += plaintext
        assert received == b"".join(parts)
        await bob.close()

    trio.run(main)


# -- as libp2p uses it -------------------------------------------------------------------------------------------------


async def test_read_gives_exactly_what_was_asked_for():
    alice, bob = await secure(in_memory())
    await alice.write(b"hello world")
    assert await bob.read(5) == b"hello"
    assert await bob.read(0) == b""
    assert await bob.read() == b" world"
    await alice.write(b"ab")
    await alice.write(b"cd")
    assert await bob.read(3) == b"abc"
    assert await bob.receive() == b"d"  # a muxer takes over where the negotiation has ended
    await alice.write(b"tail")
    await alice.close()
    assert await bob.read(10) == b"tail"
    with pytest.raises(ConnectionClosedError, match="has ended"):
        await bob.read(1)
    await bob.close()
    with pytest.raises(ConnectionClosedError, match="closed"):
        await bob.read(1)
    with pytest.raises(ConnectionClosedError, match="closed"):
        await bob.write(b"x")


async def test_two_writers_wait_for_each_other():
    alice, bob = await secure(on_sockets())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alice.write, b"a" * len(DATA))
        nursery.start_soon(alice.write, b"b" * len(DATA))
        received = await receive_all(bob, 2 * len(DATA))
    assert received in (b"a" * len(DATA) + b"b" * len(DATA), b"b" * len(DATA) + b"a" * len(DATA))
    await close(alice, bob)


@each_wire
@pytest.mark.parametrize("dials", ["ours", "stock"])
async def test_stock_libp2p_understands_us(connect, dials):
    stock = {"alice": stock_transport(ALICE)} if dials == "stock" else {"bob": stock_transport(BOB)}
    raws = connect()
    alice, bob = await secure(raws, **stock)
    assert alice.get_remote_peer() == ID.from_base58(BOB.peer_id)
    assert bob.get_remote_peer() == ID.from_base58(ALICE.peer_id)

    sizes = [1, 65_519, 65_520, len(DATA)]
    for sender, reader in ((alice, bob), (bob, alice)):
        async with trio.open_nursery() as nursery:
            for size in sizes:
                nursery.start_soon(sender.write, DATA[:size])
                assert await read_exactly(reader, size) == DATA[:size]
    await close(alice, bob)


# -- strangers ---------------------------------------------------------------------------------------------------------


def cause(failure):
    assert isinstance(failure, HandshakeFailure)
    assert isinstance(failure.__cause__, HandshakeError)
    return failure.__cause__.message


@each_wire
async def test_somebody_else_answers(connect):
    raws = connect()
    alice, eve = await secure(raws, bob=NoiseTransport(EVE))
    assert f"{EVE.peer_id} answered where {BOB.peer_id} was expected" in cause(alice)
    assert "closed the connection during" in cause(eve)


@each_wire
async def test_a_member_with_another_key_is_refused_on_both_sides(connect):
    raws = connect()
    alice, bob = await secure(raws, alice=NoiseTransport(ALICE, SECRET), bob=NoiseTransport(BOB, b"o" * 32))
    assert "may have another hive key" in cause(alice)
    assert "does not have this hive's key" in cause(bob)


@pytest.mark.parametrize("secret", [None, SECRET])
def test_a_private_hive_speaks_a_protocol_of_its_own(secret):
    assert NoiseTransport(ALICE, secret).protocol == (PROTOCOL if secret is None else PRIVATE_PROTOCOL)


async def test_a_dialler_that_says_nothing_is_given_up(autojump_clock):
    silent, raw = in_memory()
    with pytest.raises(HandshakeFailure, match="took longer than 10 s") as caught:
        await NoiseTransport(BOB).secure_inbound(raw)
    assert isinstance(caught.value.__cause__, HandshakeError)
    assert trio.current_time() >= HANDSHAKE_TIMEOUT
    assert raw.stream.closed
    await silent.close()


@each_wire
async def test_garbage_is_refused(connect):
    eve, raw = connect()
    await eve.write(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(HandshakeFailure, match="a message of 18245 bytes in the Noise handshake"):
        await NoiseTransport(BOB).secure_inbound(raw)
    assert await ends(eve)
    await eve.close()


@each_wire
async def test_a_cancelled_handshake_closes_the_connection(connect):
    raws = connect()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(NoiseTransport(ALICE).secure_outbound, raws[0], ID.from_base58(BOB.peer_id))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert len(await raws[1].read(100)) == 34  # the first message, and then the end
    assert await ends(raws[1])
    await raws[1].close()


# -- trouble -----------------------------------------------------------------------------------------------------------


async def forged(bob_raw, eve_sends):
    """A connection over which `eve_sends` came behind the handshake."""
    alice, bob = await secure(bob_raw)
    await bob_raw[0].write(eve_sends)
    return alice, bob


@each_wire
@pytest.mark.parametrize("forgery", [b"\x00\x20" + bytes(32), b"\x00\x05hello"], ids=["tag", "length"])
async def test_a_forged_packet_breaks_the_connection(connect, forgery):
    raws = connect()
    alice, bob = await forged(raws, forgery)
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match=f"peer {ALICE.peer_id} sent what it cannot have encrypted"):
            await bob.receive()
    with pytest.raises(trio.BrokenResourceError, match="cannot have encrypted"):
        await bob.send([b"x"])
    with pytest.raises(ConnectionClosedError, match="cannot have encrypted"):
        await bob.read(1)
    await close(alice, bob)


@each_wire
async def test_an_end_inside_a_packet_is_no_end(connect):
    raws = connect()
    alice, bob = await forged(raws, b"\x00\x20" + bytes(10))
    await alice.close()
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="in the middle of a packet"):
            await bob.receive()
    await close(bob)


@each_wire
async def test_a_cancelled_receive_loses_nothing(connect):
    raws = connect()
    alice, bob = await secure(raws)
    received = bytearray()
    for number in range(100):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def receive():
                    received.extend(await bob.receive())

                nursery.start_soon(receive)
                if number % 3 == 0:
                    scope.cancel()
                await alice.send([bytes([number])])
                if number % 3 == 1:
                    scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    await alice.close()
    while data := await bob.receive():
        received += data
    assert received == bytes(number for number in range(100) if number % 3 != 0)
    await close(bob)


async def test_a_send_cancelled_before_it_began_harms_nothing():
    alice, bob = await secure(on_sockets())
    with trio.CancelScope() as scope:
        scope.cancel()
        await alice.send([b"never"])
    assert scope.cancelled_caught
    await alice.send([b"but this"])
    assert await bob.receive() == b"but this"
    await close(alice, bob)


@each_wire
async def test_a_send_that_is_cut_off_breaks_the_connection(connect):
    raws = connect()
    alice, bob = await secure(raws)
    if connect is in_memory:
        raws[0].stream.stream.send_stream.send_all_hook = trio.sleep_forever  # full
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.send, [bytes(32 << 20)])
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    with pytest.raises(trio.BrokenResourceError, match=f"sending to {BOB.peer_id} was cut off"):
        await alice.send([b"more"])
    with pytest.raises(trio.BrokenResourceError, match="was cut off"):
        await alice.receive()
    await close(alice, bob)


async def test_one_task_sends_at_a_time():
    alice, bob = await secure(on_sockets())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alice.send, [bytes(32 << 20)])
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await alice.send([b"me too"])
        assert len(await receive_all(bob, 32 << 20)) == 32 << 20
    await alice.send([b"now"])
    assert await bob.receive() == b"now"
    await close(alice, bob)


async def test_sending_without_waiting():
    alice, bob = await secure(on_sockets())
    assert alice.send_now([b"small"])
    assert alice.send_now([])
    assert await bob.receive() == b"small"
    await close(alice, bob)


@each_wire
async def test_what_did_not_fit_is_sent_later_and_nothing_overtakes_it(connect):
    raws = connect()
    alice, bob = await secure(raws)
    memory = bytearray(DATA)
    assert not alice.send_now([memory] * 8)
    memory[:] = bytes(len(memory))  # the caller's again
    with pytest.raises(trio.BusyResourceError):
        alice.send_now([b"overtaking"])
    with pytest.raises(trio.BusyResourceError):
        await alice.send([b"overtaking"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alice.drain)
        assert await receive_all(bob, 8 * len(DATA)) == DATA * 8
    await alice.drain()
    await alice.send([b"after"])
    assert await bob.receive() == b"after"
    await close(alice, bob)


async def test_a_drain_that_is_cut_off_breaks_the_connection():
    alice, bob = await secure(on_sockets())
    assert not alice.send_now([DATA] * 32)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.drain)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    with pytest.raises(trio.BrokenResourceError, match="was cut off"):
        alice.send_now([b"more"])
    with pytest.raises(trio.BrokenResourceError, match="was cut off"):
        await alice.drain()
    await close(alice, bob)


async def test_nothing_is_sent_on_a_closed_connection():
    alice, bob = await secure(on_sockets())
    await close(alice)
    with pytest.raises(trio.ClosedResourceError):
        alice.send_now([b"x"])
    await bob.receive()
    with pytest.raises(trio.BrokenResourceError, match="broke"):
        bob.send_now([b"x"])
    await close(bob)


@each_wire
@pytest.mark.parametrize("how", ["close", "cut"])
async def test_closing_wakes_whoever_waits(connect, how):
    raws = connect()
    alice, bob = await secure(raws)

    async def wait():
        with pytest.raises(trio.ClosedResourceError):
            await alice.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        if how == "cut":
            alice.cut()
        else:
            await alice.close()
    with pytest.raises(trio.ClosedResourceError):
        await alice.receive()
    with pytest.raises(trio.ClosedResourceError):
        await alice.send([b"x"])
    await close(alice, alice, bob)


async def test_a_connection_that_is_reset_is_broken():
    raws = on_sockets()
    alice, bob = await secure(raws)
    await bob.close()
    with pytest.raises(trio.BrokenResourceError, match=f"connection with {BOB.peer_id} broke"):
        await alice.send([DATA] * 32)  # more than a socket takes when nobody reads
    with pytest.raises(trio.BrokenResourceError):
        await alice.receive()
    await close(alice)


async def test_connections_of_one_host_share_their_memory_and_not_their_bytes():
    host = NoiseTransport(BOB)
    pairs = [await secure(on_sockets(), bob=host) for _ in range(5)]
    async with trio.open_nursery() as nursery:
        for number, (alice, _) in enumerate(pairs):
            nursery.start_soon(alice.send, [bytes([number]) * 200_000])
        for number, (_, bob) in enumerate(pairs):
            assert await receive_all(bob, 200_000) == bytes([number]) * 200_000
    assert len(host._rooms._spare) <= wires.SPARE_ROOMS
    for pair in pairs:
        await close(*pair)


async def test_sockets_that_are_no_files_are_read_as_streams(monkeypatch):
    monkeypatch.delattr(os, "readv")
    alice, bob = await secure(on_sockets())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alice.send, [DATA])
        assert await receive_all(bob, len(DATA)) == DATA
    await close(alice, bob)
