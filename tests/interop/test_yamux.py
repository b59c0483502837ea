"""Our Yamux and libp2p's own, over TCP and in both directions: much at once, half-closed, reset, many, slow."""

from contextlib import asynccontextmanager

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from hivemind_p2p.identity import Identity
from hivemind_p2p.net.muxed_connection import MuxedConnection
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.types import PeerInfo

PROTOCOL = "/test/yamux/1"
ALICE, STOCK = Identity(b"a" * 32), Identity(b"s" * 32)
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
PATIENCE = 30
KIB, MIB = 1 << 10, 1 << 20
MUCH = bytes(range(256)) * (3 * MIB // 256)
WRITE = 256 * KIB


class StockStream:
    """libp2p's own stream, with our names; it cannot be told to write more than 5 s of a slow reader."""

    def __init__(self, stream):
        self.stream = stream

    async def send_all(self, data):
        for start in range(0, len(data), WRITE):
            await self.stream.write(data[start : start + WRITE])

    async def receive_some(self, most=64 * KIB):
        try:
            return await self.stream.read(most)
        except StreamEOF:
            return b""
        except (StreamError, MuxedStreamError) as error:
            raise trio.BrokenResourceError from error

    async def send_eof(self):
        await self.stream.close_write() if hasattr(
            self.stream, "close_write"
        ) else await self.stream.muxed_stream.close()

    async def aclose(self):
        await self.stream.close()

    async def abort(self):
        await self.stream.reset()


class OurStream:
    def __init__(self, stream):
        self.stream = stream
        self.send_all, self.receive_some = stream.send_all, stream.receive_some
        self.send_eof, self.aclose = stream.send_eof, stream.aclose

    async def abort(self):
        self.stream.abort()
        await trio.lowlevel.checkpoint()


class Caller:
    """Whoever calls, `open`s streams; what is called, handles them with what `answer` was set to."""

    def __init__(self, open_stream):
        self.open = open_stream
        self.answer = None
        self.failed = []


@asynccontextmanager
async def a_caller(we_call):
    """A stock host and our transport; one calls the other."""
    keys = create_new_key_pair(STOCK.seed)
    host = new_host(key_pair=keys, connection_config=ConnectionConfig(max_connections_per_peer=1))
    async with open_transport(ALICE, [LOOPBACK]) as ours, host.run([Multiaddr(LOOPBACK)]):
        place = str(host.get_addrs()[0]).partition("/p2p/")[0]

        async def we_open():
            return OurStream(await ours.open_stream(STOCK.peer_id, PROTOCOL))

        async def stock_opens():
            return StockStream(await host.new_stream(ID.from_base58(ALICE.peer_id), [TProtocol(PROTOCOL)]))

        caller = Caller(we_open if we_call else stock_opens)

        async def we_answer(stream):
            await caller.answer(OurStream(stream))

        async def stock_answers(stream):
            await caller.answer(StockStream(stream))

        ours.set_handler(PROTOCOL, we_answer)
        host.set_stream_handler(TProtocol(PROTOCOL), stock_answers)
        if we_call:
            ours.learn(PeerInfo(STOCK.peer_id, (place,)))
        else:
            await host.connect(info_from_p2p_addr(Multiaddr(f"{ours.addresses[0]}/p2p/{ALICE.peer_id}")))
        with trio.fail_after(PATIENCE):
            yield caller
            (theirs,) = host.get_network().get_connections()
            assert type(theirs.muxed_conn) is Yamux
            (mine,) = ours._swarm.get_connections()
            assert type(mine.muxed_conn) is MuxedConnection
            assert not mine.muxed_conn.failure
        await host.close()


each_direction = pytest.mark.parametrize("we_call", [True, False], ids=["we call", "stock calls"])


async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.aclose()


async def ends(stream, *, as_reset):
    """Whether a reset is seen. A reader of libp2p's own that waits at that moment sees an end."""
    try:
        return not await stream.receive_some() and not as_reset
    except trio.BrokenResourceError:
        return True


async def receive_all(stream):
    received = bytearray()
    while data := await stream.receive_some():
        received += data
    return bytes(received)


@each_direction
async def test_much_goes_both_ways_at_once(we_call):
    async with a_caller(we_call) as caller:
        caller.answer = echo
        stream = await caller.open()

        async def send():
            await stream.send_all(MUCH)
            await stream.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await receive_all(stream) == MUCH
        await stream.aclose()


@each_direction
async def test_an_end_leaves_the_other_direction_open(we_call):
    async with a_caller(we_call) as caller:

        async def answer(stream):
            question = await receive_all(stream)
            await stream.send_all(question[::-1])
            await stream.send_eof()

        caller.answer = answer
        stream = await caller.open()
        await stream.send_all(b"question")
        await stream.send_eof()
        assert await receive_all(stream) == b"noitseuq"
        await stream.aclose()


@each_direction
async def test_a_stream_that_is_only_read_is_seen_to_end(we_call):
    async with a_caller(we_call) as caller:

        async def answer(stream):
            await receive_all(stream)
            await stream.aclose()

        caller.answer = answer
        stream = await caller.open()
        await stream.send_all(b"take this")
        await stream.send_eof()
        assert await receive_all(stream) == b""
        await stream.aclose()


@each_direction
async def test_a_reset_is_seen_and_costs_one_stream(we_call):
    async with a_caller(we_call) as caller:

        async def answer(stream):
            if await stream.receive_some() == b"reset":
                await stream.abort()
            else:
                await stream.send_all(b"still here")

        caller.answer = answer
        stream = await caller.open()
        await stream.send_all(b"reset")
        assert await ends(stream, as_reset=we_call)
        await stream.aclose()
        another = await caller.open()
        await another.send_all(b"?")
        assert await another.receive_some() == b"still here"


@each_direction
async def test_the_callers_reset_is_seen_by_the_other_side(we_call):
    async with a_caller(we_call) as caller:
        seen = trio.Event()

        async def answer(stream):
            assert await stream.receive_some() == b"?"
            await stream.send_all(b"!")
            assert await ends(stream, as_reset=not we_call)
            seen.set()

        caller.answer = answer
        stream = await caller.open()
        await stream.send_all(b"?")
        assert await stream.receive_some() == b"!"
        await stream.abort()
        await seen.wait()


@each_direction
async def test_fifty_streams_at_once(we_call):
    async with a_caller(we_call) as caller:
        caller.answer = echo
        done = []

        async def call(number):
            stream = await caller.open()
            data = number.to_bytes(2, "big") * (10 * KIB + number)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, data)
                received = bytearray()
                while len(received) < len(data):
                    received += await stream.receive_some()
            assert received == data
            await stream.aclose()
            done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(call, number)
        assert sorted(done) == list(range(50))


@each_direction
async def test_a_slow_reader_gets_everything_and_holds_nobody_up(we_call):
    """Stock gives up on a writer that waits longer than 5 s, so this reader is not slower than that."""
    async with a_caller(we_call) as caller:
        received = bytearray()
        slow, done = trio.Event(), trio.Event()

        async def answer(stream):
            if await stream.receive_some(4) != b"slow":
                await stream.send_all(b"quick")
                return
            slow.set()
            while data := await stream.receive_some(16 * KIB):
                received.extend(data)
                await trio.sleep(0.002)
            done.set()

        caller.answer = answer
        stream = await caller.open()
        async with trio.open_nursery() as nursery:

            async def send():
                await stream.send_all(b"slow" + MUCH[:MIB])
                await stream.send_eof()

            nursery.start_soon(send)
            await slow.wait()
            quick = await caller.open()
            await quick.send_all(b"fast")
            assert await quick.receive_some() == b"quick"
        await done.wait()
        assert received == MUCH[:MIB]


async def test_a_stock_client_that_reads_nothing_is_waited_for():
    """Our writer waits for the window, however long; stock's own would give up. Stock grants 16 MiB unasked."""
    async with a_caller(False) as caller:
        sent = trio.Event()

        async def answer(stream):
            await stream.receive_some()
            for _ in range(6):
                await stream.send_all(MUCH)
            await stream.aclose()
            sent.set()

        caller.answer = answer
        stream = await caller.open()
        await stream.send_all(b"?")
        await trio.sleep(0.3)
        assert not sent.is_set()
        assert await receive_all(stream) == 6 * MUCH
