"""A peer among strangers: garbage in every layer, idle connections by the hundred, and one byte a second.

It answers or closes, logs a few lines, holds its memory, and serves a proper peer meanwhile and afterwards.
"""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import trio

from hivemind_p2p.identity import Identity
from hivemind_p2p.net.noise_packets import LENGTH_BYTES
from hivemind_p2p.net.router import Router
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.proto.common_pb2 import Signed
from hivemind_p2p.types import PeerInfo
from tests.interop.bad_input_peer import PROTOCOL
from tests.interop.stranger import (
    BROKEN,
    MULTISTREAM,
    Streams,
    a_stranger,
    messages,
    mutated,
    negotiations,
    yamux_frames,
)

VICTIM = Identity(b"v" * 32).peer_id
SCRIPT = Path(__file__).parent / "bad_input_peer.py"
ROOT = Path(__file__).parent.parent.parent
MIB = 1 << 20

LEAST_FRAMES = 100_000
GARBAGE_CONNECTIONS = 1000
IDLE_CONNECTIONS = 400
SLOW_WRITERS = 20
AT_ONCE = 16
MOST_GROWTH = 96 * MIB
"""What the peer's memory may grow by, from when it has met each kind of stranger once."""
MOST_LINES = 12
"""Lines that it may log: one a minute of each kind of trouble."""
PATIENCE = 100.0


class Siege:
    """All that is done to the peer, and what came of it."""

    def __init__(self, place, process):
        self.place = place
        self.process = process
        self.frames = Counter()
        self.connections = Counter()
        self.calls = []
        self.most_memory = 0

    def memory(self):
        now = self.process.memory_info().rss
        self.most_memory = max(self.most_memory, now)
        return now

    async def many(self, attack, connections, amount):
        """The same attack on so many connections, several at a time."""
        numbers = iter(range(connections))

        async def work():
            for number in numbers:
                chance = random.Random(f"{attack.__name__} {number} {connections}")
                self.connections[attack.__name__] += 1
                try:
                    async with a_stranger(self.place, chance, victim=VICTIM) as stranger:
                        await attack(stranger, chance, amount)
                except BROKEN:
                    pass  # it was cut while it spoke
                self.frames[attack.__name__] += amount

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(work)
        self.memory()


async def raw(stranger, chance, amount):
    """Nothing that is a protocol."""
    for _ in range(amount):
        await stranger.send(chance.randbytes(chance.randrange(1, 4000)))
    await stranger.stream.send_eof()  # or some of it reads as the beginning of a line, which is waited for
    await stranger.listen()


async def greeting(stranger, chance, amount):
    """Almost what libp2p says first, or a protocol that does not exist."""
    for _ in range(amount):
        good = b"\x13" + MULTISTREAM.encode() + b"\n\x07/noise\n"
        await stranger.send(mutated(chance, good, one_in=1) if chance.randrange(2) else good + chance.randbytes(500))
    await stranger.stream.send_eof()
    await stranger.listen()


async def packets(stranger, chance, amount):
    """After a proper handshake, packets that it never encrypted."""
    await stranger.be_somebody()
    for _ in range(amount):
        size = chance.randrange(600)
        await stranger.stream.send_all(size.to_bytes(LENGTH_BYTES, "big") + chance.randbytes(size))
    await stranger.listen()


async def muxing(stranger, chance, amount):
    """After everything else, frames that open, reset and grant at random."""
    await stranger.carry_streams()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stranger.listen)
        garbage = [*yamux_frames(chance, amount), b"\xff" * 12]
        await say(stranger, (b"".join(garbage[start : start + 50]) for start in range(0, len(garbage), 50)))


async def say(stranger, things, pause=0.0):
    """One after the other, until the other side hangs up."""
    try:
        for thing in things:
            await stranger.send(thing)
            await trio.sleep(pause)
    except BROKEN:
        return


async def negotiating(stranger, chance, amount):
    """On streams in good order, no protocol."""
    await on_streams(stranger, list(negotiations(chance, amount)))


async def talking(stranger, chance, amount):
    """On streams in good order that agree on the protocol, no messages."""
    hello = b"\x13" + MULTISTREAM.encode() + b"\n" + bytes([len(PROTOCOL) + 1]) + PROTOCOL.encode() + b"\n"
    await on_streams(stranger, [hello + message for message in messages(chance, amount)])


async def on_streams(stranger, things):
    await stranger.carry_streams()
    streams = Streams(stranger)
    for start in range(0, len(things), 50):
        await streams.say(*things[start : start + 50])
        await streams.hear()


async def idle(siege, number, closed):
    """Connects, says nothing, and waits to be shown the door."""
    source = "127.0.0.1" if number % 2 else f"127.0.1.{number % 250 + 1}"
    try:
        async with a_stranger(siege.place, random.Random(number), victim=VICTIM, source=source) as stranger:
            await stranger.listen()
    except BROKEN:
        pass
    closed.append(number)


async def slow(siege, number, closed):
    """One byte a second, of a greeting: that takes too long."""
    words = [bytes([byte]) for byte in b"\x13" + MULTISTREAM.encode() + b"\n"]
    try:
        async with (
            a_stranger(siege.place, random.Random(number), victim=VICTIM, source="127.0.2.1") as stranger,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(say, stranger, words, 1.0)
            await stranger.listen()
            nursery.cancel_scope.cancel()
    except BROKEN:
        pass
    closed.append(number)


async def slow_frames(siege, number, *, task_status):
    """One byte a second, of frames: that is a peer's good right."""
    async with a_stranger(siege.place, random.Random(-number), victim=VICTIM, source="127.0.3.1") as stranger:
        await stranger.carry_streams()
        await Streams(stranger).say(b"?")
        task_status.started()
        await say(stranger, [bytes([byte]) for byte in bytes(14)], 1.0)


async def proper_peer(siege, router, stop):
    """Somebody with a real question, again and again."""
    channel = await router.open(VICTIM, PROTOCOL)
    while not stop.is_set():
        started = trio.current_time()
        with trio.fail_after(10):
            await channel.send(Signed(body=b"?"), b"x" * 1000)
            header, payload = await channel.receive(Signed, max_payload=1000)
            assert (header.body, len(payload)) == (b"?", 1000)
            another = await router.open(VICTIM, PROTOCOL)
            await another.aclose()
        siege.calls.append(trio.current_time() - started)
        siege.memory()
        await trio.sleep(0.05)
    await channel.aclose()


def start(log):
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "bootstrap")])}
    with log.open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, str(SCRIPT)], stdout=subprocess.PIPE, stderr=stderr, text=True, env=env
        )


@asynccontextmanager
async def a_victim(log):
    process = start(log)
    try:
        address = await trio.to_thread.run_sync(process.stdout.readline)
        yield process, address.strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def warm_up(siege):
    """Each kind of stranger once: what is loaded and cached then is not counted as growth."""
    for attack, amount in ((raw, 1), (greeting, 2), (packets, 20), (muxing, 300), (negotiating, 100), (talking, 100)):
        await siege.many(attack, AT_ONCE, amount)
    siege.frames.clear()
    siege.connections.clear()


async def besiege(siege):
    await siege.many(raw, GARBAGE_CONNECTIONS, 1)
    await siege.many(greeting, 150, 2)
    await siege.many(packets, 100, 20)
    await siege.many(muxing, 300, 320)
    await siege.many(negotiating, 20, 150)
    await siege.many(talking, 20, 150)


async def test_a_peer_among_strangers(tmp_path, record_property):
    log = tmp_path / "victim.log"
    async with a_victim(log) as (process, address):
        siege = Siege(("127.0.0.1", int(address.rpartition("/")[2])), psutil.Process(process.pid))
        async with open_transport(Identity(b"p" * 32), []) as transport, trio.open_nursery() as nursery:
            router = Router(transport, nursery)
            router.learn(PeerInfo(VICTIM, (address,)))
            with trio.fail_after(PATIENCE):
                figures = await lay_siege(siege, router)
        assert process.poll() is None, log.read_text()[-4000:]
    lines = log.read_text().splitlines()
    figures["lines logged"] = len(lines)
    tell(figures, record_property)
    assert len(lines) <= MOST_LINES, "\n".join(lines[:100])


async def lay_siege(siege, router):
    stop = trio.Event()
    idle_closed, slow_closed = [], []
    async with trio.open_nursery() as proper, trio.open_nursery() as strangers:
        proper.start_soon(proper_peer, siege, router, stop)
        await warm_up(siege)
        before = siege.memory()
        started = time.perf_counter()
        for number in range(SLOW_WRITERS):
            await strangers.start(slow_frames, siege, number)
            strangers.start_soon(slow, siege, number, slow_closed)
        for number in range(IDLE_CONNECTIONS):
            strangers.start_soon(idle, siege, number, idle_closed)
        await besiege(siege)
        seconds = time.perf_counter() - started
        growth = siege.most_memory - before
        during = len(siege.calls)
        strangers.start_soon(until_closed, [(idle_closed, IDLE_CONNECTIONS), (slow_closed, SLOW_WRITERS)], stop)
    with trio.fail_after(10):
        channel = await router.open(VICTIM, PROTOCOL)
        await channel.send(Signed(body=b"afterwards"))
        assert (await channel.receive(Signed))[0].body == b"afterwards"
        await channel.aclose()
    assert sum(siege.frames.values()) >= LEAST_FRAMES
    assert siege.connections["raw"] >= GARBAGE_CONNECTIONS
    assert during > 10
    assert growth < MOST_GROWTH, f"its memory grew by {growth / MIB:.0f} MiB"
    return {
        "frames": sum(siege.frames.values()),
        **{f"frames, {name}": count for name, count in siege.frames.items()},
        **{f"connections, {name}": count for name, count in siege.connections.items()},
        "idle connections closed": len(idle_closed),
        "slow writers closed": len(slow_closed),
        "seconds": round(seconds, 1),
        "proper calls meanwhile": during,
        "slowest of them, ms": round(1000 * max(siege.calls)),
        "memory before, MiB": before // MIB,
        "growth at most, MiB": round(growth / MIB, 1),
        "growth afterwards, MiB": round((siege.memory() - before) / MIB, 1),
    }


async def until_closed(lists, stop):
    while any(len(closed) < count for closed, count in lists):  # noqa: ASYNC110 - what happens is in another process
        await trio.sleep(0.1)
    stop.set()


def tell(figures, record_property):
    for name, value in figures.items():
        record_property(name, value)
        sys.stdout.write(f"\n    {name:32} {value}")
    sys.stdout.write("\n")
