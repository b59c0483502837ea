"""One bucket of a routing table: the peers that answer, those that have failed lately, and those that wait for a place.

A peer passes through these states: *good* while it is heard from; *doubtful* once a request to it failed (it is
neither told to others nor asked, until its time of avoidance is over and it is checked); *evicted* after so many
failures in a row, or as soon as its place is needed.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from hivemind_p2p.dht import ids, networks
from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.types import PeerId, PeerInfo

MOST_FAILURES = 5
"""Failures in a row after which a peer is forgotten (the Kademlia paper, section 4.1)."""

NETWORK_IN_BUCKET = 2
"""Peers of one network in a bucket that are not pushed out: so that no network holds a tenth of a full bucket."""

NETWORK_IN_TABLE = 10
"""The same for all buckets together."""

CHECK_AGAIN_AFTER = 10.0
"""Seconds before the same silent peer is named for a check once more: a check takes 3 s at the most."""


@dataclass(slots=True)
class Contact:
    """A known peer; times are in seconds on a clock that never jumps."""

    info: PeerInfo
    point: NodeId
    seen_at: float
    checked_at: float = float("-inf")
    failures: int = 0


@dataclass(slots=True)
class Bucket:
    """Peers by id, in each part the one heard from longest ago first."""

    good: OrderedDict[PeerId, Contact] = field(default_factory=OrderedDict)
    doubtful: OrderedDict[PeerId, Contact] = field(default_factory=OrderedDict)
    waiting: OrderedDict[PeerId, PeerInfo] = field(default_factory=OrderedDict)
    refreshed_at: float = 0.0

    def admit(self, info: PeerInfo, now: float) -> None:
        """Makes a peer the good one that was heard from last."""
        peer = info.peer_id
        self.doubtful.pop(peer, None)
        self.waiting.pop(peer, None)
        contact = self.good.get(peer)
        if contact is None:
            self.good[peer] = Contact(info, ids.of_peer(peer), now)
            return
        contact.info, contact.seen_at = info, now
        self.good.move_to_end(peer)

    def wait(self, info: PeerInfo, most: int) -> None:
        """Keeps a peer for when a place becomes free; the newest are kept."""
        self.waiting[info.peer_id] = info
        self.waiting.move_to_end(info.peer_id)
        if len(self.waiting) > most:
            self.waiting.popitem(last=False)

    def fail(self, peer: PeerId, most: int) -> PeerInfo | None:
        """Notes a failure.

        Args:
            peer: Who failed.
            most: Doubtful peers kept.

        Returns:
            Who now takes the place that became free; None if none did, or nobody waits.
        """
        self.waiting.pop(peer, None)
        contact = self.good.pop(peer, None)
        freed = contact is not None
        contact = contact or self.doubtful.get(peer)
        if contact is None:
            return None
        contact.failures = contact.failures + 1
        self.doubtful[peer] = contact
        if contact.failures >= MOST_FAILURES:
            del self.doubtful[peer]
        elif len(self.doubtful) > most:
            self.doubtful.popitem(last=False)
        if not freed or not self.waiting:
            return None
        return self.waiting.popitem()[1]

    def crowd(self, newcomer: PeerInfo, in_table: Counter[str]) -> PeerId | None:
        """Who has to make room for a newcomer from a network that is not crowded: the youngest of one that is.

        Args:
            newcomer: Who wants in.
            in_table: How many good peers of each network there are in all buckets.
        """
        here = Counter(network for contact in self.good.values() for network in networks.of_peer(contact.info))
        if not here or _is_crowded(newcomer, here, in_table, extra=1):
            return None
        for peer, contact in reversed(self.good.items()):
            if _is_crowded(contact.info, here, in_table):
                return peer
        return None

    def silent(self, now: float, after: float) -> Contact | None:
        """The peer heard from longest ago, if that is `after` seconds and nobody is checking it already."""
        contact = next(iter(self.good.values()), None)
        if contact is None or contact.seen_at + after > now or contact.checked_at + CHECK_AGAIN_AFTER > now:
            return None
        contact.checked_at = now
        return contact


def _is_crowded(info: PeerInfo, here: Counter[str], in_table: Counter[str], extra: int = 0) -> bool:
    return any(
        here[network] + extra > NETWORK_IN_BUCKET or in_table[network] + extra > NETWORK_IN_TABLE
        for network in networks.of_peer(info)
    )
