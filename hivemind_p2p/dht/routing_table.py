"""Which peers this peer knows: Kademlia's buckets, one for each length of prefix shared with its own id.

A bucket keeps the peers that have been around the longest, since those are the likeliest to stay (the Kademlia
paper, section 2.1): a newcomer to a full bucket waits among the replacements until somebody there fails.
Only peers that were heard from directly are kept; what others say about peers is for lookups to try.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field

from hivemind_p2p.dht import ids
from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.types import PeerId, PeerInfo

BUCKET_SIZE = 20
"""Peers in a bucket, and replicas of a record (Kademlia's k): so many that they hardly all leave within the hour."""

DOUBT_AFTER = 60.0
"""Seconds of silence after which the longest-known peer of a full bucket is worth a check."""

FIRST_AVOIDANCE = 10.0
"""Seconds that a peer is left alone after it failed; doubled with each further failure."""

LONGEST_AVOIDANCE = 300.0
"""Seconds: a peer that comes back quietly is found again within this time."""

MOST_AVOIDED = 1024
"""Failed peers remembered, so that lies about peers that do not exist cannot fill the memory."""


@dataclass(slots=True)
class _Bucket:
    """Peers by id, the one heard from longest ago first; `seen_at` is in seconds."""

    peers: OrderedDict[PeerId, PeerInfo] = field(default_factory=OrderedDict)
    seen_at: dict[PeerId, float] = field(default_factory=dict)
    replacements: OrderedDict[PeerId, PeerInfo] = field(default_factory=OrderedDict)
    refreshed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Avoidance:
    seconds: float
    until: float


class RoutingTable:
    """The peers that this peer knows, by distance.

    Args:
        own: Whose table it is; never held in it.
        bucket_size: Peers in a bucket.
    """

    def __init__(self, own: PeerId, *, bucket_size: int = BUCKET_SIZE) -> None:
        self._own = own
        self._own_id = ids.of_peer(own)
        self._size = bucket_size
        self._buckets: dict[int, _Bucket] = {}
        self._avoided: OrderedDict[PeerId, _Avoidance] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(bucket.peers) for bucket in self._buckets.values())

    def __contains__(self, peer: PeerId) -> bool:
        return self.get(peer) is not None

    def get(self, peer: PeerId) -> PeerInfo | None:
        """What is known about a peer in the table."""
        if peer == self._own:
            return None
        bucket = self._buckets.get(self._index(peer))
        return bucket.peers.get(peer) if bucket else None

    def peers(self) -> tuple[PeerInfo, ...]:
        """Everybody in the table."""
        return tuple(info for bucket in self._buckets.values() for info in bucket.peers.values())

    def seen(self, info: PeerInfo, now: float) -> PeerInfo | None:
        """Notes that a peer was heard from.

        Returns:
            A silent peer that is in the way of this one, to be asked whether it is still there; mostly None.
        """
        peer = info.peer_id
        if peer == self._own or not info.addresses:
            return None
        self._avoided.pop(peer, None)
        bucket = self._buckets.setdefault(self._index(peer), _Bucket(refreshed_at=now))
        if peer in bucket.peers or len(bucket.peers) < self._size:
            self._admit(bucket, info, now)
            return None
        self._queue(bucket, info)
        oldest = next(iter(bucket.peers))
        return bucket.peers[oldest] if bucket.seen_at[oldest] + DOUBT_AFTER <= now else None

    def failed(self, peer: PeerId, now: float) -> None:
        """Removes a peer that did not answer, and leaves it alone for a while."""
        if peer == self._own:
            return
        self._avoid(peer, now)
        bucket = self._buckets.get(self._index(peer))
        if bucket is None:
            return
        bucket.replacements.pop(peer, None)
        if bucket.peers.pop(peer, None) is None:
            return
        del bucket.seen_at[peer]
        if bucket.replacements:
            _, newest = bucket.replacements.popitem()
            self._admit(bucket, newest, now)

    def is_avoided(self, peer: PeerId, now: float) -> bool:
        """Whether a peer failed so recently that asking it again is a waste of time."""
        avoidance = self._avoided.get(peer)
        return avoidance is not None and now < avoidance.until

    def closest(self, target: NodeId, count: int, *, without: PeerId | None = None) -> tuple[PeerInfo, ...]:
        """The peers closest to a point, closest first."""
        return tuple(
            heapq.nsmallest(
                count,
                (info for info in self.peers() if info.peer_id != without),
                key=lambda info: ids.distance(ids.of_peer(info.peer_id), target),
            )
        )

    def refreshed(self, target: NodeId, now: float) -> None:
        """Notes that a lookup for a point has just filled the bucket in which it lies."""
        if target != self._own_id and (bucket := self._buckets.get(ids.bucket_index(self._own_id, target))):
            bucket.refreshed_at = now

    def stale_buckets(self, now: float, age: float) -> tuple[int, ...]:
        """The buckets in which no lookup was made for `age` seconds."""
        return tuple(index for index, bucket in sorted(self._buckets.items()) if bucket.refreshed_at + age <= now)

    def _index(self, peer: PeerId) -> int:
        return ids.bucket_index(self._own_id, ids.of_peer(peer))

    def _admit(self, bucket: _Bucket, info: PeerInfo, now: float) -> None:
        bucket.peers[info.peer_id] = info
        bucket.peers.move_to_end(info.peer_id)
        bucket.seen_at[info.peer_id] = now

    def _queue(self, bucket: _Bucket, info: PeerInfo) -> None:
        bucket.replacements[info.peer_id] = info
        bucket.replacements.move_to_end(info.peer_id)
        if len(bucket.replacements) > self._size:
            bucket.replacements.popitem(last=False)

    def _avoid(self, peer: PeerId, now: float) -> None:
        former = self._avoided.pop(peer, None)
        seconds = min(former.seconds * 2, LONGEST_AVOIDANCE) if former else FIRST_AVOIDANCE
        self._avoided[peer] = _Avoidance(seconds, now + seconds)
        if len(self._avoided) > MOST_AVOIDED:
            self._avoided.popitem(last=False)
