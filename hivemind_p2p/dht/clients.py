"""Peers that can be called through a relay only: they use the directory, and no part of it lies on them.

A question to such a peer takes a circuit of somebody else's relay, of which there are few, and twice the time; and it
is gone when its relay is. So nobody's lookups lead through it and no records are kept there. (libp2p's Kademlia calls
this client mode.) Where it can be dialled is remembered all the same, for those who look for this very peer.
"""

from __future__ import annotations

from collections import OrderedDict

from hivemind_p2p.dht import ids
from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.types import PeerId, PeerInfo

MOST_CLIENTS = 2048
"""Clients remembered, those heard from last: in a hive behind NATs the bootstrap is everybody's neighbour."""

_RELAYED = "/p2p-circuit"


def is_client(info: PeerInfo) -> bool:
    """Whether a peer says that it can be called through a relay: only who can't be called directly asks for one."""
    return any(_RELAYED in address for address in info.addresses)


class Clients:
    """The clients that were heard from, by where they lie.

    Args:
        most: How many are remembered.
    """

    def __init__(self, most: int = MOST_CLIENTS) -> None:
        self._most = most
        self._clients: OrderedDict[NodeId, PeerInfo] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def seen(self, info: PeerInfo) -> None:
        """Notes that a client was heard from."""
        point = ids.of_peer(info.peer_id)
        self._clients[point] = info
        self._clients.move_to_end(point)
        if len(self._clients) > self._most:
            self._clients.popitem(last=False)

    def remove(self, peer: PeerId) -> None:
        """Forgets a peer: it does not answer, or it is no client any more."""
        self._clients.pop(ids.of_peer(peer), None)

    def at(self, point: NodeId) -> PeerInfo | None:
        """The client that lies at a point."""
        return self._clients.get(point)
