"""The side of a channel that gives pieces: answers a hello, then sends what is asked for and tells what arrives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.concurrency import RunSync, nursery_of_one, within
from hivemind_p2p.bt.contents import Content
from hivemind_p2p.bt.wire import (
    MOST_BLOCKS,
    MOST_HAVES,
    Block,
    Have,
    Hello,
    ManifestFollows,
    Message,
    Piece,
    Refusal,
    Request,
    decode,
    encode,
    encode_holding,
)
from hivemind_p2p.defaults import REQUEST_DEADLINE
from hivemind_p2p.errors import ProtocolError, StreamClosedError
from hivemind_p2p.interfaces import Buffer, Channel
from hivemind_p2p.proto import swarm_pb2 as pb

SLOWEST_RATE = 128 * 1024
"""Bytes a second: who is slower gets its deadlines missed. A phone's uplink is faster."""

IDLE = 120.0
"""Seconds after which a channel on which nothing is asked for is closed; who still wants something comes again."""

READ_AT_ONCE = 1024 * 1024
"""Bytes read from the disk in one go: enough that changing threads does not count with the smallest pieces."""


def patience(length: int) -> float:
    """Seconds that moving so many bytes may take."""
    return REQUEST_DEADLINE + length / SLOWEST_RATE


async def receive(channel: Channel, *, max_payload: int = 0) -> tuple[Message, memoryview]:
    """The next message.

    Raises:
        ProtocolError: It is malformed.
        HivemindError: Whatever ended the channel.
    """
    header, payload = await channel.receive(pb.Message, max_payload=max_payload)
    return decode(header), payload


async def receive_hello(channel: Channel) -> Hello:
    """The first message of a channel.

    Raises:
        ProtocolError: It is another one.
        DeadlineExceededError: None came.
    """
    with within(REQUEST_DEADLINE, f"the hello of peer {channel.remote}"):
        message, _ = await receive(channel)
    if not isinstance(message, Hello):
        raise ProtocolError(f"peer {channel.remote} began with a {type(message).__name__} and no hello")
    return message


class Serving:
    """One channel on which this peer gives pieces of one content.

    Args:
        channel: The channel, its hello read.
        content: What was asked for.
        run_sync: Runs what blocks.
    """

    def __init__(self, channel: Channel, content: Content, run_sync: RunSync) -> None:
        self._channel = channel
        self._content = content
        self._run_sync = run_sync

    async def run(self, hello: Hello) -> None:
        """Serves until the other side has enough.

        Raises:
            HivemindError: The other side broke the rules or missed a deadline.
        """
        cursor = self._content.cursor
        held = self._content.store.held.copy()
        if hello.want_manifest:
            await self._send(ManifestFollows(), self._content.store.manifest.encode())
        await self._send(*encode_holding(held))
        asked, to_answer = trio.open_memory_channel[Block](MOST_BLOCKS)
        async with nursery_of_one() as nursery:
            # Two, so that the next pieces are read from the disk while the last ones are being sent.
            nursery.start_soon(self._answer, to_answer.clone())
            nursery.start_soon(self._answer, to_answer)
            if not held.complete:
                nursery.start_soon(self._tell, cursor, held)
            await self._listen(asked)
            nursery.cancel_scope.cancel()

    async def _listen(self, asked: trio.MemorySendChannel[Block]) -> None:
        """Reads requests until the other side closes, or asks for nothing for long."""
        with trio.CancelScope() as scope:
            while True:
                scope.deadline = trio.current_time() + IDLE
                try:
                    message, _ = await receive(self._channel)
                except StreamClosedError:
                    return
                if not isinstance(message, Request):
                    raise ProtocolError(f"peer {self._channel.remote} sent a {type(message).__name__} out of turn")
                self._take(message, asked)

    def _take(self, request: Request, asked: trio.MemorySendChannel[Block]) -> None:
        pieces = self._content.store.manifest.pieces
        for block in request.blocks:
            if block.piece >= pieces:
                raise ProtocolError(f"peer {self._channel.remote} asked for piece {block.piece} of {pieces}")
            try:
                asked.send_nowait(block)
            except trio.WouldBlock:
                raise ProtocolError(
                    f"peer {self._channel.remote} asked for more than {MOST_BLOCKS} blocks at once"
                ) from None

    async def _answer(self, to_answer: trio.MemoryReceiveChannel[Block]) -> None:
        while True:
            blocks = [await to_answer.receive()]
            size = blocks[0].length
            while size < READ_AT_ONCE:
                try:
                    blocks.append(to_answer.receive_nowait())
                except trio.WouldBlock:
                    break
                size += blocks[-1].length
            for block, data in zip(blocks, await self._run_sync(partial(self._read, blocks)), strict=True):
                if data is None:
                    await self._send(Refusal(block))
                    continue
                await self._send(Piece(block), data)
                self._content.uploaded_bytes += len(data)

    def _read(self, blocks: Sequence[Block]) -> list[memoryview | None]:
        store = self._content.store
        return [store.read(block.piece, block.begin, block.length) for block in blocks]

    async def _tell(self, cursor: int, told: Bitfield) -> None:
        """Says which pieces have arrived since the bitfield was sent."""
        while not told.complete:
            pieces = await self._content.arrivals(cursor)
            cursor += len(pieces)
            new = [piece for piece in pieces if told.add(piece)]
            for start in range(0, len(new), MOST_HAVES):
                await self._send(Have(tuple(new[start : start + MOST_HAVES])))

    async def _send(self, message: Message, payload: Buffer = b"") -> None:
        with within(patience(len(payload)), f"sending to peer {self._channel.remote}"):
            await self._channel.send(encode(message), payload)
