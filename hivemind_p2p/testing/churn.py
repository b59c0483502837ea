"""A simulated hive in which peers come and go all the time, while the records of those that are there stay findable."""

from __future__ import annotations

import math

from hivemind_p2p.testing.simulated_dht import Peer, Simulation, Walk

LIFETIME = 600.0
"""Seconds that a record lives: those of contents."""

REPUBLISHED = 3
"""How often a record is stored in its lifetime, as `dht.publications` does."""

REFRESH_EVERY = 600.0
"""Seconds between refreshes of a routing table, as in `dht.service`."""

LOOKUP_EVERY = 0.5
"""Seconds between two lookups in the hive."""

KEYS_OF_PEER = 0.2
"""Records alive at once, for each peer; a new owner takes over when one leaves."""

WARM_UP = 600.0
"""Seconds before lookups count: a refresh of everybody."""


class Churn:
    """Peers that join and leave without a word; the number of the living stays the same.

    Args:
        simulation: A hive without peers.
        peers: How many are alive at any time.
        session: Seconds after which half of all peers have left again.

    Attributes:
        lookups: Those that counted: of records whose owner was alive, by peers that had joined.
        left: Peers that have left.
    """

    def __init__(self, simulation: Simulation, *, peers: int, session: float) -> None:
        self._simulation = simulation
        self._peers = peers
        self._session = session
        self._owners: dict[str, Peer] = {}
        self._ready: set[str] = set()
        self.lookups: list[Walk] = []
        self.left = 0
        self.requests_a_minute = 0.0

    def live(self, seconds: float) -> None:
        """Lets the hive live for so long after it has warmed up."""
        simulation = self._simulation
        simulation.grow(self._peers)
        for peer in list(simulation.peers.values()):
            self._begin(peer)
        for number in range(int(KEYS_OF_PEER * self._peers)):
            self._own(f"key {number}")
        counted_from = simulation.now + WARM_UP
        simulation.run(until=counted_from)
        before = simulation.messages
        self._look_up()
        simulation.run(until=counted_from + seconds)
        self.requests_a_minute = (simulation.messages - before) / self._peers / (seconds / 60)

    def _begin(self, peer: Peer) -> None:
        """A session: upkeep until the peer leaves."""
        simulation = self._simulation
        simulation.after(simulation.random.expovariate(math.log(2) / self._session), lambda: self._leave(peer))
        simulation.after(simulation.random.random() * REFRESH_EVERY, lambda: self._refresh(peer))

    def _leave(self, peer: Peer) -> None:
        self._simulation.kill(peer)
        self.left += 1
        newcomer = self._simulation.add()
        self._simulation.join(newcomer)
        self._begin(newcomer)
        for key, owner in self._owners.items():
            if owner is peer:
                self._own(key)

    def _refresh(self, peer: Peer) -> None:
        if peer.alive:
            self._simulation.refresh(peer, REFRESH_EVERY)
            self._simulation.after(REFRESH_EVERY, lambda: self._refresh(peer))

    def _own(self, key: str) -> None:
        """Somebody else publishes under a key from now on."""
        owner = self._simulation.anybody()
        self._owners[key] = owner
        self._ready.discard(key)
        self._publish(key, owner)

    def _publish(self, key: str, owner: Peer) -> None:
        if not owner.alive or self._owners[key] is not owner:
            return
        self._simulation.publish(owner, key, LIFETIME, lambda walk: self._ready.add(key))  # noqa: ARG005
        self._simulation.after(LIFETIME / REPUBLISHED, lambda: self._publish(key, owner))

    def _look_up(self) -> None:
        simulation = self._simulation
        simulation.after(LOOKUP_EVERY, self._look_up)
        key = simulation.random.choice(sorted(self._ready))
        asker = simulation.anybody()
        if len(asker.node.table):
            simulation.find_records(asker, key, self._count)

    def _count(self, walk: Walk) -> None:
        owner = self._owners[walk.key]
        if owner.alive and walk.key in self._ready:
            # Records of former owners are found as well, for as long as they live.
            walk.merged = {signer: value for signer, value in walk.merged.items() if signer == owner.info.peer_id}
            self.lookups.append(walk)
