"""How long tasks take on which peer, learned from those that have ended. No clock: times are handed in.

Two figures make a time: how much work tasks of one *family* are (those that share a packed function take about as long
as each other), and how slow a peer is. Their product is the estimate. Each task that ends says something about both, so
a peer that has run one family is known for all others, and a family is known on peers that never saw it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from hivemind_p2p.types import PeerId

MOST_FAMILIES: Final = 1024
"""Families that are remembered, the most recently used ones."""

PEER_WEIGHT: Final = 0.3
"""What one time counts for the slowness of a peer: it follows within some tasks, and an odd one is soon forgotten."""

FAMILY_WEIGHT: Final = 0.1
"""What one time counts for the work of a family, which is one for all peers."""

OUTLIER: Final = 8.0
"""No time counts for more than so many times what was expected, nor for less than the inverse."""

SHORTEST: Final = 1e-6
"""Seconds below which nothing is shorter."""


class Estimates:
    """Work by family, slowness by peer."""

    def __init__(self) -> None:
        self._work: OrderedDict[Hashable, float] = OrderedDict()
        self._slowness: dict[PeerId, float] = {}
        self._logarithms = 0.0

    def seconds(self, peer: PeerId, family: Hashable) -> float | None:
        """What a task of this family is expected to take there; None where nothing is known of the family."""
        work = self._work.get(family)
        return None if work is None else work * self.slowness(peer)

    def work(self, family: Hashable) -> float | None:
        """Seconds of it on a peer of slowness 1; None while that is not known."""
        return self._work.get(family)

    def slowness(self, peer: PeerId) -> float:
        """How many times longer than on a usual peer tasks take there; of one not known yet, what is usual."""
        known = self._slowness.get(peer)
        return known if known is not None else self._usual()

    def knows(self, peer: PeerId) -> bool:
        """Whether anything has ended there."""
        return peer in self._slowness

    def learn(self, peer: PeerId, family: Hashable, seconds: float) -> None:
        """A task has ended, and has taken so long."""
        seconds = max(SHORTEST, seconds)
        work = self._work.get(family)
        if work is None:
            self._work[family] = seconds / self.slowness(peer)
            while len(self._work) > MOST_FAMILIES:
                self._work.popitem(last=False)
            if peer not in self._slowness:
                self._set(peer, self._usual())
            return
        self._work.move_to_end(family)
        slowness = self._slowness.get(peer)
        usual = slowness if slowness is not None else self._usual()
        ratio = min(OUTLIER, max(1 / OUTLIER, seconds / (work * usual)))
        self._set(peer, usual * (ratio if slowness is None else ratio**PEER_WEIGHT))
        self._work[family] = work * ratio**FAMILY_WEIGHT

    def _set(self, peer: PeerId, slowness: float) -> None:
        before = self._slowness.get(peer)
        self._logarithms += math.log(slowness) - (math.log(before) if before is not None else 0.0)
        self._slowness[peer] = slowness

    def _usual(self) -> float:
        return math.exp(self._logarithms / len(self._slowness)) if self._slowness else 1.0

    def forget(self, peer: PeerId) -> None:
        """A peer is gone."""
        before = self._slowness.pop(peer, None)
        if before is not None:
            self._logarithms -= math.log(before)
