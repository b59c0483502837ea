"""How a peer comes to host layers: it decides, claims, fetches the bytes that it needs, loads, and says so.

One job at a time works on a model, whoever asked for it; everybody who asks meanwhile watches the same job.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import trio

from hivemind_p2p import defaults, telemetry
from hivemind_p2p.errors import (
    BusyError,
    CheckpointError,
    ConfigurationError,
    HivemindError,
    MissingLayersError,
    NetworkError,
    ProtocolError,
    UnsupportedModelError,
)
from hivemind_p2p.interfaces import Content, Directory, Network, OfferBook
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import checkpoint as checkpoints
from hivemind_p2p.sharding import market, placement, spans, speed, wire
from hivemind_p2p.sharding.cache import MemoryPool
from hivemind_p2p.sharding.chunks import Engine
from hivemind_p2p.types import FetchProgress, LayerSpan, Link, Offer, PeerId, StageOffer

PING_DEADLINE = 2.0
"""Seconds that a peer which somebody calls dead has to prove that it is not."""

FETCH_DEADLINE = 3600.0
"""Seconds for a span's bytes. The swarm gives up idle sources itself; this bounds a swarm that trickles."""

MOVE_AFTER = 60.0
"""Seconds that a move has to look right before it is made, where the model is served as it is: peers come and go, and
what they measure of themselves is noisy."""

RETRY_SECONDS = 30.0
"""How long a peer that failed to host a model leaves it alone, unless it is asked again."""

State = pb.Hosting.State
Key: TypeAlias = tuple[Link, LayerSpan]

_events = telemetry.source("sharding")


@dataclass(frozen=True, slots=True)
class HostProgress:
    """How far a peer is with hosting a span."""

    state: pb.Hosting.State = State.NOTHING_TO_DO
    span: LayerSpan | None = None
    done_bytes: int = 0
    wanted_bytes: int = 0

    @property
    def state_name(self) -> str:
        """The state in a word, for people."""
        return State.Name(self.state).lower().replace("_", " ")


class Job:
    """What a peer does about one model now, and who watches.

    Attributes:
        suspects: Peers that somebody called dead.
        dead: Those that were found to be.
        by_hand: Layers that somebody asked for; without any, the peer decides by itself.
    """

    def __init__(self) -> None:
        self.suspects: set[PeerId] = set()
        self.dead: set[PeerId] = set()
        self.by_hand: set[LayerSpan] = set()
        self.progress = HostProgress()
        self.finished = False
        self.error: HivemindError | None = None
        self._changed = trio.Event()

    def tell(self, progress: HostProgress) -> None:
        """Notes how far the job is, and wakes who watches."""
        self.progress = progress
        self._changed.set()
        self._changed = trio.Event()

    def finish(self, error: HivemindError | None = None) -> None:
        """Says that the job is over."""
        self.finished, self.error = True, error
        self._changed.set()

    async def change(self) -> None:
        """Waits for the next `tell` or `finish`."""
        await self._changed.wait()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A stage that this peer hosts."""

    engine: Engine


class Host:
    """Keeps the stages of this peer.

    Args:
        network: Asks peers that somebody calls dead whether they live.
        content: Brings the bytes.
        offers: Where claims are read and published.
        directory: Where published models are found.
        pool: The memory that the weights are taken from.
        threads: torch threads a stage may use.
    """

    def __init__(
        self,
        network: Network,
        content: Content,
        offers: OfferBook,
        directory: Directory,
        pool: MemoryPool,
        *,
        threads: int,
    ) -> None:
        self.stages: dict[Key, Loaded] = {}
        self._network = network
        self._content = content
        self._offers = offers
        self._directory = directory
        self._pool = pool
        self._threads = threads
        self._speed = 0
        self._claims: dict[Key, bool] = {}
        self._sizes: dict[Key, int] = {}
        self._wishes: dict[Link, tuple[placement.Take, float]] = {}
        self._jobs: dict[Link, Job] = {}
        self._not_before: dict[Link, float] = {}
        self._publishing = trio.Lock()

    def find(self, link: Link, span: LayerSpan) -> Loaded:
        """The stage that holds a span, alone or among other layers.

        Raises:
            MissingLayersError: This peer does not host it.
        """
        holding = [
            hosted
            for hosted_link, hosted in self.stages
            if hosted_link == link and hosted.start <= span.start < span.stop <= hosted.stop
        ]
        if holding:
            return self.stages[link, min(holding, key=len)]
        raise MissingLayersError(f"peer {self._network.peer_id} does not host layers {span} of {link}")

    def ask(
        self, nursery: trio.Nursery, link: Link, lost: Collection[PeerId] = (), span: LayerSpan | None = None
    ) -> Job:
        """The job that considers hosting a model now; it runs in `nursery`, whatever becomes of who asked."""
        job = self._jobs.get(link)
        if job is None:
            job = self._jobs[link] = Job()
            nursery.start_soon(self._work, job, link)
        job.suspects |= set(lost) - job.dead
        if span is not None:
            job.by_hand.add(span)
        return job

    async def reconsider(self, nursery: trio.Nursery) -> None:
        """Looks at every published model, so that layers lost with a peer get a host again."""
        records = await self._directory.lookup(defaults.MODELS_KEY)
        now = trio.current_time()
        for link in {model.link for model in wire.sound_models(records)}:
            if self._not_before.get(link, now) <= now:
                self.ask(nursery, link)

    async def _work(self, job: Job, link: Link) -> None:
        error: HivemindError | None = None
        try:
            while await self._take_one(job, link):
                continue
        except HivemindError as failure:
            error = failure
            self._not_before[link] = trio.current_time() + RETRY_SECONDS
            _events.warning("hosting_failed", link=link, reason=failure.message)
        except Exception as failure:
            # The model library can raise anything on a stranger's checkpoint; the peer and its other models live on.
            error = UnsupportedModelError(f"peer {self._network.peer_id} cannot load {link}: {failure!r}"[:1024])
            self._not_before[link] = trio.current_time() + RETRY_SECONDS
            _events.error("hosting_broke", link=link, exc_info=failure)
        finally:
            del self._jobs[link]
            job.finish(error)

    async def _take_one(self, job: Job, link: Link) -> bool:
        """Hosts one more span if one is left for this peer; whether it did."""
        model = wire.find_model(await self._directory.lookup(defaults.MODELS_KEY), link)
        if model is None:
            raise MissingLayersError(f"nobody announces the model {link}", hint="Publish it with publish_model first.")
        if job.by_hand:
            await self._take_by_hand(job, model, job.by_hand.pop())
            return True
        if model.by_hand:
            return False
        offers = await self._living(await self._offers.offers(fresh=True), job)
        # What this peer claims counts at once, even if its own offer is still on its way through the directory.
        offers = [self._with_claims(offer) for offer in offers]
        take = await trio.to_thread.run_sync(market.decide, model, self._network.peer_id, offers)
        if take is None or (link, take.span) in self._claims:
            self._wishes.pop(link, None)
            self._check_room(model)
            return False
        if take.instead_of is not None and market.served(model, offers) and not self._wished_long(link, take):
            return False
        await self._take(job, model, take)
        return True

    async def _take_by_hand(self, job: Job, model: wire.ModelRecord, span: LayerSpan) -> None:
        if not 0 <= span.start < span.stop <= model.layer_count:
            raise ConfigurationError(f"{model.name} has {model.layer_count} layers, so no layers {span}")
        if (model.link, span) in self.stages:
            return
        own = next(
            (offer for offer in await self._offers.offers() if offer.peer.peer_id == self._network.peer_id), None
        )
        if own is None or not market.serves(own, model.link):
            raise BusyError(f"peer {self._network.peer_id} does not serve {model.name}")
        await self._take(job, model, placement.Take(span))

    def _check_room(self, model: wire.ModelRecord) -> None:
        """Says so where a peer that hosts nothing of a model has no room for a single layer of it."""
        if any(link == model.link for link, _ in self._claims):
            return
        smallest = min(market.sizes_of(model).memory)
        if smallest > self._free():
            raise BusyError(
                f"peer {self._network.peer_id} has no room for the weights of {model.name}: "
                f"one layer takes {smallest} bytes, {self._free()} are free",
                hint="Lend it more memory with --memory, or ask other peers.",
            )

    def _wished_long(self, link: Link, take: placement.Take) -> bool:
        """Whether this move has looked right for a while: a model that is served well enough can wait for it."""
        wish, since = self._wishes.get(link, (take, trio.current_time()))
        if wish != take:
            since = trio.current_time()
        self._wishes[link] = (take, since)
        if trio.current_time() - since < MOVE_AFTER:
            return False
        del self._wishes[link]
        return True

    async def _take(self, job: Job, model: wire.ModelRecord, take: placement.Take) -> None:
        """Hosts a span; the one that it replaces goes once this one is ready, or now if there is no room for both."""
        link, span, old = model.link, take.span, take.instead_of
        if old is not None and market.bytes_of(model, span) > self._free():
            await self._give_up(link, old)
            old = None
        self._sizes[link, span] = market.bytes_of(model, span)
        await self._claim(link, span)
        job.tell(HostProgress(State.CLAIMED, span))
        try:
            loaded = await self._load(job, model, span)
        except BaseException:
            self._pool.release((link, span))
            with trio.CancelScope(deadline=trio.current_time() + defaults.REQUEST_DEADLINE, shield=True):
                await self._unclaim(link, span)
            raise
        self.stages[link, span] = loaded
        await self._claim(link, span, ready=True)
        _events.info("stage_ready", link=link, span=str(span))
        job.tell(replace(job.progress, state=State.READY))
        if old is not None:
            await self._give_up(link, old)
        if not self._speed:
            await self._measure()

    async def _give_up(self, link: Link, span: LayerSpan) -> None:
        """Hosts a span no longer; generations that run on it end as they would have."""
        self.stages.pop((link, span), None)
        self._pool.release((link, span))
        _events.info("stage_given_up", link=link, span=str(span))
        await self._unclaim(link, span)

    async def _measure(self) -> None:
        """Finds out how fast this machine runs through weights, and says it in the offer.

        Not before there is a stage, which needs torch anyway.
        """
        self._speed = await trio.to_thread.run_sync(speed.measure, self._threads)
        with contextlib.suppress(HivemindError):  # it is said with the next change
            await self._publish()

    def _free(self) -> int:
        """Bytes that this peer would still give to weights."""
        return max(0, market.weight_bytes(self._pool.capacity) - sum(self._sizes.values()))

    def _with_claims(self, offer: Offer) -> Offer:
        if offer.peer.peer_id != self._network.peer_id:
            return offer
        return replace(
            offer, stages=self._own_stages(), weight_bytes_free=self._free(), weight_bytes_per_second=self._speed
        )

    async def _living(self, offers: Sequence[Offer], job: Job) -> list[Offer]:
        """The offers without those of peers that are said to be dead and do not answer."""
        suspects, job.suspects = job.suspects, set()

        async def check(peer: PeerId) -> None:
            if not await self._answers(peer):
                job.dead.add(peer)

        async with trio.open_nursery() as nursery:
            for offer in offers:
                if offer.peer.peer_id in suspects:
                    nursery.start_soon(check, offer.peer.peer_id)
        return [offer for offer in offers if offer.peer.peer_id not in job.dead]

    async def _answers(self, peer: PeerId) -> bool:
        try:
            channel = await self._network.open(peer, wire.PROTOCOL, deadline=PING_DEADLINE)
        except NetworkError:
            return False
        try:
            await wire.send(channel, pb.ToStage(ping=pb.Ping()), PING_DEADLINE)
            await wire.receive(channel, pb.FromStage, PING_DEADLINE, "answer a ping")
        except HivemindError:
            return False
        finally:
            await channel.aclose()
        return True

    # -- claims

    async def _claim(self, link: Link, span: LayerSpan, *, ready: bool = False) -> None:
        self._claims[link, span] = ready
        await self._publish()

    async def _unclaim(self, link: Link, span: LayerSpan) -> None:
        self._claims.pop((link, span), None)
        self._sizes.pop((link, span), None)
        with contextlib.suppress(HivemindError):  # the offer expires by itself
            await self._publish()

    async def _publish(self) -> None:
        async with self._publishing:
            await self._offers.set_stages(
                self._own_stages(), weight_bytes_free=self._free(), weight_bytes_per_second=self._speed
            )

    def _own_stages(self) -> tuple[StageOffer, ...]:
        return tuple(StageOffer(link, span, ready) for (link, span), ready in sorted(self._claims.items()))

    # -- loading

    async def _load(self, job: Job, model: wire.ModelRecord, span: LayerSpan) -> Loaded:
        folder, checkpoint = await spans.read_span(self._content, model.link, span)
        if checkpoint.layer_count != model.layer_count:
            raise CheckpointError(f"{model.link} has {checkpoint.layer_count} layers, not {model.layer_count}")
        size = checkpoint.weight_bytes(span)
        self._pool.reserve((model.link, span), size, f"the weights of layers {span} of {model.name}")

        def tell(fetched: FetchProgress) -> None:
            job.tell(HostProgress(State.FETCHING, span, fetched.done_bytes, fetched.wanted_bytes))

        ranges = checkpoint.ranges(span)
        total = sum(part.stop - part.start for parts in ranges.values() for part in parts)
        job.tell(HostProgress(State.FETCHING, span, 0, total))
        try:
            with trio.fail_after(FETCH_DEADLINE):
                folder = await self._content.fetch(model.link, wanted=ranges, progress=tell)
        except trio.TooSlowError as error:
            raise BusyError(f"layers {span} did not arrive within {FETCH_DEADLINE:g} s") from error
        job.tell(HostProgress(State.LOADING, span, total, total))
        load = partial(load_engine, threads=self._threads, pool=self._pool)
        return Loaded(await trio.to_thread.run_sync(load, folder, checkpoint, span))


def load_engine(
    folder: Path, checkpoint: checkpoints.Checkpoint, span: LayerSpan, *, threads: int, pool: MemoryPool
) -> Engine:
    """Loads a span; blocks. Its caches are taken from `pool`."""
    from hivemind_p2p.sharding import engine

    return engine.Engine.load(folder, checkpoint, span, threads=threads, pool=pool)


def encode_progress(progress: HostProgress) -> pb.FromStage:
    """The message that tells it."""
    span = pb.Span(start=progress.span.start, stop=progress.span.stop) if progress.span else None
    return pb.FromStage(
        hosting=pb.Hosting(
            state=progress.state, span=span, done_bytes=progress.done_bytes, wanted_bytes=progress.wanted_bytes
        )
    )


def decode_progress(message: pb.FromStage, peer: PeerId) -> HostProgress:
    """What a peer says of its hosting.

    Raises:
        ProtocolError: It says something else.
    """
    if message.WhichOneof("kind") != "hosting":
        raise ProtocolError(f"peer {peer} answered a request to host with something else")
    found = message.hosting
    span = LayerSpan(found.span.start, found.span.stop) if found.HasField("span") else None
    return HostProgress(found.state, span, found.done_bytes, found.wanted_bytes)
