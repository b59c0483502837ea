"""One generation at one stage: what came from the ring is computed and passed on, until the caller ends it.

The task that listens to the caller never waits for a computation, so that a stage that is busy with a long prompt
still answers when it is asked whether it lives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio

from hivemind_p2p import defaults, telemetry
from hivemind_p2p.errors import (
    DeadlineExceededError,
    GenerationError,
    HivemindError,
    NetworkError,
    ProtocolError,
    StreamClosedError,
)
from hivemind_p2p.interfaces import Channel, Earner, Network
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import sampling, wire
from hivemind_p2p.sharding.stage import DTYPES, Stage, from_wire, to_wire
from hivemind_p2p.types import Credits, PeerId, Prices

SESSION_IDLE = 120.0
"""Seconds in which neither the caller nor the ring says anything, after which a session is ended: its caller was
stopped, or sits behind a broken link."""

SEND_DEADLINE = 30.0
"""Seconds in which a neighbour has to take a step; a step may be 16 MiB over a slow link."""

STEPS_IN_FLIGHT = 4
"""Steps that the ring may deliver before the first of them is computed; the next waits on the wire."""

_events = telemetry.source("sharding")


@dataclass(frozen=True, slots=True)
class Step:
    """Tokens on their way through the stage: ids for the first one, hidden states as raw bytes for others."""

    position: int
    count: int
    last: bool
    tokens: tuple[int, ...] = ()
    hidden: memoryview | None = None
    dtype: str = "float32"
    ring: bool = False
    """Whether it came over the ring, and holds one of its slots."""


class _NonsenseError(Exception):
    """What the previous stage sent is no result of a model."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What a step came to: hidden states for the next stage, or the next token."""

    hidden: memoryview | None = None
    token: int | None = None


class StageSession:
    """One generation at one stage.

    Args:
        network: Opens the ring's next channel.
        stage: The loaded span.
        limiter: Lets one step of the stage run at a time.
        control: The caller's channel, its Open already read.
        request: What the caller asked for.
        earner: Bills the caller; None in a hive without payment.
        prices: What this peer asks.
    """

    def __init__(
        self,
        network: Network,
        stage: Stage,
        limiter: trio.CapacityLimiter,
        control: Channel,
        request: wire.OpenRequest,
        earner: Earner | None,
        prices: Prices,
    ) -> None:
        self.request = request
        self._network = network
        self._stage = stage
        self._limiter = limiter
        self._control = control
        self.billed = False
        self._earner = earner
        self._prices = prices
        self._cache: Any = None
        self._send, self._steps = trio.open_memory_channel[Step](math.inf)
        self._slots = trio.Semaphore(STEPS_IN_FLIGHT)
        self._next: Channel | None = None
        self._rings: list[trio.CancelScope] = []
        self._arrived = 0
        self._received = self._done = 0
        self._computed_tokens = 0
        self._over = False

    @property
    def cache_bytes_per_token(self) -> int:
        """What a token of this generation takes in the stage's cache."""
        return self._stage.cache_bytes_per_token

    async def run(self) -> None:
        """Serves the generation until the caller ends it.

        Raises:
            ProtocolError: The caller sent something malformed.
            DeadlineExceededError: Nothing was heard for a long time.
        """
        failure: HivemindError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._work)
            try:
                await self._listen()
            except StreamClosedError:
                pass  # the caller left; there is nobody to tell
            except HivemindError as error:
                failure = error
            self._over = True
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def end(self) -> None:
        """Closes the ring's channels; called whatever the way in which `run` ended."""
        self._over = True
        self._cache = None
        for scope in self._rings:
            scope.cancel()
        if self._next is not None:
            await self._next.aclose()

    # -- the caller

    async def _listen(self) -> None:
        while True:
            message = await self._next_request()
            kind = message.WhichOneof("kind")
            if kind == "ping":
                pong = pb.Pong(received=self._received, done=self._done)
                await wire.send(self._control, pb.FromStage(pong=pong), defaults.REQUEST_DEADLINE)
            elif kind == "feed" and self._stage.first:
                self._feed(message.feed.tokens, last=message.feed.last)
            elif kind == "close":
                await self._bill()
                return
            else:
                raise ProtocolError(f"peer {self._control.remote} sent {kind} where it has no meaning")

    async def _next_request(self) -> pb.ToStage:
        while True:
            before = self._received
            with trio.move_on_after(SESSION_IDLE) as scope:
                message, _ = await self._control.receive(pb.ToStage)
            if not scope.cancelled_caught:
                return message
            if self._received == before and self._received == self._done:
                raise DeadlineExceededError(f"nothing was heard of this generation for {SESSION_IDLE:g} s")

    async def _bill(self) -> None:
        if self._earner is None:
            await wire.send(self._control, pb.FromStage(receipt=pb.Receipt()), defaults.REQUEST_DEADLINE)
            return
        caller = self._control.remote
        amount = Credits(len(self.request.span) * self._computed_tokens * self._prices.per_layer_token)
        what = f"layers {self.request.span} for {self._computed_tokens} tokens"
        self.billed = True
        receipt = await self._earner.bill(caller, work_id=self.request.work_id, amount=amount, what=what)
        await wire.send(self._control, pb.FromStage(receipt=pb.Receipt(receipt=receipt)), defaults.REQUEST_DEADLINE)
        answer = await wire.receive(self._control, pb.ToStage, defaults.IDLE_DEADLINE, "pay")
        if answer.WhichOneof("kind") != "payment":
            raise ProtocolError(f"peer {caller} answered a receipt with something else than a payment")
        await self._earner.collect(caller, answer.payment.payment)

    # -- what comes in

    def _feed(self, tokens: Sequence[int], *, last: bool) -> None:
        if not 1 <= len(tokens) <= wire.PREFILL_CHUNK:
            raise ProtocolError(f"peer {self._control.remote} fed {len(tokens)} tokens at once")
        self._arrive(Step(self._arrived, len(tokens), last, tokens=tuple(tokens)))

    def _arrive(self, step: Step) -> None:
        """Takes a step in; it was checked against nothing yet but its own form."""
        if step.position != self._arrived or step.position + step.count > self.request.room:
            raise ProtocolError(
                f"tokens {step.position} to {step.position + step.count} came where {self._arrived} were due "
                f"and {self.request.room} fit"
            )
        if any(token >= self._stage.shape.vocabulary for token in step.tokens):
            raise ProtocolError("a token came that is not in the vocabulary")
        self._arrived += step.count
        self._received += 1
        self._send.send_nowait(step)

    async def receive_ring(self, ring: Channel) -> None:
        """Takes what the previous stage sends, until the session ends."""
        with trio.CancelScope() as scope:
            self._rings.append(scope)
            if self._over:
                return
            try:
                while True:
                    await self._slots.acquire()
                    self._arrive(await self._next_step(ring))
            except (NetworkError, GenerationError) as error:
                await self._lose(ring.remote, error)

    async def _next_step(self, ring: Channel) -> Step:
        row = self._stage.shape.hidden_size * 4
        message, payload = await ring.receive(pb.ToNext, max_payload=wire.PREFILL_CHUNK * row)
        kind = message.WhichOneof("kind")
        if kind == "token" and self._stage.first:
            return Step(message.token.position, 1, last=True, tokens=(message.token.token,), ring=True)
        if kind != "activations" or self._stage.first:
            raise ProtocolError(f"peer {ring.remote} sent {kind} on the ring where it has no meaning")
        found = message.activations
        if found.dtype not in DTYPES or not 1 <= found.tokens <= wire.PREFILL_CHUNK:
            raise ProtocolError(f"peer {ring.remote} sent {found.tokens} tokens of dtype {found.dtype[:32]!r}")
        width = 4 if found.dtype == "float32" else 2
        if len(payload) != found.tokens * self._stage.shape.hidden_size * width:
            raise ProtocolError(f"peer {ring.remote} sent {len(payload)} bytes for {found.tokens} tokens")
        return Step(found.position, found.tokens, found.last, hidden=payload, dtype=found.dtype, ring=True)

    # -- what is done with it

    async def _work(self) -> None:
        blamed = self._network.peer_id
        try:
            async for step in self._steps:
                blamed = self._network.peer_id
                made = await trio.to_thread.run_sync(self._compute, step, limiter=self._limiter)
                self._computed_tokens += step.count
                blamed = self.request.next
                await self._pass_on(step, made)
                self._done += 1
                if step.ring:
                    self._slots.release()
        except _NonsenseError as error:
            await self._lose(self.request.previous, GenerationError(str(error)))
        except HivemindError as error:
            await self._lose(blamed, error)

    def _compute(self, step: Step) -> _Made:
        """In a worker thread: one step."""
        import torch

        if self._cache is None:
            self._cache = self._stage.new_cache()
        if step.hidden is None:
            inputs = torch.tensor(step.tokens, dtype=torch.int64)
        else:
            inputs = from_wire(step.hidden, step.count, self._stage.shape.hidden_size, step.dtype)
            if not bool(torch.isfinite(inputs).all()):
                raise _NonsenseError(f"peer {self.request.previous} sent hidden states that are no numbers")
            inputs = inputs.to(getattr(torch, self._stage.dtype))
        try:
            output = self._stage.run(inputs, self._cache)
        except (RuntimeError, ValueError, IndexError, TypeError, MemoryError) as error:
            raise GenerationError(f"layers {self.request.span} failed at token {step.position}: {error}") from error
        if not self._stage.last:
            return _Made(hidden=to_wire(output))
        if not step.last:
            return _Made()
        return _Made(token=sampling.sample(output.numpy(), self.request.sampling, step.position + step.count))

    async def _pass_on(self, step: Step, made: _Made) -> None:
        if made.hidden is not None:
            header = pb.Activations(position=step.position, tokens=step.count, dtype=self._stage.dtype, last=step.last)
            await self._send_ring(pb.ToNext(activations=header), made.hidden)
        if made.token is not None:
            await self._tell_token(step.position + step.count, made.token)

    async def _tell_token(self, position: int, token: int) -> None:
        finished = token in self.request.ends or position + 1 >= self.request.room
        message = pb.Token(position=position, token=token, finished=finished)
        if not finished and self._stage.first:
            self._arrive(Step(position, 1, last=True, tokens=(token,)))
        elif not finished:
            await self._send_ring(pb.ToNext(token=message))
        # After the ring: the next step is on its way while the caller reads.
        try:
            await wire.send(self._control, pb.FromStage(token=message), SEND_DEADLINE)
        except StreamClosedError:
            _events.debug("caller_left", caller=self._control.remote)

    async def _send_ring(self, message: pb.ToNext, payload: memoryview | bytes = b"") -> None:
        try:
            with trio.fail_after(SEND_DEADLINE):
                if self._next is None:
                    self._next = await self._attach()
                await self._next.send(message, payload)
        except trio.TooSlowError as error:
            raise DeadlineExceededError(f"peer {self.request.next} took no step within {SEND_DEADLINE:g} s") from error

    async def _attach(self) -> Channel:
        index = (self.request.index + 1) % self.request.stages
        channel = await self._network.open(self.request.next, wire.RING_PROTOCOL, deadline=defaults.REQUEST_DEADLINE)
        attach = pb.Attach(generation_id=self.request.generation_id, index=index)
        try:
            await wire.send(channel, pb.ToNext(attach=attach), defaults.REQUEST_DEADLINE)
            await wire.receive(channel, pb.Attached, defaults.REQUEST_DEADLINE, "attach to the ring")
        except BaseException:
            await channel.aclose()
            raise
        return channel

    async def _lose(self, peer: PeerId, error: HivemindError) -> None:
        """Tells the caller that the generation cannot go on here, and who is to blame."""
        if self._over:
            return
        _events.warning("generation_lost", peer=peer, reason=error.message)
        lost = pb.Lost(peer=peer, code=error.code(), message=error.message[: wire.LONGEST_TEXT])
        try:
            await wire.send(self._control, pb.FromStage(lost=lost), SEND_DEADLINE)
        except NetworkError:
            _events.debug("caller_left", caller=self._control.remote)
