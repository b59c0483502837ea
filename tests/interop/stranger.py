"""Somebody who can reach a peer's port, and says what no peer would say, as deep in the protocols as it likes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import asynccontextmanager

import trio

from hivemind_p2p.identity import Identity
from hivemind_p2p.net import yamux_frames as frames
from hivemind_p2p.net.framing import PREFIX
from hivemind_p2p.net.negotiation import Lines, encode
from hivemind_p2p.net.noise import Handshake, StaticKey
from hivemind_p2p.net.noise_packets import ROOM_BYTES, Decryptor, Encryptor
from hivemind_p2p.net.yamux import Session
from hivemind_p2p.net.yamux_frames import frame
from hivemind_p2p.types import PeerId

READ_BYTES = 64 * 1024
MULTISTREAM, NOISE, YAMUX = "/multistream/1.0.0", "/noise", "/yamux/1.0.0"
BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Stranger:
    """One connection."""

    def __init__(self, stream: trio.SocketStream, identity: Identity, victim: PeerId) -> None:
        self.stream = stream
        self._static = StaticKey(identity)
        self._victim = victim
        self._lines = Lines()
        self._early = b""
        self._encryptor: Encryptor | None = None
        self._decryptor: Decryptor | None = None
        self._room = memoryview(bytearray(ROOM_BYTES))

    async def agree(self, *protocols: str) -> None:
        """Says the lines, and hears as many."""
        await self.send(encode(MULTISTREAM, *protocols))
        for expected in (MULTISTREAM, *protocols):
            while (line := self._lines.next()) is None:
                self._lines.feed(await self.receive())
            assert line == expected
        self._early = self._lines.rest()

    async def be_somebody(self) -> None:
        """Noise, and its handshake."""
        await self.agree(NOISE)
        handshake = Handshake(self._static, expected=self._victim)
        await self.stream.send_all(handshake.start())
        while handshake.agreed is None:
            answer = handshake.receive(await self.receive())
            if answer:
                await self.stream.send_all(answer)
        self._encryptor = Encryptor(handshake.agreed.sending, aes=handshake.agreed.aes)
        self._decryptor = Decryptor(handshake.agreed.receiving, aes=handshake.agreed.aes)

    async def carry_streams(self) -> None:
        """Everything until Yamux frames may follow."""
        await self.be_somebody()
        await self.agree(YAMUX)

    async def send(self, data: bytes) -> None:
        """Sends, encrypted once that is agreed on."""
        if self._encryptor is None:
            await self.stream.send_all(data)
            return
        for packets in self._encryptor.encrypt([data], self._room):
            await self.stream.send_all(bytes(packets))

    async def receive(self) -> bytes:
        """Something that has arrived.

        Raises:
            trio.BrokenResourceError: The other side has hung up.
        """
        if self._early:
            early, self._early = self._early, b""
            return early
        while data := await self.stream.receive_some(READ_BYTES):
            if self._decryptor is not None:
                data = bytes(self._decryptor.decrypt(data))
            if data:
                return data
        raise trio.BrokenResourceError("it has hung up")

    async def listen(self) -> None:
        """Reads until the other side hangs up."""
        try:
            while True:
                await self.receive()
        except BROKEN:
            return


@asynccontextmanager
async def a_stranger(place: tuple[str, int], chance: random.Random, *, victim: PeerId, source: str = "127.0.0.1"):
    """A new connection from some address of this machine."""
    sock = trio.socket.socket()
    try:
        await sock.bind((source, 0))
        await sock.connect(place)
    except BaseException:
        sock.close()
        raise
    async with trio.SocketStream(sock) as stream:
        yield Stranger(stream, Identity(chance.randbytes(32)), victim)


def yamux_frames(chance: random.Random, count: int) -> Iterator[bytes]:
    """Frames that no peer would send in this order: most can be read, one in a hundred cannot."""
    for _ in range(count):
        kind = chance.choice((0, 0, 0, 1, 1, 2, 3))
        flags = chance.choice((0, 0, 1, 2, 4, 8, chance.randrange(16)))
        if flags & frames.SYN:
            number = 1 + 2 * chance.randrange(1 << 20)
        else:
            number = chance.choice((chance.randrange(64), chance.getrandbits(32)))
        value = chance.choice((0, chance.randrange(100), chance.randrange(600)))
        body = chance.randbytes(value) if kind == frames.DATA else b""
        yield mutated(chance, frame(kind, flags, number, value) + body, one_in=100)


def negotiations(chance: random.Random, count: int) -> Iterator[bytes]:
    """What a stream is opened with in place of a protocol."""
    good = encode(MULTISTREAM, "/test/bad_input/1")
    for _ in range(count):
        choice = chance.randrange(4)
        if choice == 0:
            yield chance.randbytes(chance.randrange(1, 300))
        elif choice == 1:
            yield encode(MULTISTREAM, *("/no/such/protocol" for _ in range(chance.randrange(1, 40))))
        elif choice == 2:
            yield b"\xff\xff\xff\xff\x0f" + chance.randbytes(50)
        else:
            yield mutated(chance, good, one_in=1)


def messages(chance: random.Random, count: int) -> Iterator[bytes]:
    """Frames of a channel."""
    for _ in range(count):
        choice = chance.randrange(4)
        header = chance.randbytes(chance.randrange(100))
        if choice == 0:
            yield PREFIX.pack(chance.randrange(256), chance.getrandbits(32), chance.getrandbits(32))
        elif choice == 1:
            yield PREFIX.pack(0, len(header), chance.randrange(1 << 32)) + header
        elif choice == 2:
            yield PREFIX.pack(1, len(header), 0) + header
        else:
            yield mutated(chance, PREFIX.pack(0, len(header), 0) + header, one_in=1)


def mutated(chance: random.Random, whole: bytes, *, one_in: int) -> bytes:
    """With a byte changed now and then."""
    if chance.randrange(one_in):
        return whole
    place = chance.randrange(len(whole))
    return whole[:place] + bytes([whole[place] ^ chance.randrange(1, 256)]) + whole[place + 1 :]


class Streams:
    """Opens streams on a stranger's connection in good order, to say something bad on each of them."""

    def __init__(self, stranger: Stranger) -> None:
        self._stranger = stranger
        self._session = Session(dialled=True)

    async def say(self, *things: bytes) -> None:
        """Says each thing on a stream of its own, then ends it."""
        for thing in things:
            stream = self._session.open()
            self._session.send(stream, [memoryview(thing)])
            self._session.end(stream)
        await self._stranger.send(b"".join(self._session.output()))

    async def hear(self) -> None:
        """Waits until the other side has ended all of them."""
        while self._session.streams:
            received = self._session.receive(await self._stranger.receive(), trio.current_time())
            for stream in received.changed:
                while stream.unread:
                    self._session.read(stream, READ_BYTES)
            if self._session.has_output:
                await self._stranger.send(b"".join(self._session.output()))
