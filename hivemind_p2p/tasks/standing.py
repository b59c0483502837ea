"""One peer as one caller knows it: what it offers, which tasks it has, how well it kept its word. Pure figures."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from hivemind_p2p.tasks.demand import Demand
from hivemind_p2p.types import Offer, PeerId

PIPELINE: Final = 2.0
"""Cpus' worth of tasks sent to a peer for each that it lends: one set runs while the next lies ready."""

LEAD: Final = 0.05
"""Seconds of work sent ahead for each cpu, where tasks are so short that this is more: several times what messages to
the peer and back take."""

MOST_LEAD: Final = 512
"""Tasks sent ahead for each cpu at most."""

COMPLAINT: Final = 4.0
"""Tasks that a peer counts as having lost for each account that complains of its own: with one, two of three are
expected to do well, until it is known better."""

FORGETTING: Final = 0.75
"""How much of a peer's old time for a task stays when one took less. One that took more replaces it at once."""

BENEFIT: Final = 8.0
"""Tasks that a peer which is not known yet counts as having done well."""

MEMORY: Final = 0.98
"""How much of what a peer did well and badly is left after one more task: some fifty tasks count."""

MOST_DATA: Final = 256
"""Pieces of data that a peer is remembered to have."""

BYTES_A_SECOND: Final = 10e6
"""How fast data is expected to reach a peer that does not have it."""


Data = tuple[tuple[Hashable, int], ...]
"""Names of what a task needs besides its payload, and bytes."""


@dataclass(slots=True, eq=False)
class Flight:
    """A task that a peer has.

    Attributes:
        ticket: The caller's number for it.
        placed_at: When it was given to the peer.
        data: What it needs there besides its payload.
        due_at: When it was expected to have ended; None where nothing was known of its like.
        alone: Whether the peer had a free core for it at once, so that its whole time there was its own.
        began: Whether the peer has said that it runs.
        began_at: When it said so; until then, when it was placed.
        asked_back: Whether the peer was asked to give it back.
        copies: The copies of it that other peers have.
        original: What it is a copy of; None if it is none.
    """

    ticket: int
    demand: Demand
    family: Hashable
    placed_at: float
    data: Data = ()
    due_at: float | None = None
    alone: bool = False
    began: bool = False
    began_at: float = 0.0
    asked_back: bool = False
    original: Flight | None = None
    copies: list[Flight] = field(default_factory=list)

    def land(self) -> None:
        """It is over here. One of its copies, if there are any, takes its place."""
        if self.original is not None:
            self.original.copies.remove(self)
            self.original = None
        if self.copies:
            first, *others = self.copies
            first.original, first.copies = None, others
            for other in others:
                other.original = first
            self.copies = []


@dataclass(slots=True, eq=False)
class Standing:
    """A peer.

    Attributes:
        offer: What it lends.
        cores: Of that, what tasks share.
        load: Cpus' worth of tasks that it has.
        flights: Those tasks, in the order in which it got them.
        cool_until: It is left alone until then.
        streak: Failures since it last did something well.
        well: Tasks that it did well, the old ones counting less.
        badly: Tasks that it lost.
        complaints: Accounts that complain of its account.
        reliability: The share of tasks that it does well, between 0 and 1.
        recent: Seconds that a task took lately, the longest counting most.
        round_trip: Seconds to it and back.
        data: What it has been sent or has fetched already.
    """

    offer: Offer
    peer: PeerId
    cores: float
    load: float = 0.0
    flights: dict[int, Flight] = field(default_factory=dict)
    cool_until: float = 0.0
    streak: int = 0
    well: float = BENEFIT
    badly: float = 0.0
    complaints: int = 0
    reliability: float = 1.0
    recent: float | None = None
    round_trip: float = 0.0
    data: OrderedDict[Hashable, None] = field(default_factory=OrderedDict)

    @classmethod
    def of(cls, offer: Offer) -> Standing:
        """A peer of which nothing but its offer is known."""
        return cls(offer, offer.peer.peer_id, max(1.0, offer.cpus))

    def renew(self, offer: Offer) -> None:
        """It offers something else now."""
        self.offer = offer
        self.cores = max(1.0, offer.cpus)

    def has_room(self, demand: Demand) -> bool:
        """Whether it may be given one more."""
        load = self.load
        return load == 0.0 or load + demand.cpus <= self._capacity(demand) + 1e-9

    def _capacity(self, demand: Demand) -> float:
        """Cpus' worth of tasks that it may have: what it runs, and what lies ready."""
        recent = self.recent
        if recent is None or recent > LEAD or not demand.idempotent:
            return self.cores * PIPELINE
        return self.cores * max(PIPELINE, demand.cpus * min(MOST_LEAD, LEAD / max(recent, 1e-6)))

    def wait(self, demand: Demand, seconds: float) -> float:
        """Seconds until one more task would begin there, if all take so long: those before it share its cores."""
        return max(0.0, self.load + demand.cpus - self.cores) / self.cores * seconds

    def free(self, demand: Demand) -> bool:
        """Whether one more task would begin at once."""
        return self.load + demand.cpus <= self.cores + 1e-9

    def took(self, seconds: float) -> None:
        """A task has ended there after so long."""
        recent = self.recent
        longer = recent is None or seconds >= recent
        self.recent = seconds if longer or recent is None else FORGETTING * recent + (1 - FORGETTING) * seconds
        self.streak = 0
        self.well = self.well * MEMORY + 1.0
        self.badly *= MEMORY
        self.reliability = self.well / (self.well + self.badly)

    def lost(self) -> None:
        """It lost a task."""
        self.streak += 1
        self.well *= MEMORY
        self.badly = self.badly * MEMORY + 1.0
        self.reliability = self.well / (self.well + self.badly)

    def complained(self, accounts: int) -> None:
        """So many accounts complain of its account."""
        self.badly += COMPLAINT * max(0, accounts - self.complaints)
        self.complaints = accounts
        self.reliability = self.well / (self.well + self.badly)

    def transfer_seconds(self, data: Data) -> float:
        """Seconds until data that a task needs is there."""
        return sum(size for key, size in data if key not in self.data) / BYTES_A_SECOND

    def has_now(self, data: Data) -> None:
        """It got a task that needs this data."""
        for key, _ in data:
            self.data[key] = None
            self.data.move_to_end(key)
        while len(self.data) > MOST_DATA:
            self.data.popitem(last=False)
