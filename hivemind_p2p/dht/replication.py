"""Where else a record is put than at its replicas, and for how long: copies along a lookup's path, and newcomers.

Decisions only; the publisher and the asker do what is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hivemind_p2p.dht import ids
from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.dht.lookup import READ_WIDTH, Lookup
from hivemind_p2p.dht.routing_table import BUCKET_SIZE, RoutingTable
from hivemind_p2p.types import PeerId, PeerInfo

LONGEST_COPY = 60.0
"""Seconds that a copy next to the replicas lives: twice the life of an offer, so that what is asked for often stays."""

SHORTEST_COPY = 5.0
"""Seconds below which a copy is not worth the message that makes it."""

HANDED_BY = 3
"""Replicas that hand a record to a newcomer. In the Kademlia paper (section 2.5) the closest one does; but that one may
be a liar, or a newcomer itself that has nothing yet."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy to be made.

    Attributes:
        peer: Who is to keep it.
        seconds: How long, at the most; never longer than the record itself lives.
    """

    peer: PeerInfo
    seconds: float


def copy_along_path(lookup: Lookup) -> Copy | None:
    """Where a finished lookup that has found records leaves a copy of them; mostly nowhere.

    The copy goes to the closest peer that was asked and had none, so that the next lookup on this way meets it first.
    Its life is halved each time that the distance to the target doubles beyond that of the farthest replica met: far
    from the key copies are many and out of date sooner than anybody asks.
    """
    holders = lookup.holders()
    nearest = lookup.nearest_without()
    if not holders or nearest is None:
        return None
    edge = max(_distance(info.peer_id, lookup.target) for info in holders)
    distance = _distance(nearest.peer_id, lookup.target)
    if distance <= edge:
        return None  # a newcomer among the replicas: it is given the record for good, by them
    seconds = LONGEST_COPY / (distance / max(edge, 1))
    return Copy(nearest, seconds) if seconds >= SHORTEST_COPY else None


def is_placed(replicas: Sequence[PeerInfo], answered: Mapping[PeerId, bool]) -> bool:
    """Whether a record lies at those of its replicas that a read asks, so that only the farther ones are left.

    Args:
        replicas: All of them, closest first.
        answered: Who has answered the request to keep it, and who has failed.
    """
    living = [info.peer_id for info in replicas if answered.get(info.peer_id, True)][:READ_WIDTH]
    return len(living) >= min(READ_WIDTH, len(replicas)) and all(peer in answered for peer in living)


def to_hand_over(table: RoutingTable, own: PeerId, newcomer: PeerInfo, keys: Iterable[str]) -> tuple[str, ...]:
    """The keys whose records this peer hands to a newcomer.

    These are the keys to which the newcomer is one of the 20 closest peers while this one is among the closest three
    of the others. With 20 replicas, each newcomer is thus given each record three times, and not twenty.
    """
    there = ids.of_peer(newcomer.peer_id)
    here = ids.of_peer(own)
    return tuple(key for key in keys if _is_handed(table, here, there, ids.of_key(key)))


def _is_handed(table: RoutingTable, here: NodeId, there: NodeId, point: NodeId) -> bool:
    own_distance = here ^ point
    others = (ids.of_peer(info.peer_id) for info in table.closest(point, BUCKET_SIZE + 1))
    distances = [other ^ point for other in others if other != there]
    if sum(distance < own_distance for distance in distances[:HANDED_BY]) >= HANDED_BY:
        return False
    return sum(distance < there ^ point for distance in (*distances, own_distance)) < BUCKET_SIZE


def _distance(peer: PeerId, target: NodeId) -> int:
    return ids.distance(ids.of_peer(peer), target)
