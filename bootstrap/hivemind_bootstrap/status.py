"""What the bootstrap says about itself: gathered here once, shown by the pages and by ``/api/status``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import trio

from hivemind_bootstrap import reports
from hivemind_bootstrap.store import Store
from hivemind_p2p import telemetry
from hivemind_p2p.errors import HivemindError
from hivemind_p2p.interfaces import Clock
from hivemind_p2p.types import Offer, PeerId, format_credits

KEPT_SECONDS = 2.0
"""How old a status may be: a page that many people reload costs one look at the ledger in this time."""

MOST_OFFERS = 500
"""Peers on the page."""

_events = telemetry.source("status")


class Offers(Protocol):
    """Where offers come from; `hivemind_p2p.offers` in production."""

    async def offers(self, *, fresh: bool = False) -> tuple[Offer, ...]:
        """The current offers."""


@dataclass(frozen=True, slots=True)
class OfferRow:
    """One peer, as the page shows it."""

    peer_id: str
    name: str
    cpus: float
    memory_bytes: int
    task_types: tuple[str, ...]
    stages: tuple[str, ...]
    price_per_task: str
    price_per_cpu_second: str

    @classmethod
    def of(cls, offer: Offer) -> OfferRow:
        """From what the peer published."""
        stages = tuple(f"layers {stage.span}{'' if stage.ready else ' (loading)'}" for stage in offer.stages)
        return cls(
            peer_id=offer.peer.peer_id,
            name=offer.name,
            cpus=offer.cpus,
            memory_bytes=offer.memory_bytes,
            task_types=offer.task_types,
            stages=stages,
            price_per_task=format_credits(offer.prices.per_task),
            price_per_cpu_second=format_credits(offer.prices.per_cpu_second),
        )


@dataclass(frozen=True, slots=True)
class Status:
    """The bootstrap and its hive at one moment."""

    peer_id: PeerId
    addresses: tuple[str, ...]
    started_at: float
    uptime_seconds: float
    accounts: int
    linked_peers: int
    transfers: int
    open_holds: int
    ledger_sum: int
    offers: tuple[OfferRow, ...]

    @property
    def healthy(self) -> bool:
        """Whether the ledger adds up."""
        return self.ledger_sum == 0

    def as_json(self) -> dict[str, Any]:
        """For ``/api/status``."""
        return asdict(self) | {"healthy": self.healthy}


class StatusSource:
    """Gathers the status, and keeps it for `KEPT_SECONDS`.

    Args:
        peer_id: The bootstrap's.
        addresses: Where it can be dialled now, each with ``/p2p/<id>``.
        store: The ledger.
        offers: The hive's offers.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        peer_id: PeerId,
        addresses: Callable[[], Sequence[str]],
        store: Store,
        offers: Offers,
        *,
        clock: Clock,
    ) -> None:
        self._peer_id = peer_id
        self._addresses = addresses
        self._store = store
        self._offers = offers
        self._clock = clock
        self._started_at = clock()
        self._kept: Status | None = None
        self._kept_at = -math.inf
        self._gathering = trio.Lock()

    async def status(self) -> Status:
        """The status now, or a moment ago."""
        async with self._gathering:
            if self._kept is None or trio.current_time() - self._kept_at > KEPT_SECONDS:
                self._kept = await self._gather()
                self._kept_at = trio.current_time()
            return self._kept

    async def _gather(self) -> Status:
        counts = await self._store.read(reports.counts)
        return Status(
            peer_id=self._peer_id,
            addresses=tuple(self._addresses()),
            started_at=self._started_at,
            uptime_seconds=round(self._clock() - self._started_at, 1),
            accounts=counts.accounts,
            linked_peers=counts.linked_peers,
            transfers=counts.transfers,
            open_holds=counts.open_holds,
            ledger_sum=counts.ledger_sum,
            offers=await self._offer_rows(),
        )

    async def _offer_rows(self) -> tuple[OfferRow, ...]:
        try:
            offers = await self._offers.offers()
        except HivemindError as error:
            _events.warning("offers_unavailable", reason=error.message)
            return ()
        rows = sorted((OfferRow.of(offer) for offer in offers), key=lambda row: (row.name, row.peer_id))
        return tuple(rows[:MOST_OFFERS])
