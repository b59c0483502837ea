"""One channel between two members of a swarm: reads what the other says, sends what is decided, answers requests.

The stream is symmetric: whoever opened it, both sides may ask and both may give. What to do is decided in `member.py`;
here it is done, with a deadline on everything that the other side could keep waiting.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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

READ_AT_ONCE = 1024 * 1024
"""Bytes read from the disk in one go: enough that changing threads does not count with the smallest pieces."""

HAVE_DELAY = 0.02
"""Seconds for which news of a piece waits for more news: at full speed one message then tells of many pieces."""

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

    blocks: dict[int, memoryview]


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
        header, payload = await self._channel.receive(pb.Message, max_payload=self._exchange.largest_payload)
        message = decode(header)
        if isinstance(message, Piece):
            await self._take(message.block, payload)
        else:
            self._exchange.heard(self.peer, message)

    async def _take(self, block: Block, payload: memoryview) -> None:
        wanted, complete = self._exchange.block_arrived(self.peer, block)
        if not wanted:
            self._arriving.pop(block.piece, None)
            return
        # A wrong length is found where the piece is checked, and is treated as wrong bytes are.
        if complete and block.piece not in self._arriving:
            await self._exchange.take(self.peer, block.piece, payload)
            return
        arriving = self._arriving.setdefault(block.piece, _Arriving({}))
        arriving.blocks[block.begin] = payload
        if complete:
            del self._arriving[block.piece]
            whole = b"".join(arriving.blocks[begin] for begin in sorted(arriving.blocks))
            await self._exchange.take(self.peer, block.piece, memoryview(whole))

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
            blocks = self._exchange.next_answers(self.peer, READ_AT_ONCE)
            if not blocks:
                if self._to_answer.is_set():
                    self._to_answer = trio.Event()
                await self._to_answer.wait()
                continue
            await self._exchange.may_upload(sum(block.length for block in blocks))
            for block, data in zip(blocks, await self._exchange.read(partial(self._read, blocks)), strict=True):
                if data is None:
                    self._exchange.lost(self.peer, block)
                    continue
                await send(self._channel, Piece(block), data)
                self._exchange.given(self.peer, block)

    def _read(self, blocks: Sequence[Block]) -> list[memoryview | None]:
        store = self._exchange.content.store
        return [store.read(block.piece, block.begin, block.length) for block in blocks]
