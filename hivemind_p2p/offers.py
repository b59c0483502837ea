"""The offers of the hive, as one peer sees them: its own, kept published, and those of the others, cached.

Participants: every peer. Those that lend something publish one `Offer` each under the key ``offers``; those that
want something look them up.

Goals: choosing a peer for a task costs no round trip (the cache answers); a peer that changed what it lends is
seen as soon as somebody asks afresh; nonsense in one offer never hides the others.

Non-goals: finding offers by what they lend. One key is enough for the small hives of today.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import trio
from google.protobuf.message import DecodeError

from hivemind_p2p import defaults, telemetry
from hivemind_p2p.errors import RecordError
from hivemind_p2p.interfaces import Directory, Network
from hivemind_p2p.proto import offers_pb2
from hivemind_p2p.types import Credits, LayerSpan, Link, Offer, PeerInfo, Prices, Record, StageOffer

CACHE_SECONDS = 5.0
"""How old the cached offers may be: a third of the time in which a busy hive changes noticeably."""

MOST_STAGES = 256
MOST_TASK_TYPES = 256
MOST_ADDRESSES = 16
MOST_SOFTWARE = 64
MOST_LINKS = 64
MOST_GPUS = 1024
LONGEST_TEXT = 512
LARGEST_AMOUNT = 2**63 - 1
"""Bounds on what one offer may hold: far above what an honest peer needs, and small in memory. Amounts fit the signed
64 bits that the ledger's database and most other programs count with."""

_events = telemetry.source("offers")


@dataclass(frozen=True, slots=True)
class OfferStatistics:
    """How often the directory was asked, and how many offers it knows."""

    lookups: int
    known: int
    malformed: int


class OfferService:
    """Keeps this peer's offer published and the others' at hand; implements `interfaces.OfferBook`."""

    def __init__(self, network: Network, directory: Directory, own: Offer) -> None:
        self._network = network
        self._directory = directory
        self._own = own
        self._published = False
        self._known: dict[str, Offer] = {}
        self._looked_up_at = -math.inf
        self._looking_up = trio.Lock()
        self._publishing = trio.Lock()
        self._lookups = 0
        self._malformed = 0

    @property
    def own(self) -> Offer:
        """What this peer offers now."""
        return self._own

    def prepare(self, own: Offer) -> None:
        """Replaces this peer's offer before it is published first."""
        self._own = own

    async def publish(self, own: Offer | None = None) -> None:
        """Publishes this peer's offer; the directory keeps it alive until `withdraw`."""
        if own is not None:
            self._own = own
        self._published = True
        async with self._publishing:
            await self._directory.publish(defaults.OFFERS_KEY, encode(self._own), lifetime=defaults.OFFER_LIFETIME)
        self._looked_up_at = -math.inf

    async def withdraw(self) -> None:
        """Takes the offer back, so that nobody sends work to a peer that is leaving."""
        if self._published:
            self._published = False
            await self._directory.withdraw(defaults.OFFERS_KEY)

    async def set_stages(
        self, stages: Sequence[StageOffer], *, weight_bytes_free: int = 0, weight_bytes_per_second: int = 0
    ) -> None:
        """Replaces the stages in this peer's offer, and what it could host besides, and publishes it."""
        changed = replace(
            self._own,
            stages=tuple(stages),
            weight_bytes_free=weight_bytes_free,
            weight_bytes_per_second=weight_bytes_per_second,
        )
        await self.publish(changed)

    async def set_addresses(self, addresses: tuple[str, ...]) -> None:
        """Says in this peer's offer where it can be dialled now, and publishes it anew if it was published."""
        self._own = replace(self._own, peer=PeerInfo(self._own.peer.peer_id, addresses))
        if self._published:
            await self.publish()

    @property
    def known(self) -> tuple[Offer, ...]:
        """The offers as they were when they were last looked up."""
        return tuple(self._known.values())

    async def offers(self, *, fresh: bool = False) -> tuple[Offer, ...]:
        """The current offers, this peer's own among them where it has one."""
        asked_at = trio.current_time()
        async with self._looking_up:
            # Callers that waited for somebody else's lookup share its answer.
            oldest = asked_at if fresh else asked_at - CACHE_SECONDS
            if self._looked_up_at < oldest:
                await self._look_up()
        return tuple(self._known.values())

    def statistics(self) -> OfferStatistics:
        """Counts since the start."""
        return OfferStatistics(self._lookups, len(self._known), self._malformed)

    async def _look_up(self) -> None:
        started = trio.current_time()
        records = await self._directory.lookup(defaults.OFFERS_KEY)
        self._lookups += 1
        decoded = [offer for record in records if (offer := self._decode(record)) is not None]
        self._known = {offer.peer.peer_id: offer for offer in decoded}
        if self._published:
            self._known[self._own.peer.peer_id] = self._own
        for offer in decoded:
            self._network.learn(offer.peer)
        self._looked_up_at = started

    def _decode(self, record: Record) -> Offer | None:
        try:
            return decode(record)
        except RecordError as error:
            self._malformed += 1
            _events.warning("malformed_offer", peer=record.signer, reason=error.message)
            return None


def encode(offer: Offer) -> bytes:
    """The record value of an offer."""
    message = offers_pb2.Offer(
        addresses=offer.peer.addresses,
        name=offer.name,
        cpus=offer.cpus,
        memory_bytes=offer.memory_bytes,
        task_types=offer.task_types,
        prices=offers_pb2.Prices(
            per_task=offer.prices.per_task,
            per_cpu_second=offer.prices.per_cpu_second,
            per_layer_token=offer.prices.per_layer_token,
        ),
        serves_models=offer.serves_models,
        relays=offer.relays,
        network=offer.network,
        gpus=offer.gpus,
        gpu_memory_bytes=offer.gpu_memory_bytes,
        disk_bytes=offer.disk_bytes,
        location=offer.location,
        software=offer.software,
        served_links=offer.served_links,
        weight_bytes_free=offer.weight_bytes_free,
        weight_bytes_per_second=offer.weight_bytes_per_second,
        stages=[
            offers_pb2.Stage(link=stage.link, start=stage.span.start, stop=stage.span.stop, ready=stage.ready)
            for stage in offer.stages
        ],
    )
    return message.SerializeToString()


def decode(record: Record) -> Offer:
    """The offer in a record.

    Raises:
        RecordError: It is malformed or larger than an offer can be.
    """
    try:
        message = offers_pb2.Offer.FromString(record.value)
    except DecodeError as error:
        raise RecordError(f"the offer of {record.signer} is malformed: {error}") from error
    _check(message, record)
    prices = message.prices
    return Offer(
        peer=PeerInfo(record.signer, tuple(message.addresses)),
        name=message.name,
        cpus=message.cpus,
        memory_bytes=message.memory_bytes,
        task_types=tuple(message.task_types),
        prices=Prices(Credits(prices.per_task), Credits(prices.per_cpu_second), Credits(prices.per_layer_token)),
        serves_models=message.serves_models,
        relays=message.relays,
        network=message.network,
        gpus=message.gpus,
        gpu_memory_bytes=message.gpu_memory_bytes,
        disk_bytes=message.disk_bytes,
        location=message.location,
        software=tuple(message.software),
        served_links=tuple(map(Link, message.served_links)),
        weight_bytes_free=message.weight_bytes_free,
        weight_bytes_per_second=message.weight_bytes_per_second,
        stages=tuple(
            StageOffer(Link(stage.link), LayerSpan(stage.start, stage.stop), stage.ready) for stage in message.stages
        ),
    )


def _check(message: offers_pb2.Offer, record: Record) -> None:
    named = (message.name, message.location, *message.addresses, *message.task_types, *message.software)
    texts = (*named, *message.served_links, *(stage.link for stage in message.stages))
    prices = message.prices
    amounts = (
        message.memory_bytes,
        message.gpu_memory_bytes,
        message.disk_bytes,
        message.weight_bytes_free,
        message.weight_bytes_per_second,
        prices.per_task,
        prices.per_cpu_second,
        prices.per_layer_token,
    )
    fits = (
        len(message.stages) <= MOST_STAGES
        and len(message.task_types) <= MOST_TASK_TYPES
        and len(message.addresses) <= MOST_ADDRESSES
        and len(message.software) <= MOST_SOFTWARE
        and len(message.served_links) <= MOST_LINKS
        and message.gpus <= MOST_GPUS
        and all(len(text) <= LONGEST_TEXT for text in texts)
        and math.isfinite(message.cpus)
        and message.cpus >= 0
        and all(stage.start < stage.stop for stage in message.stages)
        and all(amount <= LARGEST_AMOUNT for amount in amounts)
    )
    if not fits:
        raise RecordError(f"the offer of {record.signer} holds values that no honest peer sends")
