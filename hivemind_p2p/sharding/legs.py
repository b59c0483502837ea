"""The caller's conversations with the stages of one route."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from hivemind_p2p import defaults, errors
from hivemind_p2p.errors import HivemindError, NetworkError, ProtocolError, StreamClosedError
from hivemind_p2p.interfaces import Channel, Payer
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import requests, wire
from hivemind_p2p.sharding.intake import PREFILL_CHUNK
from hivemind_p2p.sharding.route import Hop
from hivemind_p2p.sharding.sampling import MOST_LIKELIEST
from hivemind_p2p.sharding.watch import Health
from hivemind_p2p.types import Credits, PeerId

CLOSE_DEADLINE = 1.0
"""Seconds to say goodbye."""

PING_DEADLINE = 1.0
"""Seconds in which a stage has to take a question; whether it answers is `watch.RouteWatch`'s business."""

MOST_ROWS_BYTES = 16 * 2**20
"""Bytes of one message with rows: an honest stage sends 4 MiB, or one row."""

MOST_UNREAD_ROWS = 4
"""Messages with rows that wait for who asked for them; the next ones wait on the wire."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What came from a stage: tokens, rows, how it is, or why its route is lost and who is to blame."""

    attempt: int
    index: int
    peer: PeerId
    token: pb.Token | None = None
    rows: tuple[pb.Rows, memoryview] | None = None
    health: Health | None = None
    blamed: PeerId | None = None
    error: HivemindError | None = None
    taken: Callable[[], object] | None = None
    """Called by whoever has taken it, where the stage waits for that."""


class Leg:
    """The conversation with one stage of a route.

    Attributes:
        reusable: Tokens at the text's beginning that the stage has in a cache already.
        lost: Whether the stage is gone.
    """

    def __init__(
        self, hop: Hop, channel: Channel, request: requests.OpenRequest, payer: Payer | None, limit: Credits
    ) -> None:
        self.hop = hop
        self.channel = channel
        self.reusable = 0
        self.lost = False
        self._request = request
        self._payer = payer
        self._limit = limit
        self._settled = payer is None
        self._receipts, self._receipted = trio.open_memory_channel[pb.FromStage](8)
        self._listening = trio.CancelScope(shield=True)
        self._rows = trio.Semaphore(MOST_UNREAD_ROWS)
        self._leaving = False

    async def open(self) -> None:
        """Opens the generation on the stage."""
        message, text = requests.encode_open(self._request)
        try:
            with trio.fail_after(defaults.REQUEST_DEADLINE):
                await self.channel.send(message, text)
        except trio.TooSlowError as error:
            raise errors.DeadlineExceededError(f"peer {self.hop.peer} did not take a prompt in time") from error
        answer = await wire.receive(self.channel, pb.FromStage, defaults.REQUEST_DEADLINE, "open a generation")
        if answer.WhichOneof("kind") != "opened":
            raise ProtocolError(f"peer {self.hop.peer} answered an Open with something else")
        self.reusable = min(answer.opened.reusable, len(self._request.text))

    async def listen(self, attempt: int, events: trio.MemorySendChannel[Heard]) -> None:
        """Hands on what the stage says, until `close` or until the stage ends the conversation."""
        # Shielded: when the reader leaves, the receipts that end the generation still have to be heard.
        most = MOST_ROWS_BYTES if self._gives_rows else 0
        with self._listening:
            try:
                while True:
                    message, payload = await self.channel.receive(pb.FromStage, max_payload=most)
                    if payload and not self._leaving:
                        await self._rows.acquire()
                    if payload and self._leaving:
                        continue  # nobody wants it any more, and the receipt comes behind it
                    self._sort(message, payload, attempt, events)
            except HivemindError as error:
                self.lost = True
                self._receipts.close()
                self._hear(
                    events, Heard(attempt, self._request.index, self.hop.peer, blamed=self.hop.peer, error=error)
                )

    @property
    def _gives_rows(self) -> bool:
        """Whether rows are expected of this stage."""
        return self._request.mode == pb.STATES or (self._request.last and self._request.mode != pb.TOKENS)

    async def close(self) -> None:
        """Ends the conversation, and the listening; what was set aside for it and not paid is free again."""
        if self._payer is not None and not self._settled:
            self._settled = True
            self._payer.release(self.hop.peer, self._limit)
        self._listening.cancel()
        with trio.CancelScope(deadline=trio.current_time() + CLOSE_DEADLINE, shield=True):
            await self.channel.aclose()

    def _sort(
        self, message: pb.FromStage, payload: memoryview, attempt: int, events: trio.MemorySendChannel[Heard]
    ) -> None:
        kind = message.WhichOneof("kind")
        peer, index = self.hop.peer, self._request.index
        if kind == "token" and self._request.last and _sound(message.token):
            self._hear(events, Heard(attempt, index, peer, token=message.token))
        elif kind == "rows" and self._gives_rows and payload:
            rows = (message.rows, payload)
            self._hear(events, Heard(attempt, index, peer, rows=rows, taken=self._rows.release))
        elif kind == "pong":
            pong = message.pong
            health = Health(pong.received, pong.done, pong.busy)
            self._hear(events, Heard(attempt, index, peer, health=health))
        elif kind == "lost":
            # It can accuse itself and its neighbours on the ring, nobody else.
            known = {peer, self._request.previous, self._request.next}
            blamed = PeerId(message.lost.peer) if message.lost.peer in known else peer
            reason = errors.from_code(message.lost.code, message.lost.message)
            self._hear(events, Heard(attempt, index, peer, blamed=blamed, error=reason))
        elif kind == "receipt":
            try:
                self._receipts.send_nowait(message)
            except trio.WouldBlock:
                raise ProtocolError(f"peer {peer} answers more than it is asked") from None
        else:
            raise ProtocolError(f"peer {peer} sent {kind} where it has no meaning")

    def _hear(self, events: trio.MemorySendChannel[Heard], heard: Heard) -> None:
        try:
            events.send_nowait(heard)
        except trio.WouldBlock:
            raise ProtocolError(f"peer {self.hop.peer} says more than anybody can hear") from None

    async def ask(self) -> None:
        """Asks the stage how it is; what it says is heard like everything else."""
        try:
            with trio.move_on_after(PING_DEADLINE):
                await self.channel.send(pb.ToStage(ping=pb.Ping()))
        except NetworkError:
            return  # who listens learns it as well

    async def settle(self) -> Credits:
        """Ends the generation on the stage and pays what it bills; returns what that was.

        Raises:
            VoucherError: It bills more than was agreed on.
        """
        self._leaving = True
        self._rows.release()
        await self.channel.send(pb.ToStage(close=pb.Close()))
        try:
            bill = await self._receipted.receive()
        except trio.EndOfChannel:
            raise StreamClosedError(f"peer {self.hop.peer} left before its receipt") from None
        if self._payer is None or not bill.receipt.receipt:
            return Credits(0)
        cost, payment = await self._payer.pay(
            self.hop.peer, bill.receipt.receipt, work_id=self._request.work_id, limit=self._limit
        )
        self._settled = True
        await self.channel.send(pb.ToStage(payment=pb.Payment(payment=payment)))
        await self.channel.send_eof()
        await self._ended()
        return cost

    async def _ended(self) -> None:
        """Waits until the stage has taken the payment and hung up."""
        async for _ in self._receipted:
            continue


def _sound(token: pb.Token) -> bool:
    """Whether an honest stage could have sent it."""
    most = requests.MAX_DRAFTS + 1
    return (
        1 <= len(token.tokens) <= most
        and len(token.log_probabilities) in {0, len(token.tokens)}
        and len(token.likeliest) in {0, len(token.tokens)}
        and all(len(each.tokens) == len(each.log_probabilities) <= MOST_LIKELIEST for each in token.likeliest)
        and len(token.tokens) - 1 <= token.drafted <= most
    )


class OpenRoute:
    """A route that is open, and its legs."""

    def __init__(self, attempt: int, legs: Sequence[Leg]) -> None:
        self.attempt = attempt
        self.legs = legs

    @property
    def reusable(self) -> int:
        """Tokens at the text's beginning that every stage has in a cache already."""
        return min(leg.reusable for leg in self.legs)

    async def start(self, position: int) -> None:
        """Lets the ring go on from a position of the text that came with Open."""
        await self._feed(pb.Feed(position=position, last=True))

    async def feed(self, position: int, tokens: Sequence[int], *, rows: int, whole: bool = False) -> None:
        """Client mode: gives the first stage tokens, in chunks or as a whole; of the last ones the rows are wanted."""
        size = len(tokens) if whole else PREFILL_CHUNK
        for start in range(0, len(tokens), size):
            stop = min(start + size, len(tokens))
            wanted = max(0, min(stop - start, stop - (len(tokens) - rows)))
            await self._feed(pb.Feed(position=position + start, tokens=tokens[start:stop], rows=wanted))

    async def _feed(self, feed: pb.Feed) -> None:
        await wire.send(self.legs[0].channel, pb.ToStage(feed=feed), defaults.IDLE_DEADLINE)
