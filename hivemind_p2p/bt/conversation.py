"""One channel between two members of a swarm: reads what the other says, sends what is decided, answers requests.

The stream is symmetric: whoever opened it, both sides may ask and both may give. What to do is decided in `member.py`;
here it is done, with a deadline on everything that the other side could keep waiting.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from hivemind_p2p.bt.concurrency import nursery_of_one, within
from hivemind_p2p.bt.wire import MOST_HAVES, Block, Have, Hello, Message, Piece, decode, encode
from hivemind_p2p.defaults import REQUEST_DEADLINE
from hivemind_p2p.errors import ProtocolError, StreamClosedError
from hivemind_p2p.interfaces import Buffer, Channel
from hivemind_p2p.proto import swarm_pb2 as pb
from hivemind_p2p.types import PeerId

if TYPE_CHECKING:
    from hivemind_p2p.bt.exchange import Exchange

SLOWEST_RATE = 128 * 1024
"""Bytes a second: who is slower gets its deadlines missed. A phone's uplink is faster."""

IDLE = 120.0
"""Seconds of silence after which a channel is closed. Members say something every minute."""

HAVE_DELAY = 0.02
"""Seconds for which news of a piece waits for more news: at full speed one message then tells of many pieces."""

HAVE_BYTES = 4 * 1024 * 1024
"""Bytes of pieces of which news does not wait: others may have nothing to ask for until they hear of them."""

MOST_UNSENT = 4096
"""Messages that wait for a peer that does not read them."""


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


async def send(channel: Channel, message: Message, payload: Buffer = b"") -> None:
    """Sends a message.

    Raises:
        DeadlineExceededError: The other side does not take it.
        StreamClosedError: The channel has ended.
    """
    with within(patience(len(payload)), f"sending to peer {channel.remote}"):
        await channel.send(encode(message), payload)


@dataclass(slots=True)
class _Arriving:
    """A piece of which not all blocks are here yet."""

    blocks: dict[int, bytes]


class Conversation:
    """One channel, from its hello on.

    Args:
        channel: The channel.
        opener: Which of the two opened it.
        exchange: Decides, and keeps the content.
    """

    def __init__(self, channel: Channel, opener: PeerId, exchange: Exchange) -> None:
        self.peer = channel.remote
        self.opener = opener
        self.reason = "it ended the conversation"
        self._channel = channel
        self._exchange = exchange
        self._scope = trio.CancelScope()
        self._outbox: deque[Message] = deque()
        self._news: list[int] = []
        self._news_due = 0.0
        self._to_send = trio.Event()
        self._to_answer = trio.Event()
        self._arriving: dict[int, _Arriving] = {}

    async def run(self) -> None:
        """Goes on until either side has enough.

        Raises:
            HivemindError: The other side broke the rules or missed a deadline.
        """
        with self._scope:
            async with nursery_of_one() as nursery:
                nursery.start_soon(self._send_outbox)
                # Two, so that the next blocks are read from the disk while the last ones are being sent.
                nursery.start_soon(self._answer)
                nursery.start_soon(self._answer)
                await self._listen()
                nursery.cancel_scope.cancel()

    def say(self, message: Message) -> None:
        """Sends a message soon, after those before it."""
        self._outbox.append(message)
        self._to_send.set()
        if len(self._outbox) > MOST_UNSENT:
            self.leave("it does not read what it is sent")

    def tell(self, pieces: Sequence[int]) -> None:
        """Says which pieces have arrived here, as soon as there is something else to say, or in a moment."""
        if not self._news:
            self._news_due = trio.current_time() + HAVE_DELAY
            self._to_send.set()
        self._news += pieces
        if len(self._news) * self._exchange.piece_length >= HAVE_BYTES:
            self._news_due = 0.0
            self._to_send.set()

    def answer(self) -> None:
        """The other side's requests wait to be answered."""
        self._to_answer.set()

    def leave(self, reason: str) -> None:
        """Ends the conversation soon."""
        self.reason = reason
        self._scope.cancel()

    # -- hearing -----------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        with within(REQUEST_DEADLINE, f"what peer {self.peer} holds"):
            await self._hear_next()
        with trio.CancelScope() as scope:
            while True:
                scope.deadline = trio.current_time() + IDLE
                try:
                    await self._hear_next()
                except StreamClosedError:
                    return
        if scope.cancelled_caught:
            self.reason = f"it was silent for {IDLE:.0f} seconds"

    async def _hear_next(self) -> None:
        header, payload = await self._channel.receive(
            pb.Message, max_payload=self._exchange.largest_payload, room=self._exchange.buffers.take
        )
        message = decode(header)
        if isinstance(message, Piece):
            await self._take(message.blocks, payload)
        else:
            self._exchange.heard(self.peer, message)

    async def _take(self, blocks: Sequence[Block], payload: memoryview) -> None:
        pieces: list[tuple[int, memoryview]] = []
        begin = 0
        for block in blocks:
            # Wrong lengths are found where the pieces are checked, and are treated as wrong bytes are.
            end = begin + block.length if block is not blocks[-1] else len(payload)
            wanted, complete = self._exchange.block_arrived(self.peer, block)
            if not wanted:
                self._arriving.pop(block.piece, None)
            elif complete and block.piece not in self._arriving:
                pieces.append((block.piece, payload[begin:end]))
            elif (whole := self._assembled(block, payload[begin:end], complete=complete)) is not None:
                pieces.append((block.piece, whole))
            begin = end
        if pieces:
            await self._exchange.take(self.peer, pieces, payload)
        else:
            self._exchange.buffers.give_back(payload)

    def _assembled(self, block: Block, data: memoryview, *, complete: bool) -> memoryview | None:
        """A piece of several blocks, once they are all here. They are copied: the memory they came in is used again."""
        arriving = self._arriving.setdefault(block.piece, _Arriving({}))
        arriving.blocks[block.begin] = bytes(data)
        if not complete:
            return None
        del self._arriving[block.piece]
        return memoryview(b"".join(arriving.blocks[begin] for begin in sorted(arriving.blocks)))

    # -- saying ------------------------------------------------------------------------------------------------------

    async def _send_outbox(self) -> None:
        while True:
            if self._news and (self._outbox or trio.current_time() >= self._news_due):
                self._outbox.append(Have(tuple(self._news[:MOST_HAVES])))
                del self._news[:MOST_HAVES]
            while self._outbox:
                await send(self._channel, self._outbox.popleft())
            self._to_send = trio.Event()
            with trio.move_on_at(self._news_due if self._news else math.inf):
                await self._to_send.wait()

    async def _answer(self) -> None:
        while True:
            blocks = self._exchange.next_answers(self.peer)
            if not blocks:
                if self._to_answer.is_set():
                    self._to_answer = trio.Event()
                await self._to_answer.wait()
                continue
            length = sum(block.length for block in blocks)
            await self._exchange.may_upload(length)
            memory = self._exchange.buffers.take(length)
            there = await self._exchange.read_blocks(blocks, memory)
            await self._give(blocks, there, memory)
            self._exchange.buffers.give_back(memory)

    async def _give(self, blocks: Sequence[Block], there: Sequence[Block], memory: memoryview) -> None:
        if there:
            await send(self._channel, Piece(tuple(there)), memory[: sum(block.length for block in there)])
        for block in there:
            self._exchange.given(self.peer, block)
        for block in blocks if len(there) < len(blocks) else ():
            if block not in there:
                self._exchange.lost(self.peer, block)
