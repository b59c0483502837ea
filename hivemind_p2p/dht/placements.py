"""Where this peer's records lie, so that publishing them again costs no lookup for each key.

The replicas of a key are remembered from the lookup that found them, and joined with closer peers that the routing
table has met since. After a while, or when too many of them do not take the record any more, a lookup finds them anew.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from hivemind_p2p.dht import ids
from hivemind_p2p.dht.routing_table import BUCKET_SIZE, RoutingTable
from hivemind_p2p.types import PeerInfo

PLACED_FOR = 900.0
"""Seconds until a lookup is due again: in an hour about a third of all peers leave, in a quarter about a tenth."""

ENOUGH = 0.75
"""The share of remembered replicas that have to take a record; with fewer they are looked up anew."""

MOST_PLACEMENTS = 16 * 1024
"""Keys remembered: more than any replica would keep for one signer."""


@dataclass(frozen=True, slots=True)
class _Placement:
    peers: tuple[PeerInfo, ...]
    until: float


class Placements:
    """The replicas of each key. `at` is in seconds on a clock that never jumps."""

    def __init__(self) -> None:
        self._placements: OrderedDict[str, _Placement] = OrderedDict()

    def __len__(self) -> int:
        return len(self._placements)

    def found(self, key: str, peers: tuple[PeerInfo, ...], at: float) -> None:
        """Remembers what a lookup has found."""
        self._placements[key] = _Placement(peers, at + PLACED_FOR)
        self._placements.move_to_end(key)
        if len(self._placements) > MOST_PLACEMENTS:
            self._placements.popitem(last=False)

    def replicas(self, key: str, table: RoutingTable, at: float) -> tuple[PeerInfo, ...]:
        """The replicas of a key, with the peers closer to it that are known by now; empty where a lookup is due."""
        placement = self._placements.get(key)
        if placement is None or placement.until <= at:
            return ()
        point = ids.of_key(key)
        peers = {info.peer_id: info for info in (*table.closest(point, BUCKET_SIZE), *placement.peers)}
        living = (info for info in peers.values() if not table.is_avoided(info.peer_id, at))
        ordered = sorted(living, key=lambda info: ids.distance(ids.of_peer(info.peer_id), point))
        # All that a lookup named, since it may have named more where it met liars; and whoever is closer since.
        return tuple(ordered[: max(BUCKET_SIZE, len(placement.peers))])

    def stored(self, key: str, taken: int, asked: int) -> bool:
        """Notes how many replicas took a record; returns whether these were enough."""
        if asked and taken >= ENOUGH * asked:
            return True
        self.forget(key)
        return False

    def forget(self, key: str) -> None:
        """Forgets a key: the next time it is looked up."""
        self._placements.pop(key, None)
