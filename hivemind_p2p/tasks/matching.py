"""Which peer gets which task. Events and the time go in, decisions come out; nothing here waits or sends.

A task goes to the fitting peer with the most free room; among equals to the cheapest, then to the first by peer id.
A peer is given somewhat more than it can run at once, so that its next task is there when one ends. A peer that
failed is left alone for a while. Tasks of the same demand wait in one line, so that thousands cost no more than one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from hivemind_p2p.errors import NoPeerError
from hivemind_p2p.types import Credits, Needs, Offer, PeerId

PIPELINE: Final = 2.0
"""Cpus' worth of tasks sent to a peer for each that it lends: one set runs while the next lies ready."""

LEAD: Final = 0.05
"""Seconds of work sent ahead for each cpu, where tasks are so short that this is more: several times what messages to
the peer and back take."""

MOST_LEAD: Final = 512
"""Tasks sent ahead for each cpu at most."""

FORGETTING: Final = 0.75
"""How much of a peer's old time for a task stays when one took less. One that took more replaces it at once."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What matters about a task when a peer is chosen.

    Attributes:
        excluded: Peers that refused or lost it already.
        idempotent: Whether it may be lost with its peer: one that may not is not sent ahead of its time.
    """

    task_type: str
    cpus: float
    memory_bytes: int
    max_cost: Credits
    excluded: frozenset[PeerId] = frozenset()
    idempotent: bool = True

    @classmethod
    def of(
        cls,
        task_type: str,
        needs: Needs,
        max_cost: Credits,
        excluded: Iterable[PeerId] = (),
        *,
        idempotent: bool = True,
    ) -> Demand:
        """The demand of a task."""
        return cls(task_type, needs.cpus, needs.memory_bytes, max_cost, frozenset(excluded), idempotent)


@dataclass(frozen=True, slots=True)
class Placed:
    """A ticket's task goes to this peer, whose room is taken until `Matching.released`."""

    ticket: int
    offer: Offer


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """No offer fits a ticket's task."""

    ticket: int
    error: NoPeerError


class Matching:
    """The queue of one caller's tasks and what is known of the peers."""

    def __init__(self) -> None:
        self._offers: dict[PeerId, Offer] = {}
        self._load: dict[PeerId, float] = {}
        self._cool_until: dict[PeerId, float] = {}
        self._lines: dict[Demand, deque[int]] = {}
        self._seconds: dict[PeerId, float] = {}

    @property
    def waiting(self) -> int:
        """Tasks without a peer."""
        return sum(len(line) for line in self._lines.values())

    def offers_changed(self, offers: Iterable[Offer]) -> None:
        """Replaces what is known of the offers."""
        self._offers = {offer.peer.peer_id: offer for offer in offers}

    def submit(self, ticket: int, demand: Demand) -> None:
        """Puts a task at the end of its line."""
        self._lines.setdefault(demand, deque()).append(ticket)

    def withdraw(self, ticket: int, demand: Demand) -> None:
        """Takes a waiting task out."""
        line = self._lines.get(demand)
        if line is not None and ticket in line:
            line.remove(ticket)
            self._drop_if_empty(demand)

    def released(self, peer: PeerId, demand: Demand, seconds: float | None = None) -> None:
        """A placed task has ended, however it did; in so many seconds, if that says something about others."""
        if seconds is not None:
            known = self._seconds.get(peer, seconds)
            self._seconds[peer] = seconds if seconds >= known else FORGETTING * known + (1 - FORGETTING) * seconds
        left = self._load.get(peer, 0.0) - demand.cpus
        if left > 1e-9:
            self._load[peer] = left
        else:
            self._load.pop(peer, None)

    def failed(self, peer: PeerId, *, until: float) -> None:
        """Leaves a peer alone until then."""
        self._cool_until[peer] = max(until, self._cool_until.get(peer, until))

    def decide(self, now: float) -> list[Placed | Unplaceable]:
        """Everything that can be decided now; the rest waits for an event, or for `wake_at`."""
        self._cool_until = {peer: until for peer, until in self._cool_until.items() if until > now}
        decisions: list[Placed | Unplaceable] = []
        for demand in list(self._lines):
            decisions += self._decide_line(demand)
            self._drop_if_empty(demand)
        return decisions

    @property
    def wake_at(self) -> float | None:
        """When the next peer may be tried again, if one is left alone."""
        return min(self._cool_until.values(), default=None)

    def _decide_line(self, demand: Demand) -> list[Placed | Unplaceable]:
        line = self._lines[demand]
        fitting = [offer for offer in self._offers.values() if not _misfit(offer, demand)]
        if not fitting:
            error = self._no_peer(demand)
            decisions: list[Placed | Unplaceable] = [Unplaceable(ticket, error) for ticket in line]
            line.clear()
            return decisions
        fitting = [offer for offer in fitting if offer.peer.peer_id not in self._cool_until]
        placed: list[Placed | Unplaceable] = []
        while line and (offer := self._best(fitting, demand)) is not None:
            peer = offer.peer.peer_id
            self._load[peer] = self._load.get(peer, 0.0) + demand.cpus
            placed.append(Placed(line.popleft(), offer))
        return placed

    def _best(self, fitting: list[Offer], demand: Demand) -> Offer | None:
        with_room = [offer for offer in fitting if self._has_room(offer, demand)]
        return min(with_room, key=self._rank, default=None)

    def _has_room(self, offer: Offer, demand: Demand) -> bool:
        load = self._load.get(offer.peer.peer_id, 0.0)
        return load == 0.0 or load + demand.cpus <= self._capacity(offer, demand)

    def _capacity(self, offer: Offer, demand: Demand) -> float:
        """Cpus' worth of tasks that a peer may have: what it runs, and what lies ready."""
        seconds = self._seconds.get(offer.peer.peer_id)
        lead = 0.0 if seconds is None or not demand.idempotent else min(MOST_LEAD, LEAD / max(seconds, 1e-6))
        return max(1.0, offer.cpus) * max(PIPELINE, demand.cpus * lead)

    def _rank(self, offer: Offer) -> tuple[float, int, int, PeerId]:
        peer = offer.peer.peer_id
        # By what it could run at once: a peer of which more is known must not be given all there is.
        free = max(1.0, offer.cpus) * PIPELINE - self._load.get(peer, 0.0)
        return -free, offer.prices.per_cpu_second, offer.prices.per_task, peer

    def _no_peer(self, demand: Demand) -> NoPeerError:
        if not self._offers:
            return NoPeerError("no peer of the hive offers anything", hint="Start one with `hivemind-peer run`.")
        reasons = sorted({_misfit(offer, demand) for offer in self._offers.values()})
        return NoPeerError(f"none of {len(self._offers)} offers fits the task: {'; '.join(reasons)}")

    def _drop_if_empty(self, demand: Demand) -> None:
        if not self._lines.get(demand, True):
            del self._lines[demand]


def _misfit(offer: Offer, demand: Demand) -> str:
    """Why an offer does not fit; empty if it does."""
    if demand.task_type not in offer.task_types:
        return f"some do not run {demand.task_type}"
    if offer.cpus < demand.cpus:
        return f"some lend less than {demand.cpus:g} cpus"
    if offer.memory_bytes < demand.memory_bytes:
        return f"some lend less than {demand.memory_bytes:,} bytes of memory"
    if offer.prices.per_task > demand.max_cost:
        return f"some ask for more than the {demand.max_cost} millionths of a credit that it may cost"
    if offer.peer.peer_id in demand.excluded:
        return "some refused or lost it already"
    return ""
