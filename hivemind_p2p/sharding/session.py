"""One generation at one stage, as the network's loop sees it.

What the caller and the ring say is checked and handed to the engine's thread, and what that has made is sent on, until
the caller ends the generation.

Nothing here computes and nothing here waits for a computation, so a stage that is busy with a long prompt still
answers when it is asked whether it lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import trio

from hivemind_p2p import defaults, telemetry
from hivemind_p2p.errors import DeadlineExceededError, HivemindError, NetworkError, ProtocolError, StreamClosedError
from hivemind_p2p.interfaces import Channel
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import pieces, wire
from hivemind_p2p.sharding.billing import Billing
from hivemind_p2p.sharding.choosing import Chooser, Drafter
from hivemind_p2p.sharding.chunks import Engine
from hivemind_p2p.sharding.computation import Computation, Made
from hivemind_p2p.sharding.engine_thread import EngineThread
from hivemind_p2p.sharding.intake import MOST_WAITING, WINDOW, Intake, Piece, windowed
from hivemind_p2p.sharding.requests import MAX_DRAFTS, OpenRequest
from hivemind_p2p.sharding.ring import Ring
from hivemind_p2p.types import PeerId

SESSION_IDLE = 120.0
"""Seconds in which neither the caller nor the ring says anything, after which a session is ended: its caller was
stopped, or sits behind a broken link."""

SEND_DEADLINE = 30.0
"""Seconds in which the caller has to take what it is told."""

MOST_UNTOLD = 4096
"""Messages that wait for a caller which reads slowly, before its generation is ended."""

MOST_UNTOLD_BYTES = 128 * 2**20
"""Bytes of rows that wait for such a caller: an honest one never has more asked for than a few chunks."""

_Word: TypeAlias = tuple[pb.FromStage, memoryview | bytes, int]

_events = telemetry.source("sharding")


class StageSession:
    """One generation at one stage.

    Args:
        me: This peer.
        engine: Computes the span.
        thread: Where it does.
        ring: Leads to the neighbours.
        control: The caller's channel, its Open already read.
        request: What the caller asked for.
        drafter: Guesses ahead, on the first stage, where the caller asked for it.
        billing: Counts and bills what was computed.
    """

    def __init__(
        self,
        me: PeerId,
        engine: Engine,
        thread: EngineThread,
        ring: Ring,
        control: Channel,
        request: OpenRequest,
        *,
        drafter: Drafter | None,
        billing: Billing,
    ) -> None:
        self.request = request
        self.over = False
        self._me = me
        self._engine = engine
        self._thread = thread
        self._ring = ring
        self._control = control
        self._billing = billing
        self._drafter = drafter
        chooser = Chooser(request.sampling, request.text) if request.last and request.mode == pb.TOKENS else None
        self._computation = Computation(
            engine,
            (request.generation_id, request.index),
            request,
            chooser=chooser,
            drafter=drafter,
            deliver=self._made,
        )
        self._intake: Intake
        self._chosen = 0
        """The position of the last token that was chosen, on the first stage."""
        self._heard = 0
        self._scope = trio.CancelScope()
        self._untold_bytes = 0
        self._untold, self._told = trio.open_memory_channel[_Word](MOST_UNTOLD)

    async def run(self) -> None:
        """Serves the generation until the caller ends it.

        Raises:
            BusyError: There is no room for its cache.
            ProtocolError: The caller sent something malformed.
            DeadlineExceededError: Nothing was heard for a long time.
        """
        request, key = self.request, self._computation.key
        reusable = await self._thread.call(self._engine.open, key, request.room, request.text)
        self._thread.join(self._computation, self._control.remote, request.stages)
        self._ring.hold(request.next)
        try:
            self._intake = self._new_intake(reusable)
            opened = pb.FromStage(opened=pb.Opened(reusable=reusable))
            await wire.send(self._control, opened, defaults.REQUEST_DEADLINE)
            await self._serve()
        finally:
            self.over = True
            self._ring.release(request.next)
            self._thread.leave(key)
            if self._drafter is not None:
                self._thread.call_soon(self._drafter.close)

    def _new_intake(self, reusable: int) -> Intake:
        request, first = self.request, self._engine.first
        return Intake(
            room=request.room,
            vocabulary=self._engine.shape.vocabulary if first else 0,
            reusable=reusable,
            budget=0 if request.mode == pb.TOKENS else request.paid_tokens,
            # The last stage in client mode is ahead of its caller instead of another stage.
            forwards=not request.last or request.mode != pb.TOKENS,
            window=pieces.rows_window(request, self._engine.shape) if request.last else WINDOW,
            # Token ids are small, and a caller may hand over a whole prompt at once.
            most_waiting=MOST_WAITING + (request.room if first else 0),
        )

    async def _serve(self) -> None:
        failure: HivemindError | None = None
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            nursery.start_soon(self._tell)
            try:
                await self._listen()
            except StreamClosedError:
                pass  # the caller left; there is nobody to tell
            except HivemindError as error:
                failure = error
            self.over = True
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    # -- the caller

    async def _listen(self) -> None:
        while True:
            message = await self._next_request()
            kind = message.WhichOneof("kind")
            if kind == "ping":
                await wire.send(self._control, pb.FromStage(pong=self._pong()), defaults.REQUEST_DEADLINE)
            elif kind == "feed" and self._engine.first:
                self._feed(message.feed)
            elif kind == "close":
                await self._billing.bill(self._control)
                return
            else:
                raise ProtocolError(f"peer {self._control.remote} sent {kind} where it has no meaning")

    async def _next_request(self) -> pb.ToStage:
        while True:
            before = self._heard
            with trio.move_on_after(SESSION_IDLE) as scope:
                message, _ = await self._control.receive(pb.ToStage)
            if not scope.cancelled_caught:
                return message
            if self._heard == before and self._intake.idle:
                raise DeadlineExceededError(f"nothing was heard of this generation for {SESSION_IDLE:g} s")

    def _pong(self) -> pb.Pong:
        return pb.Pong(received=self._intake.received, done=self._intake.done, busy=self._thread.busy_for)

    async def _tell(self) -> None:
        """Tells the caller what there is to tell: tokens, rows, the loss of the generation."""
        try:
            while True:
                message, payload, rows = await self._told.receive()
                with trio.fail_after(SEND_DEADLINE):
                    await self._control.send(message, payload)
                self._untold_bytes -= len(payload)
                if rows:
                    self._compute(self._intake.taken(rows))
        except (NetworkError, trio.TooSlowError):
            _events.debug("caller_left", caller=self._control.remote)
            await self._control.aclose()

    def _say(self, message: pb.FromStage, payload: memoryview | bytes = b"", *, rows: int = 0) -> None:
        """Tells the caller something soon; when it has taken it, so many rows are off this stage's hands."""
        self._untold_bytes += len(payload)
        if self._untold_bytes > MOST_UNTOLD_BYTES:
            self._end_silently()
            return
        try:
            self._untold.send_nowait((message, payload, rows))
        except trio.WouldBlock:
            self._end_silently()

    def _end_silently(self) -> None:
        """Ends the generation of a caller that takes nothing."""
        self.over = True
        self._scope.cancel()

    # -- what comes in

    def _feed(self, feed: pb.Feed) -> None:
        for piece in pieces.of_feed(feed, self.request, self._engine.shape):
            self._chosen = piece.position + piece.rows - 1
            self._arrive(piece)

    def ring_entry(self, source: PeerId, entry: pb.Entry, payload: memoryview) -> None:
        """Takes an entry of this generation in; what is wrong with it costs this generation alone."""
        if self.over:
            return
        try:
            self._sort(source, entry, payload)
        except HivemindError as error:
            self.lose(source, error)

    def _sort(self, source: PeerId, entry: pb.Entry, payload: memoryview) -> None:
        kind = entry.WhichOneof("kind")
        if kind == "taken" and source == self.request.next and not self.request.last:
            self._compute(self._intake.taken(entry.taken.rows))
        elif source != self.request.previous:
            raise ProtocolError(f"peer {source} is not this stage's neighbour on the ring")
        elif kind == "token" and self._engine.first and self.request.mode == pb.TOKENS:
            self._take_token(entry.token)
        elif kind == "activations" and not self._engine.first:
            self._arrive(pieces.of_activations(entry.activations, payload, self.request, self._engine.shape))
        else:
            raise ProtocolError(f"peer {source} sent {kind} on the ring where it has no meaning")

    def _take_token(self, token: pb.Token) -> None:
        """The last stage has chosen: the next step begins with its last token."""
        tokens = tuple(token.tokens)
        if token.position != self._chosen + 1 or not 1 <= len(tokens) <= MAX_DRAFTS + 1:
            raise ProtocolError(f"{len(tokens)} tokens came for {token.position} where {self._chosen + 1} was due")
        self._chosen += len(tokens)
        if not token.finished:
            self._arrive(Piece(self._chosen, 1, last=True, tokens=tokens[-1:], news=tokens))

    def _arrive(self, piece: Piece) -> None:
        self._heard += 1
        self._compute(self._intake.take(piece))

    def _compute(self, ready: Sequence[Piece]) -> None:
        divisible = self.request.mode != pb.EMBED
        for piece in ready:
            self._thread.add(self._computation, piece, divisible=divisible)

    # -- what was made

    def _made(self, made: Made) -> None:
        """Called in the loop with what the engine's thread has made of a part."""
        if self.over:
            return
        part, request = made.part, self.request
        if made.error is not None:
            self.lose(request.previous if made.nonsense else self._me, made.error)
            return
        self._billing.computed(part.rows)
        if part.final:
            self._intake.computed(part.piece, drafted=len(part.drafts) if part.piece.tokens else 0)
        if made.forward is not None and made.hidden is not None:
            self._send(self._next_index, pb.Entry(activations=made.forward), made.hidden)
        elif made.token is not None:
            self._chose(made.token)
        self._say_rows(made)
        if part.final and windowed(part.piece) and not self._engine.first:
            taken = pb.Entry(generation_id=request.generation_id, index=request.index - 1)
            taken.taken.rows = part.piece.rows
            self._ring.answer(request.previous, taken)

    def _say_rows(self, made: Made) -> None:
        piece = made.part.piece
        for number, (rows, payload) in enumerate(made.rows, start=1):
            ends = made.part.final and number == len(made.rows)
            # Other stages than the last are held back by the next one alone.
            self._say(pb.FromStage(rows=rows), payload, rows=piece.rows if ends and self.request.last else 0)
        if made.part.final and not made.rows and self.request.last:
            self._compute(self._intake.taken(piece.rows if windowed(piece) else 0))

    def _chose(self, token: pb.Token) -> None:
        # The ring first: the next step is on its way while the caller reads.
        if not token.finished:
            self._send(0, pb.Entry(token=token))
        self._say(pb.FromStage(token=token))

    @property
    def _next_index(self) -> int:
        return self.request.index + 1

    def _send(self, index: int, entry: pb.Entry, payload: memoryview | bytes = b"") -> None:
        entry.generation_id = self.request.generation_id
        entry.index = index
        self._ring.send(self.request.next, entry, payload)

    def lose(self, peer: PeerId, error: HivemindError) -> None:
        """Tells the caller that the generation cannot go on here, and who is to blame."""
        if self.over:
            return
        _events.warning("generation_lost", peer=peer, reason=error.message)
        lost = pb.Lost(peer=peer, code=error.code(), message=error.message[: wire.LONGEST_TEXT])
        self._say(pb.FromStage(lost=lost))


__all__ = ["StageSession"]
