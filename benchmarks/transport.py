"""What does the hive's transport cost, beside plain TCP and beside libp2p as shipped? Two processes on loopback.

Four stacks do the same, in turns, several times, so that a noisy machine is as noisy for each of them:

    plain TCP   trio's `SocketStream`
    stock       libp2p's own host over TCP with its own Noise and Yamux
    ours        a stream of our transport: the same protocols on the wire, our own Noise and Yamux
    channel     framed messages over such a stream, which is what the services use

A round trip sends a message and waits for it to come back. A new stream is opened, says one byte, and hears one; for
plain TCP that is a new connection. A dial is a connection with everything that belongs to it.

Server and client have a core each, the same two for all stacks, where there are two: whether both happen to share one
turns the ratios around more than anything that is measured.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import trio
from _harness import Figures, Options, median, run

PROTOCOL = "/hivemind/benchmark/1"
LISTEN = "/ip4/127.0.0.1/tcp/0"
KIB, MIB = 1 << 10, 1 << 20
HEADER = struct.Struct(">IB")
_SPAWN = multiprocessing.get_context("spawn")
_STACKS = ("plain TCP", "stock", "ours", "channel")
_WHAT = {
    "MiB/s": ("1 MiB writes", "MiB/s"),
    "1 KiB": ("round trip of 1 KiB", "us"),
    "64 KiB": ("round trip of 64 KiB", "us"),
    "1 MiB": ("round trip of 1 MiB", "us"),
    "stream": ("new stream", "us"),
    "dial": ("dial", "us"),
}


class Wire(Protocol):
    """What the four have in common."""

    async def send(self, data: bytes) -> None:
        """Sends all."""

    async def receive(self, length: int) -> Any:
        """Exactly so many bytes."""

    async def close(self) -> None:
        """Ends it."""


@dataclass
class Dialled:
    """A client of one server.

    Attributes:
        open: Opens a wire.
        hang_up: Ends the connection, if the stack has one besides its wires.
        dial: Connects anew.
    """

    open: Callable[[], Awaitable[Wire]]
    hang_up: Callable[[], Awaitable[None]]
    dial: Callable[[], Awaitable[None]]


def measure(options: Options) -> Figures:
    """All stacks in turns."""
    pairs = {name: _Pair(name) for name in _STACKS}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in _STACKS}
    try:
        for _ in range(options.pick(full=5, quick=2)):
            for name, pair in pairs.items():
                rounds[name].append(pair.measure(options.quick))
    finally:
        for pair in pairs.values():
            pair.close()
    found = {
        name: {what: median([figures[what] for figures in several]) for what in _WHAT}
        for name, several in rounds.items()
    }
    return _figures(found)


def _figures(found: dict[str, dict[str, float]]) -> Figures:
    figures = Figures()
    for what, (words, unit) in _WHAT.items():
        for name in _STACKS:
            figures.row(f"{words}, {name}", found[name][what] * (1 if unit == "MiB/s" else 1e6), unit)
    plain, stock, ours, channel = (found[name] for name in _STACKS)
    figures.claim("throughput, ours : plain TCP", ours["MiB/s"] / plain["MiB/s"], "times", at_least=0.30)
    figures.claim("throughput, ours : stock", ours["MiB/s"] / stock["MiB/s"], "times", at_least=3.5)
    figures.claim("throughput, channel : plain TCP", channel["MiB/s"] / plain["MiB/s"], "times")
    figures.claim("round trip of 1 KiB, ours : plain TCP", ours["1 KiB"] / plain["1 KiB"], "times", at_most=2.5)
    figures.claim("round trip of 1 KiB, stock : plain TCP", stock["1 KiB"] / plain["1 KiB"], "times")
    figures.claim("round trip of 1 KiB, channel : plain TCP", channel["1 KiB"] / plain["1 KiB"], "times")
    figures.claim("new stream, ours", 1000 * ours["stream"], "ms", at_most=1.2)
    figures.claim("dial, ours", 1000 * ours["dial"], "ms", at_most=15.0)
    return figures


# -- the exchange, the same for all ------------------------------------------------------------------------------------


async def _exchange(client: Dialled, quick: bool) -> dict[str, float]:
    wire = await client.open()
    found = {}
    for name, size, times in (("1 KiB", KIB, 400), ("64 KiB", 64 * KIB, 200), ("1 MiB", MIB, 20)):
        found[name] = await _median_time(lambda data=bytes(size): _call(wire, data), times // (4 if quick else 1))
    megabytes = 40 if quick else 150
    block = bytes(MIB)
    started = time.perf_counter()
    for _ in range(megabytes):
        await _tell(wire, block, back=False)
    await _call(wire, b"!")  # comes back once all before it has arrived
    found["MiB/s"] = megabytes / (time.perf_counter() - started)
    await wire.close()

    async def new_stream() -> None:
        another = await client.open()
        await _call(another, b"!")
        await another.close()

    found["stream"] = await _median_time(new_stream, 25 if quick else 100)
    found["dial"] = await _median_time(client.dial, 5 if quick else 15, before=client.hang_up)
    return found


async def _median_time(
    call: Callable[[], Awaitable[None]], times: int, before: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
) -> float:
    for _ in range(max(3, times // 10)):
        await before()
        await call()
    found = []
    for _ in range(times):
        await before()
        started = time.perf_counter()
        await call()
        found.append(time.perf_counter() - started)
    return median(found)


async def _call(wire: Wire, data: bytes) -> None:
    await _tell(wire, data, back=True)
    await wire.receive(len(data))


async def _tell(wire: Wire, data: bytes, *, back: bool) -> None:
    if len(data) <= 64 * KIB:
        await wire.send(HEADER.pack(len(data), back) + data)
        return
    await wire.send(HEADER.pack(len(data), back))
    await wire.send(data)


async def _echo(wire: Wire) -> None:
    """Sends back what asks for it, until the end."""
    while True:
        try:
            length, back = HEADER.unpack(bytes(await wire.receive(HEADER.size)))
        except EOFError:
            return
        data = await wire.receive(length)
        if back:
            await wire.send(data)


class _Pair:
    """A server and a client of one stack, in processes of their own."""

    def __init__(self, name: str) -> None:
        self._pipes, self._processes = [], []
        address = None
        for role in (serve, ask):
            here, there = _SPAWN.Pipe()
            process = _SPAWN.Process(target=role, args=(name, there, address), daemon=True)
            process.start()
            there.close()  # or a child that fails would be waited for for ever
            self._pipes.append(here)
            self._processes.append(process)
            address = here.recv()

    def measure(self, quick: bool) -> dict[str, float]:
        self._pipes[1].send(quick)
        found: dict[str, float] = self._pipes[1].recv()
        return found

    def close(self) -> None:
        for pipe, process in reversed(list(zip(self._pipes, self._processes, strict=True))):
            pipe.send(None)
            process.join()


def serve(name: str, pipe: Connection, _: object) -> None:
    """Serves one stack until told to end."""
    _take_core(0)

    async def main() -> None:
        async with _SERVERS[name]() as address:
            pipe.send(address)
            await trio.to_thread.run_sync(pipe.recv)

    trio.run(main)


def _take_core(number: int) -> None:
    """Stays on one of the cores that this process may use, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


def ask(name: str, pipe: Connection, address: Any) -> None:
    """Measures one stack each time that it is told to."""
    _take_core(1)

    async def main() -> None:
        async with _CLIENTS[name](address) as client:
            pipe.send("ready")
            while (quick := await trio.to_thread.run_sync(pipe.recv)) is not None:
                pipe.send(await _exchange(client, quick))

    trio.run(main)


# -- plain TCP ---------------------------------------------------------------------------------------------------------


class _Plain:
    """Any trio stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.send = stream.send_all
        self.close = stream.aclose

    async def receive(self, length: int) -> bytearray:
        data = bytearray()
        while len(data) < length:
            chunk = await self._stream.receive_some(length - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data


@asynccontextmanager
async def _serve_plain() -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, lambda stream: _echo(_Plain(stream)), 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _plain(port: int) -> AsyncIterator[Dialled]:
    async def open_wire() -> Wire:
        return _Plain(await trio.open_tcp_stream("127.0.0.1", port))

    async def dial() -> None:
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()

    yield Dialled(open_wire, trio.lowlevel.checkpoint, dial)


# -- libp2p as shipped -------------------------------------------------------------------------------------------------


class _Stock:
    """A stream of libp2p's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.close = stream.close

    async def send(self, data: bytes) -> None:
        await self._stream.write(bytes(data))

    async def receive(self, length: int) -> bytearray:
        from libp2p.network.stream.exceptions import StreamEOF

        data = bytearray()
        while len(data) < length:
            try:
                chunk = await self._stream.read(length - len(data))
            except StreamEOF as error:
                raise EOFError from error
            if not chunk:
                raise EOFError
            data += chunk
        return data


@asynccontextmanager
async def _stock_host(listen: str | None) -> AsyncIterator[Any]:
    import libp2p
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
    from libp2p.network.config import ConnectionConfig
    from libp2p.security.noise.transport import PROTOCOL_ID, Transport
    from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
    from multiaddr import Multiaddr

    from hivemind_p2p.identity import Identity

    keys = create_new_key_pair(Identity.generate().seed)
    host = libp2p.new_host(
        key_pair=keys,
        sec_opt={PROTOCOL_ID: Transport(keys, noise_privkey=create_noise_key_pair().private_key)},
        muxer_opt={YAMUX: libp2p.create_yamux_muxer_option()[YAMUX]},
        connection_config=ConnectionConfig(max_connections_per_peer=1),  # more of them cost 250 ms a dial
    )
    async with host.run([Multiaddr(listen)] if listen else []):
        yield host


@asynccontextmanager
async def _serve_stock() -> AsyncIterator[tuple[str, str]]:
    async with _stock_host(LISTEN) as host:

        async def handle(stream: Any) -> None:
            try:
                await _echo(_Stock(stream))
            finally:
                await stream.close()

        host.set_stream_handler(PROTOCOL, handle)
        yield host.get_id().to_base58(), str(host.get_addrs()[0])


@asynccontextmanager
async def _stock(address: tuple[str, str]) -> AsyncIterator[Dialled]:
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    peer = info_from_p2p_addr(Multiaddr(address[1]))
    async with _stock_host(None) as host:

        async def open_wire() -> Wire:
            return _Stock(await host.new_stream(peer.peer_id, [PROTOCOL]))

        await host.connect(peer)
        yield Dialled(open_wire, lambda: host.disconnect(peer.peer_id), lambda: host.connect(peer))


# -- ours --------------------------------------------------------------------------------------------------------------


class _Ours:
    """A stream of our transport: one that can read straight into the buffer that a message is to lie in."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.send = stream.send_all
        self.close = stream.aclose

    async def receive(self, length: int) -> memoryview:
        view = memoryview(bytearray(length))
        filled = 0
        while filled < length:
            count = await self._stream.receive_into(view[filled:])
            if not count:
                raise EOFError
            filled += count
        return view


@asynccontextmanager
async def _serve_ours() -> AsyncIterator[tuple[Any, Any]]:
    from hivemind_p2p.identity import Identity
    from hivemind_p2p.net.transport import open_transport

    async def handle(stream: Any) -> None:
        await _echo(_Ours(stream))
        await stream.aclose()

    async with open_transport(Identity.generate(), [LISTEN]) as transport:
        transport.set_handler(PROTOCOL, handle)
        yield transport.peer_id, transport.addresses


@asynccontextmanager
async def _ours(address: tuple[Any, Any]) -> AsyncIterator[Dialled]:
    from hivemind_p2p.identity import Identity
    from hivemind_p2p.net.transport import open_transport
    from hivemind_p2p.types import PeerInfo

    async with open_transport(Identity.generate(), []) as transport:
        transport.learn(PeerInfo(*address))

        async def open_wire() -> Wire:
            return _Ours(await transport.open_stream(address[0], PROTOCOL))

        yield Dialled(open_wire, lambda: transport.disconnect(address[0]), lambda: transport.connect(address[0]))


# -- channels over ours ------------------------------------------------------------------------------------------------


class _Channel:
    """Messages: what is sent at once arrives at once, so the exchange's own header is told from its data by order."""

    def __init__(self, channel: Any) -> None:
        from hivemind_p2p.proto.common_pb2 import Failure

        self._channel = channel
        self._kind = Failure
        self._unread = memoryview(b"")
        self.close = channel.aclose

    async def send(self, data: bytes) -> None:
        await self._channel.send(self._kind(), data)

    async def receive(self, length: int) -> memoryview:
        from hivemind_p2p.errors import StreamClosedError

        if not len(self._unread):
            try:
                _, self._unread = await self._channel.receive(self._kind, max_payload=2 * MIB)
            except StreamClosedError as error:
                raise EOFError from error
        taken, self._unread = self._unread[:length], self._unread[length:]
        return taken


@asynccontextmanager
async def _serve_channel() -> AsyncIterator[tuple[Any, Any]]:
    from hivemind_p2p.identity import Identity
    from hivemind_p2p.net.router import Router
    from hivemind_p2p.net.transport import open_transport

    async with open_transport(Identity.generate(), [LISTEN]) as transport, trio.open_nursery() as nursery:
        Router(transport, nursery).serve(PROTOCOL, lambda channel: _echo(_Channel(channel)))
        yield transport.peer_id, transport.addresses
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _channel(address: tuple[Any, Any]) -> AsyncIterator[Dialled]:
    from hivemind_p2p.identity import Identity
    from hivemind_p2p.net.router import Router
    from hivemind_p2p.net.transport import open_transport
    from hivemind_p2p.types import PeerInfo

    async with open_transport(Identity.generate(), []) as transport, trio.open_nursery() as nursery:
        router = Router(transport, nursery)
        router.learn(PeerInfo(*address))

        async def open_wire() -> Wire:
            return _Channel(await router.open(address[0], PROTOCOL))

        yield Dialled(open_wire, lambda: transport.disconnect(address[0]), lambda: transport.connect(address[0]))
        nursery.cancel_scope.cancel()


_SERVERS = {"plain TCP": _serve_plain, "stock": _serve_stock, "ours": _serve_ours, "channel": _serve_channel}
_CLIENTS: dict[str, Callable[[Any], AbstractAsyncContextManager[Dialled]]] = {
    "plain TCP": _plain,
    "stock": _stock,
    "ours": _ours,
    "channel": _channel,
}

if __name__ == "__main__":
    run(__doc__, measure)
