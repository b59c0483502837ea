"""The host's side of sharded models.

Participants: hosts, which lend memory and computing to spans of models; callers, which write text over them; each
stage of a route and the next one on the ring.

Messages, on ``/hivemind/sharding/1`` between a caller and a host, one conversation each:
    - Host, answered by Hosting until the host is ready or has nothing to do.
    - Ping, answered by Pong.
    - Open, answered by Opened or a failure. Then Feed (to the first stage), Ping, Close and Payment; back come Token
      (from the last stage), Pong, Lost and Receipt. The generation lives as long as this conversation.
On ``/hivemind/ring/1`` from each stage to the next: Attach, answered by Attached, then Activations with the hidden
states as payload; from the last stage to the first: Token.

Goals: the caller is off the critical path of a step; what is lent is never more than was lent (`MemoryPool`); nothing a
neighbour sends is believed before it was checked; whoever is to blame for a lost generation is named; a caller that
vanishes leaves nothing behind.

Non-goals: going on after a stage was lost (the caller's business, `generation.py`); batching generations.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from hivemind_p2p import defaults, telemetry
from hivemind_p2p.errors import BusyError, GenerationError, HivemindError, PromptTooLongError, ProtocolError
from hivemind_p2p.interfaces import Channel, Content, Directory, Earner, Network, OfferBook, TaskStatus
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import hosting, wire
from hivemind_p2p.sharding.cache import MemoryPool
from hivemind_p2p.sharding.session import StageSession
from hivemind_p2p.types import Credits, Link, PeerId, Prices

RECONSIDER_SECONDS = 5.0
"""How often a host looks whether layers are left without one."""

_events = telemetry.source("sharding")


@dataclass(frozen=True, slots=True)
class StageStatistics:
    """What a host does now and has done.

    Attributes:
        stages: Spans hosted, ready.
        sessions: Generations going on.
        generations: Generations opened since the start.
        memory_used: Bytes reserved for weights and caches.
        memory_lent: Bytes that may be.
    """

    stages: int
    sessions: int
    generations: int
    memory_used: int
    memory_lent: int


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
        self._pool = MemoryPool(memory_bytes, network.peer_id)
        self.host = hosting.Host(network, content, offers, directory, self._pool, threads=threads)
        self._sessions: dict[tuple[bytes, int], StageSession] = {}
        self._generations = 0
        self._nursery: trio.Nursery | None = None
        network.serve(wire.PROTOCOL, self._answer)
        network.serve(wire.RING_PROTOCOL, self._answer_ring)

    def statistics(self) -> StageStatistics:
        """Figures of this moment."""
        return StageStatistics(
            stages=len(self.host.stages),
            sessions=len(self._sessions),
            generations=self._generations,
            memory_used=self._pool.used,
            memory_lent=self._pool.capacity,
        )

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Hosts what needs a host, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                while True:
                    await self._reconsider(nursery)
                    await trio.sleep(RECONSIDER_SECONDS)
            finally:
                self._nursery = None

    async def _reconsider(self, nursery: trio.Nursery) -> None:
        try:
            await self.host.reconsider(nursery)
        except HivemindError as error:
            _events.warning("reconsidering_failed", reason=error.message)

    async def _answer(self, channel: Channel) -> None:
        message = await wire.receive(channel, pb.ToStage, defaults.REQUEST_DEADLINE, "say what it wants")
        kind = message.WhichOneof("kind")
        if kind == "host":
            await self._host(channel, message.host)
        elif kind == "ping":
            await wire.send(channel, pb.FromStage(pong=pb.Pong()), defaults.REQUEST_DEADLINE)
        elif kind == "open":
            await self._open(channel, message.open)
        else:
            raise ProtocolError(f"peer {channel.remote} began a conversation with {kind}")

    # -- hosting

    async def _host(self, channel: Channel, request: pb.Host) -> None:
        if len(request.link) > wire.LONGEST_LINK or len(request.lost) > wire.MAX_LOST:
            raise ProtocolError(f"peer {channel.remote} asks to host with values that no honest peer sends")
        if self._nursery is None:
            raise BusyError(f"peer {self._network.peer_id} is starting or stopping")
        job = self.host.ask(self._nursery, Link(request.link), [PeerId(peer) for peer in request.lost])
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

    async def _open(self, channel: Channel, message: pb.Open) -> None:
        request = wire.decode_open(message, channel.remote)
        loaded = self.host.find(request.link, request.span)
        stage = loaded.stage
        if request.room > stage.shape.context:
            raise PromptTooLongError(f"{request.room} tokens do not fit a context of {stage.shape.context}")
        if stage.first != (request.index == 0) or stage.last != request.last:
            raise ProtocolError(f"layers {request.span} cannot be stage {request.index + 1} of {request.stages}")
        key = (request.generation_id, request.index)
        if key in self._sessions:
            raise GenerationError("a generation of this name is going on already")
        session = StageSession(self._network, stage, loaded.limiter, channel, request, self._earner, self._prices)
        if self._earner is None:
            await self._hold_session(key, session, channel)
            return
        limit = Credits(len(request.span) * request.room * self._prices.per_layer_token)
        await self._earner.admit(channel.remote, request.payment, limit=limit)
        try:
            await self._hold_session(key, session, channel)
        finally:
            if not session.billed:
                self._earner.dismiss(channel.remote, limit=limit)

    async def _hold_session(self, key: tuple[bytes, int], session: StageSession, channel: Channel) -> None:
        """Runs a session in the room that is reserved for it."""
        room = session.request.room
        self._pool.reserve(key, room * session.cache_bytes_per_token, f"{room} tokens")
        self._sessions[key] = session
        self._generations += 1
        try:
            await wire.send(channel, pb.FromStage(opened=pb.Opened()), defaults.REQUEST_DEADLINE)
            await session.run()
        finally:
            del self._sessions[key]
            self._pool.release(key)
            with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
                await session.end()

    async def _answer_ring(self, channel: Channel) -> None:
        message = await wire.receive(channel, pb.ToNext, defaults.REQUEST_DEADLINE, "attach to the ring")
        attach = message.attach
        session = self._sessions.get((attach.generation_id, attach.index))
        if message.WhichOneof("kind") != "attach" or session is None:
            raise GenerationError(f"peer {self._network.peer_id} knows no such generation")
        if session.request.previous != channel.remote:
            raise ProtocolError(f"peer {channel.remote} is not this stage's neighbour on the ring")
        with trio.fail_after(defaults.REQUEST_DEADLINE):
            await channel.send(pb.Attached())
        await session.receive_ring(channel)


__all__ = ["StageService", "StageStatistics"]
