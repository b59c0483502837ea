"""What do the hive's channels cost, beside plain TCP? Two processes on loopback, the same exchange over both.

A channel is framed messages over libp2p: TCP, Noise (encryption), Yamux (streams), our framing. Plain TCP is trio's
`SocketStream` with a length before the bytes.
"""

from __future__ import annotations

import multiprocessing
import struct
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any

import trio
from _harness import Figures, Options, median, run

PROTOCOL = "/hivemind/benchmark/1"
LISTEN = ("/ip4/127.0.0.1/tcp/0",)
MIB = 1 << 20
MOST = 2 * MIB
LENGTH = struct.Struct(">I")
_SPAWN = multiprocessing.get_context("spawn")

Call = Callable[[bytes, bool], Awaitable[None]]
"""Sends a message and, if told so, waits until it has come back."""


def measure(options: Options) -> Figures:
    """The same exchange over a channel and over plain TCP."""
    figures = Figures()
    found: dict[str, dict[str, float]] = {}
    for name, client, server in (("channel", _channel_client, serve_channel), ("plain TCP", _tcp_client, serve_tcp)):
        here, there = _SPAWN.Pipe()
        process = _SPAWN.Process(target=server, args=(there,))
        process.start()
        found[name] = trio.run(client, here.recv(), options)
        here.send("done")
        process.join()
        figures.row(f"{name}: round trip of 1 KiB, p50", 1e6 * found[name]["1 KiB"], "us")
        figures.row(f"{name}: round trip of 64 KiB, p50", 1e6 * found[name]["64 KiB"], "us")
        figures.row(f"{name}: messages of 1 MiB", found[name]["MiB/s"], "MiB/s")
    ours, plain = found["channel"], found["plain TCP"]
    figures.claim("round trip of 1 KiB, channel : plain TCP", ours["1 KiB"] / plain["1 KiB"], "times")
    figures.claim("round trip of 64 KiB, channel : plain TCP", ours["64 KiB"] / plain["64 KiB"], "times")
    figures.claim("MiB/s at 1 MiB, plain TCP : channel", plain["MiB/s"] / ours["MiB/s"], "times")
    return figures


async def _exchange(call: Call, options: Options) -> dict[str, float]:
    for _ in range(50):
        await call(bytes(1024), True)
    found = {}
    for name, size in (("1 KiB", 1024), ("64 KiB", 65536)):
        times = []
        for _ in range(options.pick(full=1000, quick=200)):
            started = time.perf_counter()
            await call(bytes(size), True)
            times.append(time.perf_counter() - started)
        found[name] = median(times)
    megabytes = options.pick(full=200, quick=40)
    started = time.perf_counter()
    for _ in range(megabytes):
        await call(bytes(MIB), False)
    await call(b"", True)  # comes back once all before it has arrived
    found["MiB/s"] = megabytes / (time.perf_counter() - started)
    return found


# -- our channels ------------------------------------------------------------------------------------------------------


async def _channel_client(address: tuple[Any, Any], options: Options) -> dict[str, float]:
    from hivemind_p2p.identity import Identity
    from hivemind_p2p.net.router import Router
    from hivemind_p2p.net.transport import open_transport
    from hivemind_p2p.proto.common_pb2 import Failure
    from hivemind_p2p.types import PeerInfo

    async with open_transport(Identity.generate(), LISTEN) as transport, trio.open_nursery() as nursery:
        router = Router(transport, nursery)
        router.learn(PeerInfo(*address))
        channel = await router.open(address[0], PROTOCOL)

        async def call(payload: bytes, wait: bool) -> None:
            await channel.send(Failure(code="back" if wait else ""), payload)
            if wait:
                await channel.receive(Failure, max_payload=MOST)

        found = await _exchange(call, options)
        await channel.aclose()
        nursery.cancel_scope.cancel()
    return found


def serve_channel(pipe: Connection) -> None:
    """Sends back what asks for it, until told to end."""
    trio.run(_serve_channel, pipe)


async def _serve_channel(pipe: Connection) -> None:
    from hivemind_p2p.errors import StreamClosedError
    from hivemind_p2p.identity import Identity
    from hivemind_p2p.interfaces import Channel
    from hivemind_p2p.net.router import Router
    from hivemind_p2p.net.transport import open_transport
    from hivemind_p2p.proto.common_pb2 import Failure

    async def echo(channel: Channel) -> None:
        try:
            while True:
                header, payload = await channel.receive(Failure, max_payload=MOST)
                if header.code:
                    await channel.send(header, payload)
        except StreamClosedError:
            return

    async with open_transport(Identity.generate(), LISTEN) as transport, trio.open_nursery() as nursery:
        Router(transport, nursery).serve(PROTOCOL, echo)
        pipe.send((transport.peer_id, transport.addresses))
        await trio.to_thread.run_sync(pipe.recv)
        nursery.cancel_scope.cancel()


# -- plain TCP ---------------------------------------------------------------------------------------------------------


async def _tcp_client(port: int, options: Options) -> dict[str, float]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)

    async def call(payload: bytes, wait: bool) -> None:
        await stream.send_all(LENGTH.pack(len(payload) << 1 | wait) + payload)
        if wait:
            await _read(stream, LENGTH.unpack(await _read(stream, LENGTH.size))[0])

    async with stream:
        return await _exchange(call, options)


def serve_tcp(pipe: Connection) -> None:
    """The same over a socket."""
    trio.run(_serve_tcp, pipe)


async def _serve_tcp(pipe: Connection) -> None:
    async def echo(stream: trio.SocketStream) -> None:
        while start := await stream.receive_some(LENGTH.size):
            start += await _read(stream, LENGTH.size - len(start))
            number = LENGTH.unpack(start)[0]
            payload = await _read(stream, number >> 1)
            if number & 1:
                await stream.send_all(LENGTH.pack(len(payload)) + payload)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo, 0)
        pipe.send(listeners[0].socket.getsockname()[1])
        await trio.to_thread.run_sync(pipe.recv)
        nursery.cancel_scope.cancel()


async def _read(stream: trio.SocketStream, length: int) -> bytearray:
    data = bytearray()
    while len(data) < length:
        chunk = await stream.receive_some(length - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data


if __name__ == "__main__":
    run(__doc__, measure)
