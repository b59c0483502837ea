"""The host's side of sharded models.

Participants: hosts, which lend memory and computing to spans of models; callers, which write text over them; each
stage of a route and the next one on the ring.

Messages, on ``/hivemind/sharding/2`` between a caller and a host, one conversation each:
    - Host, answered by Hosting until the host is ready or has nothing to do.
    - Ping, answered by Pong.
    - Open, answered by Opened or a failure. Then Feed (to the first stage), Ping, Close and Payment; back come Token
      or Rows (from the last stage), Pong, Lost and Receipt. The generation lives as long as this conversation.
On ``/hivemind/ring/2`` from each stage to the next: see `ring.py`.

Goals: the caller is off the critical path of a step; the network's loop never computes (each stage has a thread of its
own, and how long the loop was ever busy is measured); generations join and leave between the steps of a stage; what is
lent is never more than was lent; nothing a neighbour sends is believed before it was checked; whoever is to blame for
a lost generation is named; a caller that vanishes leaves nothing behind.

Non-goals: going on after a stage was lost (the caller's business, `generation.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import trio

from hivemind_p2p import defaults, telemetry
from hivemind_p2p.errors import (
    BusyError,
    DeadlineExceededError,
    GenerationError,
    HivemindError,
    PromptTooLongError,
    ProtocolError,
    UnsupportedModelError,
)
from hivemind_p2p.interfaces import Channel, Content, Directory, Earner, Network, OfferBook, TaskStatus
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import drafting, hosting, quantise, requests, ring, wire
from hivemind_p2p.sharding.billing import Billing
from hivemind_p2p.sharding.cache import MemoryPool
from hivemind_p2p.sharding.checkpoint import Checkpoint
from hivemind_p2p.sharding.choosing import Drafter
from hivemind_p2p.sharding.chunks import Engine
from hivemind_p2p.sharding.engines import Engines, Hosted
from hivemind_p2p.sharding.loop_watch import LoopWatch
from hivemind_p2p.sharding.requests import OpenRequest
from hivemind_p2p.sharding.session import StageSession
from hivemind_p2p.types import LayerSpan, Link, PeerId, Prices

LATE_SECONDS = 60.0
"""How long a former neighbour may still send what it sent before it knew that its generation is over."""

RECONSIDER_SECONDS = 5.0
"""How often a host looks whether layers are left without one."""

_events = telemetry.source("sharding")


Key: TypeAlias = tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class StageStatistics:
    """What a host does now and has done.

    Attributes:
        stages: Spans hosted, ready.
        sessions: Generations going on.
        generations: Generations opened since the start.
        memory_used: Bytes reserved for weights and caches.
        memory_lent: Bytes that may be.
        steps: Steps that the stages have computed.
        rows: Tokens in them.
        batched: Generations in a step, on average.
        engine_seconds: Seconds that the steps took.
        other_seconds: Seconds around them in the same threads: reading inputs, choosing tokens, writing hidden states.
        loop_stall: Seconds for which the network's loop was busy at a stretch, not exceeded in 99.9 % of all cases.
        frames: Frames sent on the ring.
        entries: Steps of single generations in them.
    """

    stages: int
    sessions: int
    generations: int
    memory_used: int
    memory_lent: int
    steps: int = 0
    rows: int = 0
    batched: float = 0.0
    engine_seconds: float = 0.0
    other_seconds: float = 0.0
    loop_stall: float = 0.0
    frames: int = 0
    entries: int = 0


class StageService:
    """Hosts stages and serves generations.

    Args:
        network: Serves both protocols and opens the ring.
        content: Brings checkpoints' bytes.
        offers: Where this peer's stages are published; whether it serves models stands in its own offer.
        directory: Where models are announced.
        earner: Bills callers; None in a hive without payment.
        threads: torch threads a stage may use.
        memory_bytes: What weights and caches may take together.
        prices: What this peer asks.
    """

    def __init__(
        self,
        network: Network,
        content: Content,
        offers: OfferBook,
        directory: Directory,
        earner: Earner | None = None,
        *,
        threads: int = 1,
        memory_bytes: int,
        prices: Prices | None = None,
    ) -> None:
        self._network = network
        self._earner = earner
        self._prices = prices or Prices()
        self._threads = threads
        self._pool = MemoryPool(memory_bytes, network.peer_id)
        self.host = hosting.Host(network, content, offers, directory, self._pool, threads=threads)
        self._sessions: dict[Key, StageSession] = {}
        self._neighbours: dict[PeerId, float] = {}
        self._ring = ring.Ring(network, self)
        self._engines = Engines(self._ring.flush)
        self._loop_watch = LoopWatch()
        self._drafting = drafting.Drafting(content, self._pool, self._load_draft)
        self.make_drafter: Callable[[OpenRequest, int], Drafter] = self._make_drafter
        self._generations = 0
        self._nursery: trio.Nursery | None = None
        network.serve(wire.PROTOCOL, self._answer)
        network.serve(ring.PROTOCOL, self._ring.serve)

    def statistics(self) -> StageStatistics:
        """Figures of this moment."""
        figures = self._engines.figures()
        return StageStatistics(
            stages=len(self.host.stages),
            sessions=len(self._sessions),
            generations=self._generations,
            memory_used=self._pool.used,
            memory_lent=self._pool.capacity,
            steps=figures.steps,
            rows=figures.rows,
            batched=figures.generations / max(1, figures.steps),
            engine_seconds=figures.engine_seconds,
            other_seconds=figures.other_seconds,
            loop_stall=self._loop_watch.quantile(0.999),
            frames=self._ring.frames,
            entries=self._ring.entries,
        )

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Hosts what needs a host, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._ring.run_in(nursery)
            trio.lowlevel.add_instrument(self._loop_watch)
            task_status.started()
            try:
                while True:
                    await self._reconsider(nursery)
                    await trio.sleep(RECONSIDER_SECONDS)
            finally:
                self._stop()

    def _stop(self) -> None:
        self._nursery = None
        self._ring.run_in(None)
        trio.lowlevel.remove_instrument(self._loop_watch)
        self._engines.stop()

    async def _reconsider(self, nursery: trio.Nursery) -> None:
        try:
            await self.host.reconsider(nursery)
        except HivemindError as error:
            _events.warning("reconsidering_failed", reason=error.message)

    async def _answer(self, channel: Channel) -> None:
        message, payload = await self._first_request(channel)
        kind = message.WhichOneof("kind")
        if kind == "host":
            await self._host(channel, message.host)
        elif kind == "ping":
            await wire.send(channel, pb.FromStage(pong=pb.Pong()), defaults.REQUEST_DEADLINE)
        elif kind == "open":
            await self._open(channel, message.open, payload)
        else:
            raise ProtocolError(f"peer {channel.remote} began a conversation with {kind}")

    async def _first_request(self, channel: Channel) -> tuple[pb.ToStage, memoryview]:
        try:
            with trio.fail_after(defaults.REQUEST_DEADLINE):
                return await channel.receive(pb.ToStage, max_payload=requests.MAX_TEXT_BYTES)
        except trio.TooSlowError as error:
            raise DeadlineExceededError(f"peer {channel.remote} did not say what it wants") from error

    # -- hosting

    async def _host(self, channel: Channel, request: pb.Host) -> None:
        if len(request.link) > wire.LONGEST_LINK or len(request.lost) > wire.MAX_LOST:
            raise ProtocolError(f"peer {channel.remote} asks to host with values that no honest peer sends")
        if self._nursery is None:
            raise BusyError(f"peer {self._network.peer_id} is starting or stopping")
        span = LayerSpan(request.span.start, request.span.stop) if request.HasField("span") else None
        job = self.host.ask(self._nursery, Link(request.link), [PeerId(peer) for peer in request.lost], span)
        told: hosting.HostProgress | None = None
        while True:
            if job.progress != told:
                told = job.progress
                await wire.send(channel, hosting.encode_progress(told), defaults.REQUEST_DEADLINE)
            elif job.finished:
                break
            else:
                await job.change()
        if job.error is not None:
            raise job.error

    # -- generations

    async def _open(self, channel: Channel, message: pb.Open, payload: memoryview) -> None:
        request = requests.decode_open(message, payload, channel.remote)
        if self._nursery is None:
            raise BusyError(f"peer {self._network.peer_id} is starting or stopping")
        hosted = self._engines.of(self.host.find(request.link, request.span))
        engine = await hosted.part(request.span)
        _check(request, engine)
        if (request.generation_id, request.index) in self._sessions:
            raise GenerationError("a generation of this name is going on already")
        billing = Billing(self._earner, self._prices, request, channel.remote)
        await billing.admit()
        try:
            await self._hold_session(hosted, engine, channel, request, billing)
        finally:
            billing.dismiss()

    async def _hold_session(
        self, hosted: Hosted, engine: Engine, channel: Channel, request: OpenRequest, billing: Billing
    ) -> None:
        key = (request.generation_id, request.index)
        session = StageSession(
            self._network.peer_id,
            engine,
            hosted.thread,
            self._ring,
            channel,
            request,
            drafter=self._drafter(request, engine),
            billing=billing,
        )
        self._sessions[key] = session
        self._generations += 1
        hosted.sessions += 1
        try:
            await session.run()
        finally:
            del self._sessions[key]
            hosted.sessions -= 1
            self._engines.let_go(hosted, self.host.stages.values())

    def _drafter(self, request: OpenRequest, engine: Engine) -> Drafter | None:
        """Who guesses ahead, where the caller asked for it and this stage is the first one."""
        wanted = request.drafts and engine.first and request.mode == pb.TOKENS
        return self.make_drafter(request, engine.shape.vocabulary) if wanted else None

    def _make_drafter(self, request: OpenRequest, vocabulary: int) -> Drafter:
        return self._drafting.make(request, vocabulary, self._nursery)

    def _load_draft(self, folder: Path, checkpoint: Checkpoint, span: LayerSpan) -> Engine:
        return hosting.load_engine(folder, checkpoint, span, threads=self._threads, pool=self._pool)

    # -- the ring

    def ring_entry(self, source: PeerId, entry: pb.Entry, payload: memoryview) -> None:
        """See `ring.Receiver`. A late word of a generation that is over is passed over."""
        if session := self._sessions.get((entry.generation_id, entry.index)):
            session.ring_entry(source, entry, payload)

    def ring_lost(self, peer: PeerId, error: HivemindError) -> None:
        """See `ring.Receiver`."""
        for session in list(self._sessions.values()):
            if peer in (session.request.previous, session.request.next):
                session.lose(peer, error)

    def knows_neighbour(self, peer: PeerId) -> bool:
        """See `ring.Receiver`. Frames may be on their way that were sent before a generation ended."""
        now = trio.current_time()
        if any(session.request.previous == peer for session in self._sessions.values()):
            self._neighbours[peer] = now
        return now - self._neighbours.get(peer, -math.inf) < LATE_SECONDS


def _check(request: OpenRequest, engine: Engine) -> None:
    """Whether the stage can do what it is asked for."""
    context = engine.shape.context
    if request.room > context:
        raise PromptTooLongError(f"{request.room} tokens do not fit a context of {context}")
    if engine.first != (request.index == 0) or engine.last != request.last:
        raise ProtocolError(f"layers {request.span} cannot be stage {request.index + 1} of {request.stages}")
    if engine.encoder != (request.mode == pb.EMBED):
        kind = "an encoder: it makes vectors of texts" if engine.encoder else "a decoder: it goes on with texts"
        raise UnsupportedModelError(f"{request.link} is {kind}", hint="Encoders have embed, decoders have generate.")
    if request.activations and request.activations not in quantise.ENCODINGS:
        raise ProtocolError(f"activations cannot be written as {request.activations[:32]!r}")
    if request.text and (engine.first or engine.last) and max(request.text) >= engine.shape.vocabulary:
        raise ProtocolError("a token came that is not in the vocabulary")


__all__ = ["StageService", "StageStatistics"]
