"""The caller's conversations with the stages of one route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from hivemind_p2p import defaults, errors
from hivemind_p2p.errors import HivemindError, ProtocolError, StreamClosedError
from hivemind_p2p.interfaces import Channel, Payer
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import wire
from hivemind_p2p.sharding.generation import Health
from hivemind_p2p.sharding.route import Hop
from hivemind_p2p.types import Credits, PeerId

CLOSE_DEADLINE = 1.0
"""Seconds to say goodbye."""

PING_DEADLINE = 2.0
"""Seconds that a silent stage has to answer before it is called lost."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What came from a stage: a token, or the reason why its route is lost and who is to blame."""

    attempt: int
    peer: PeerId
    token: pb.Token | None = None
    blamed: PeerId | None = None
    error: HivemindError | None = None


class Leg:
    """The conversation with one stage of a route."""

    def __init__(
        self, hop: Hop, channel: Channel, request: wire.OpenRequest, payer: Payer | None, limit: Credits
    ) -> None:
        self.hop = hop
        self.channel = channel
        self._request = request
        self._payer = payer
        self._limit = limit
        self._settled = payer is None
        self._answers, self._answered = trio.open_memory_channel[pb.FromStage](8)
        self.lost = False
        self._listening = trio.CancelScope(shield=True)

    async def open(self) -> None:
        """Opens the generation on the stage."""
        await wire.send(self.channel, wire.encode_open(self._request), defaults.REQUEST_DEADLINE)
        answer = await wire.receive(self.channel, pb.FromStage, defaults.REQUEST_DEADLINE, "open a generation")
        if answer.WhichOneof("kind") != "opened":
            raise ProtocolError(f"peer {self.hop.peer} answered an Open with something else")

    async def listen(self, attempt: int, events: trio.MemorySendChannel[Heard]) -> None:
        """Hands on what the stage says, until `close` or until the stage ends the conversation."""
        # Shielded: when the reader leaves, the receipts that end the generation still have to be heard.
        with self._listening:
            try:
                while True:
                    message, _ = await self.channel.receive(pb.FromStage)
                    self._sort(message, attempt, events)
            except HivemindError as error:
                self.lost = True
                self._answers.close()
                events.send_nowait(Heard(attempt, self.hop.peer, blamed=self.hop.peer, error=error))

    async def close(self) -> None:
        """Ends the conversation, and the listening; what was set aside for it and not paid is free again."""
        if self._payer is not None and not self._settled:
            self._settled = True
            self._payer.release(self.hop.peer, self._limit)
        self._listening.cancel()
        with trio.CancelScope(deadline=trio.current_time() + CLOSE_DEADLINE, shield=True):
            await self.channel.aclose()

    def _sort(self, message: pb.FromStage, attempt: int, events: trio.MemorySendChannel[Heard]) -> None:
        kind = message.WhichOneof("kind")
        peer = self.hop.peer
        if kind == "token" and self._request.last:
            events.send_nowait(Heard(attempt, peer, token=message.token))
        elif kind == "lost":
            # It can accuse itself and its neighbours on the ring, nobody else.
            known = {peer, self._request.previous, self._request.next}
            blamed = PeerId(message.lost.peer) if message.lost.peer in known else peer
            reason = errors.from_code(message.lost.code, message.lost.message)
            events.send_nowait(Heard(attempt, peer, blamed=blamed, error=reason))
        elif kind in {"pong", "receipt"}:
            try:
                self._answers.send_nowait(message)
            except trio.WouldBlock:
                raise ProtocolError(f"peer {peer} answers more than it is asked") from None
        else:
            raise ProtocolError(f"peer {peer} sent {kind} where it has no meaning")

    async def health(self) -> Health:
        """Asks the stage how far it is."""
        peer = self.hop.peer
        try:
            with trio.fail_after(PING_DEADLINE):
                await self.channel.send(pb.ToStage(ping=pb.Ping()))
                pong = await self._answer("pong")
                return Health(peer, pong.pong.received, pong.pong.done)
        except (trio.TooSlowError, HivemindError):
            return Health(peer, None, None)

    async def settle(self) -> Credits:
        """Ends the generation on the stage and pays what it bills; returns what that was.

        Raises:
            VoucherError: It bills more than was agreed on.
        """
        await self.channel.send(pb.ToStage(close=pb.Close()))
        bill = await self._answer("receipt")
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

    async def _answer(self, kind: str) -> pb.FromStage:
        while True:
            try:
                message = await self._answered.receive()
            except trio.EndOfChannel:
                raise StreamClosedError(f"peer {self.hop.peer} left before its {kind}") from None
            if message.WhichOneof("kind") == kind:
                return message

    async def _ended(self) -> None:
        """Waits until the stage has taken the payment and hung up."""
        async for _ in self._answered:
            continue


class OpenRoute:
    """A route that is open, and its legs."""

    def __init__(self, attempt: int, legs: Sequence[Leg]) -> None:
        self.attempt = attempt
        self.legs = legs

    async def feed(self, tokens: Sequence[int]) -> None:
        """Gives the first stage the tokens so far, in chunks."""
        for start in range(0, len(tokens), wire.PREFILL_CHUNK):
            chunk = tokens[start : start + wire.PREFILL_CHUNK]
            feed = pb.Feed(tokens=chunk, last=start + len(chunk) == len(tokens))
            await wire.send(self.legs[0].channel, pb.ToStage(feed=feed), defaults.IDLE_DEADLINE)

    async def health(self) -> list[Health]:
        """How far each stage is, all asked at once."""
        found: dict[int, Health] = {}

        async def ask(index: int, leg: Leg) -> None:
            found[index] = await leg.health()

        async with trio.open_nursery() as nursery:
            for index, leg in enumerate(self.legs):
                nursery.start_soon(ask, index, leg)
        return [found[index] for index in range(len(self.legs))]
