"""Which peers this peer knows: Kademlia's buckets, one for each length of prefix shared with its own id.

A bucket keeps the peers that have been around the longest, since those are the likeliest to stay (the Kademlia
paper, section 2.1): a newcomer to a full bucket waits among the replacements until somebody there fails. There is one
exception: where one network has filled a bucket, a newcomer from elsewhere takes the place of its youngest, so that
whoever rents many addresses in one place can't keep others out (see `networks`).
Only peers that were heard from directly are kept; what others say about peers is for lookups to try. Who can be called
through a relay only is no part of the table (see `clients`).
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from hivemind_p2p.dht import ids, networks
from hivemind_p2p.dht.clients import Clients, is_client
from hivemind_p2p.dht.contacts import Bucket, Contact
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

MOST_NEWCOMERS = 64
"""Newcomers remembered until records are handed to them; of a flood, those that come later do without."""


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
        self._own_point = ids.of_peer(own)
        self._size = bucket_size
        self._buckets: dict[int, Bucket] = {}
        self._avoided: OrderedDict[PeerId, _Avoidance] = OrderedDict()
        self._in_networks: Counter[str] = Counter()
        self._newcomers: deque[PeerInfo] = deque(maxlen=MOST_NEWCOMERS)
        self._clients = Clients()

    def __len__(self) -> int:
        return sum(len(bucket.good) for bucket in self._buckets.values())

    def __contains__(self, peer: PeerId) -> bool:
        return self._good(peer) is not None

    def get(self, peer: PeerId) -> PeerInfo | None:
        """What is known about a good peer, or about a client."""
        contact = self._good(peer)
        return contact.info if contact else self._clients.at(ids.of_peer(peer))

    def peers(self) -> tuple[PeerInfo, ...]:
        """Every good peer."""
        return tuple(contact.info for bucket in self._buckets.values() for contact in bucket.good.values())

    # -- events ------------------------------------------------------------------------------------------------------

    def seen(self, info: PeerInfo, now: float) -> PeerInfo | None:
        """Notes that a peer was heard from.

        Returns:
            A silent peer that is in the way of this one, to be asked whether it is still there; mostly None.
        """
        peer = info.peer_id
        if peer == self._own or not info.addresses:
            return None
        if self._avoided:
            self._avoided.pop(peer, None)
        if is_client(info):
            self._seen_client(info)
            return None
        self._clients.remove(peer)
        index = self._index(peer)
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = Bucket(refreshed_at=now)
        if peer in bucket.good or len(bucket.good) < self._size:
            self._admit(bucket, info, now)
            return None
        crowding = bucket.crowd(info, self._in_networks) if networks.of_peer(info) else None
        if crowding is not None:
            ousted = self._drop(bucket, crowding)
            bucket.wait(ousted.info, self._size)
            self._admit(bucket, info, now)
            return None
        bucket.wait(info, self._size)
        silent = bucket.silent(now, DOUBT_AFTER)
        return silent.info if silent else None

    def failed(self, peer: PeerId, now: float) -> None:
        """Notes that a peer did not answer: it is left alone for a while, and its place is given to another."""
        if peer == self._own:
            return
        self._avoid(peer, now)
        self._clients.remove(peer)
        bucket = self._buckets.get(self._index(peer))
        if bucket is None:
            return
        if peer in bucket.good:
            self._count(bucket.good[peer].info, -1)
        if (next_one := bucket.fail(peer, self._size)) is not None:
            self._admit(bucket, next_one, now)

    def refreshed(self, target: NodeId, now: float) -> None:
        """Notes that a lookup for a point has just filled the bucket in which it lies."""
        if target != self._own_point and (bucket := self._buckets.get(ids.bucket_index(self._own_point, target))):
            bucket.refreshed_at = now

    def take_newcomers(self) -> tuple[PeerInfo, ...]:
        """Peers that were met for the first time since the last call, to whom records may have to be handed."""
        newcomers = tuple(self._newcomers)
        self._newcomers.clear()
        return newcomers

    # -- decisions ---------------------------------------------------------------------------------------------------

    def is_avoided(self, peer: PeerId, now: float) -> bool:
        """Whether a peer failed so recently that asking it again is a waste of time."""
        avoidance = self._avoided.get(peer)
        return avoidance is not None and now < avoidance.until

    def closest(self, target: NodeId, count: int, *, without: PeerId | None = None) -> tuple[PeerInfo, ...]:
        """The good peers closest to a point, closest first; before them the very client that lies there."""
        client = self._clients.at(target)
        found = [client] if client is not None and client.peer_id != without else []
        for contacts in self._outwards(target):
            contacts.sort(key=lambda contact: contact.point ^ target)
            found.extend(contact.info for contact in contacts if contact.info.peer_id != without)
            if len(found) >= count:
                break
        return tuple(found[:count])

    def closest_doubtful(self, target: NodeId, count: int) -> tuple[PeerInfo, ...]:
        """The peers closest to a point of those that have failed lately: all there is after this peer was cut off."""
        contacts = (contact for bucket in self._buckets.values() for contact in bucket.doubtful.values())
        closest = heapq.nsmallest(count, contacts, key=lambda contact: contact.point ^ target)
        return tuple(contact.info for contact in closest)

    def doubtful(self, now: float, most: int) -> tuple[PeerInfo, ...]:
        """Peers that failed and whose time of avoidance is over: worth a check, or they would never come back."""
        due = (
            contact.info
            for bucket in self._buckets.values()
            for contact in bucket.doubtful.values()
            if len(bucket.good) < self._size and not self.is_avoided(contact.info.peer_id, now)
        )
        return tuple(info for info, _ in zip(due, range(most), strict=False))

    def silent(self, now: float, age: float, most: int) -> tuple[PeerInfo, ...]:
        """Good peers that were not heard from for `age` seconds, those first that have been silent for the longest."""
        contacts = (contact for bucket in self._buckets.values() for contact in bucket.good.values())
        silent = (contact for contact in contacts if contact.seen_at + age <= now)
        return tuple(contact.info for contact in heapq.nsmallest(most, silent, key=lambda contact: contact.seen_at))

    def stale_buckets(self, now: float, age: float) -> tuple[int, ...]:
        """The buckets in which no lookup was made for `age` seconds."""
        return tuple(index for index, bucket in sorted(self._buckets.items()) if bucket.refreshed_at + age <= now)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _outwards(self, target: NodeId) -> Iterator[list[Contact]]:
        """The contacts in groups, each group wholly closer to the target than the next."""
        index = ids.ID_BITS if target == self._own_point else ids.bucket_index(self._own_point, target)
        if (same := self._buckets.get(index)) is not None:
            yield list(same.good.values())
        yield [contact for other, bucket in self._buckets.items() if other > index for contact in bucket.good.values()]
        for other in sorted((other for other in self._buckets if other < index), reverse=True):
            yield list(self._buckets[other].good.values())

    def _good(self, peer: PeerId) -> Contact | None:
        bucket = self._buckets.get(self._index(peer)) if peer != self._own else None
        return bucket.good.get(peer) if bucket else None

    def _seen_client(self, info: PeerInfo) -> None:
        """Notes a client, which may have had a place in a bucket while it could be called directly."""
        self._clients.seen(info)
        bucket = self._buckets.get(self._index(info.peer_id))
        if bucket is None:
            return
        if info.peer_id in bucket.good:
            self._drop(bucket, info.peer_id)
        bucket.waiting.pop(info.peer_id, None)
        bucket.doubtful.pop(info.peer_id, None)

    def _index(self, peer: PeerId) -> int:
        return ids.bucket_index(self._own_point, ids.of_peer(peer))

    def _admit(self, bucket: Bucket, info: PeerInfo, now: float) -> None:
        former = bucket.good.get(info.peer_id)
        if former is None:
            self._newcomers.append(info)
        elif former.info is info or former.info == info:
            former.seen_at = now
            bucket.good.move_to_end(info.peer_id)
            return
        else:
            self._count(former.info, -1)
        bucket.admit(info, now)
        self._count(info, 1)

    def _drop(self, bucket: Bucket, peer: PeerId) -> Contact:
        contact = bucket.good.pop(peer)
        self._count(contact.info, -1)
        return contact

    def _count(self, info: PeerInfo, change: int) -> None:
        for network in networks.of_peer(info):
            self._in_networks[network] += change
            if not self._in_networks[network]:
                del self._in_networks[network]

    def _avoid(self, peer: PeerId, now: float) -> None:
        former = self._avoided.pop(peer, None)
        seconds = min(former.seconds * 2, LONGEST_AVOIDANCE) if former else FIRST_AVOIDANCE
        self._avoided[peer] = _Avoidance(seconds, now + seconds)
        if len(self._avoided) > MOST_AVOIDED:
            self._avoided.popitem(last=False)
