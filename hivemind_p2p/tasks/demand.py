"""What matters about a task when a peer is chosen for it, and which offers fit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from hivemind_p2p.tasks.admission import Lent
from hivemind_p2p.types import Credits, Needs, Offer, PeerId

PRICE_WEIGHT: Final = 0.15
"""How much a price counts beside time: twice the price is like a tenth more time."""


class Demand:
    """What tasks that wait in one line have in common. Equal ones are interchangeable.

    Args:
        task_type: The plug-in that runs it.
        needs: What it needs of the machine.
        max_cost: The most that it may cost, in millionths of a credit.
        excluded: Peers that refused or lost it already.
        idempotent: Whether it may be lost with its peer: one that may not is not sent ahead of its time.
        copyable: Whether a second copy of it may be begun elsewhere when it is late.
        priority: Higher ones go first.
    """

    __slots__ = (
        "_hash",
        "copyable",
        "cpus",
        "excluded",
        "idempotent",
        "max_cost",
        "needs",
        "placed_at",
        "priority",
        "task_type",
    )

    def __init__(
        self,
        task_type: str,
        needs: Needs,
        max_cost: Credits,
        excluded: Iterable[PeerId] = (),
        *,
        idempotent: bool = True,
        copyable: bool | None = None,
        priority: int = 0,
    ) -> None:
        self.task_type = task_type
        self.needs = needs
        self.cpus = needs.cpus
        self.max_cost = max_cost
        self.excluded = frozenset(excluded)
        self.idempotent = idempotent
        self.copyable = idempotent if copyable is None else copyable
        self.priority = priority
        self.placed_at = -math.inf
        """When a peer was found for one of these last."""
        self._hash = hash(self._all())

    def __hash__(self) -> int:
        return self._hash  # asked for several times a task

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Demand) and self._all() == other._all()

    def _all(self) -> tuple[object, ...]:
        choices = self.idempotent, self.copyable, self.priority
        return self.task_type, self.needs, self.max_cost, self.excluded, choices

    def misfit(self, offer: Offer) -> str:
        """Why an offer does not fit; empty if it does."""
        if self.task_type not in offer.task_types:
            return f"some do not run {self.task_type}"
        if lacking := _lacking(self.needs, offer):
            return lacking
        if offer.prices.per_task > self.max_cost:
            return f"some ask for more than the {self.max_cost} millionths of a credit that it may cost"
        if offer.peer.peer_id in self.excluded:
            return "some refused or lost it already"
        return ""

    def price(self, offer: Offer, seconds: float) -> float:
        """What it would cost there if it computes for so long, in millionths of a credit; at least 1."""
        prices = offer.prices
        return max(1.0, prices.per_task + prices.per_cpu_second * self.cpus * seconds)


def _lacking(needs: Needs, offer: Offer) -> str:
    lent = Lent.of(offer)
    if lent.lacks(needs):
        lacks = (
            (needs.cpus > lent.cpus, f"some lend less than {needs.cpus:g} cpus"),
            (needs.memory_bytes > lent.memory_bytes, f"some lend less than {needs.memory_bytes:,} bytes of memory"),
            (needs.gpus > lent.gpus, f"some lend less than {needs.gpus} GPUs"),
            (needs.gpu_memory_bytes > lent.gpu_memory_bytes, "some have GPUs with less memory"),
            (needs.disk_bytes > lent.disk_bytes, f"some lend less than {needs.disk_bytes:,} bytes of disk"),
            (needs.network and not lent.network, "some do not lend their network"),
        )
        return next(words for lacks_it, words in lacks if lacks_it)
    if needs.location and needs.location != offer.location:
        return f"some are not in {needs.location}"
    missing = [name for name in needs.software if name not in offer.software]
    return f"some do not have {missing[0]}" if missing else ""
