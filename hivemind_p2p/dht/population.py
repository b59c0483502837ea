"""How many peers there are, judged by how close together the peers around a point lie; and who crowds a key.

Peer ids are spread evenly, so where the 20 peers closest to a point lie within a share s of the space, there are about
19 / s peers. The median over the last lookups is what counts: nobody can crowd the points of all of them.

An attacker who wants to hide a key makes up peer ids until many lie closer to it than any honest peer. That is seen
as soon as many more peers answer from around the key than the population explains. A lookup then goes on to all
peers within the distance in which 20 honest ones must lie (Sridhar et al., "Content Censorship in the InterPlanetary
File System", NDSS 2024, has measured this defence on IPFS).
"""

from __future__ import annotations

from collections import OrderedDict
from statistics import median

from hivemind_p2p.dht.ids import ID_BITS, NodeId

SPACE = 1 << ID_BITS

SAMPLES = 31
"""Lookups whose median counts: about what a peer makes in some refreshes, and odd."""

FEWEST_SAMPLES = 3
"""Lookups before there is an estimate."""

FEWEST_PEERS = 5
"""Peers that a lookup has to find to say anything."""

CROWD_SHARE = 4
"""A crowd is looked for in this part of the region in which a record's replicas are expected."""

CROWD = 16
"""Peers there that are a crowd: 5 are expected, and 16 or more come by chance once in 10,000 keys; with an estimate
that is a third too low, once in 300, which costs one wide lookup."""


class Population:
    """What is known about the number of peers."""

    def __init__(self) -> None:
        self._samples: OrderedDict[NodeId, float] = OrderedDict()

    def observe(self, target: NodeId, distances: tuple[int, ...]) -> None:
        """Notes how far the closest peers lie from the target of a finished lookup, closest first.

        A target counts once, however often it is looked up.
        """
        if len(distances) < FEWEST_PEERS or not distances[-1]:
            return
        self._samples[target] = (len(distances) - 1) * SPACE / distances[-1]
        self._samples.move_to_end(target)
        if len(self._samples) > SAMPLES:
            self._samples.popitem(last=False)

    @property
    def peers(self) -> float | None:
        """About how many there are; None while too little was seen."""
        return median(self._samples.values()) if len(self._samples) >= FEWEST_SAMPLES else None

    def reach(self, count: int) -> int:
        """The distance from any point within which so many peers are expected; 0 while nobody can tell."""
        peers = self.peers
        return min(int(SPACE * (count / peers)), SPACE) if peers else 0
