"""One of the disjoint paths of a lookup: what it has learnt, from those alone that it has asked itself.

Source: Baumgart and Mies, "S/Kademlia: A practicable approach towards secure key-based routing", 2007, section 4.4.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from hivemind_p2p.types import PeerId

MOST_PARALLEL = 4
"""Requests of one path on the way at once while it looks for the neighbourhood, once peers have let it down."""


@dataclass(slots=True)
class Path:
    """Peers by distance, and how far the path has come.

    Attributes:
        parallel: Requests on the way at once; one more for every peer that let the path down, so that a row of
            dead peers costs it less than one time-out each.
        arrived: Whether the last answer named nobody closer than the path knew before: then it has reached the
            neighbourhood of the target, and asks all that are left at once (the Kademlia paper, section 2.3).
        was_let_down: Whether a peer of the path was slow.
    """

    parallel: int
    arrived: bool = False
    was_let_down: bool = False
    known: set[PeerId] = field(default_factory=set)
    _order: list[tuple[int, PeerId]] = field(default_factory=list)

    def add(self, distance: int, peer: PeerId) -> None:
        """Learns of a peer."""
        if peer not in self.known:
            self.known.add(peer)
            insort(self._order, (distance, peer))

    def closest_distance(self) -> int | None:
        """How close the closest peer lies that this path knows."""
        return self._order[0][0] if self._order else None

    def let_down(self) -> None:
        """A peer was slow."""
        self.was_let_down = True
        self.parallel = min(self.parallel + 1, MOST_PARALLEL)

    def __iter__(self) -> Iterator[tuple[int, PeerId]]:
        return iter(self._order)
