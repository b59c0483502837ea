"""Thousands of peers with the directory's own decisions, in one process and on a clock that jumps from event to event.

What is real: `Node`, `RoutingTable`, `Lookup` and all that they decide with. What is made up: the network (a place on
a map for every peer, so that each link has its own latency), the time, and the records: they are not signed, because
thousands of peers' signatures would take longer than all else; what liars do to signatures is tested elsewhere.

A dead peer is the worst kind of dead: nothing refuses the connection, every request to it runs into its time-out.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hivemind_p2p.dht import ids
from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.dht.lookup import Lookup
from hivemind_p2p.dht.node import Node
from hivemind_p2p.dht.replication import to_hand_over
from hivemind_p2p.dht.routing_table import BUCKET_SIZE
from hivemind_p2p.types import PeerId, PeerInfo

SLOW_AFTER = 1.0
"""Seconds after which somebody else is asked meanwhile; the same as in `dht.walk`."""

REQUEST_DEADLINE = 3.0
"""Seconds after which a request has failed; the same as in `dht.channels`."""

LOOKUP_DEADLINE = 15.0
"""Seconds after which a lookup ends with what it has; the same as in `dht.walk`."""

FIRST_HOP = 0.004
"""Seconds: the shortest one-way latency between two peers."""

ACROSS = 0.15
"""Seconds: what the longest way across the map adds to it."""


@dataclass(frozen=True, slots=True)
class Value:
    """A record that nobody signed."""

    key: str
    signer: PeerId
    sequence: int
    expires_at: float


@dataclass(slots=True)
class Peer:
    """A simulated peer."""

    node: Node
    info: PeerInfo
    place: tuple[float, float]
    alive: bool = True
    values: dict[str, dict[PeerId, Value]] = field(default_factory=dict)

    def get(self, key: str, now: float) -> dict[PeerId, Value]:
        """What it keeps under a key."""
        return {signer: value for signer, value in self.values.get(key, {}).items() if value.expires_at > now}

    def put(self, value: Value) -> None:
        """Keeps the newer one."""
        kept = self.values.setdefault(value.key, {})
        if value.signer not in kept or kept[value.signer].sequence < value.sequence:
            kept[value.signer] = value


@dataclass(slots=True)
class Walk:
    """A lookup on its way, and what it has taken.

    Attributes:
        rounds: Requests in the longest chain in which each was sent because of the one before, up to the one that
            ended the lookup: what it takes in round trips, one after another.
        messages: Requests sent.
        seconds: From the beginning to the end.
    """

    lookup: Lookup
    asker: Peer
    key: str
    done: Callable[[Walk], None]
    started_at: float
    merged: dict[PeerId, Value] = field(default_factory=dict)
    rounds: int = 0
    messages: int = 0
    seconds: float = 0.0
    finished: bool = False


def _nothing(_: Walk) -> None:
    """What is mostly done with a finished lookup."""


class Simulation:
    """A hive on a simulated clock.

    Args:
        seed: Of everything that is random.
        uniform_latency: One-way seconds of every link; None for a map.
        hands_over: Whether replicas hand records to newcomers.
    """

    def __init__(self, seed: int, *, uniform_latency: float | None = None, hands_over: bool = True) -> None:
        self.random = random.Random(seed)  # noqa: S311  (a simulation has to be repeatable)
        self.now = 0.0
        self.peers: dict[PeerId, Peer] = {}
        self.living: list[PeerId] = []
        self.messages = 0
        self._uniform_latency = uniform_latency
        self._hands_over = hands_over
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    # -- time --------------------------------------------------------------------------------------------------------

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Does something later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), action))

    def run(self, until: float | None = None) -> None:
        """Lets time pass: up to a moment, or until nothing is left to happen."""
        while self._events and (until is None or self._events[0][0] <= until):
            self.now, _, action = heapq.heappop(self._events)
            action()
        if until is not None:
            self.now = max(self.now, until)

    # -- peers -------------------------------------------------------------------------------------------------------

    def add(self, *, name: PeerId | None = None, address: str | None = None) -> Peer:
        """A new peer that knows one other; it has not joined yet."""
        name = name or PeerId(f"simulated {self.random.getrandbits(64):016x}")
        info = PeerInfo(name, (address or f"/ip4/10.{self.random.randrange(256)}.0.1/tcp/{len(self.peers) % 65536}",))
        seeds = (self.peers[self.random.choice(self.living)].info,) if self.living else ()
        peer = Peer(Node(name, seeds=seeds), info, (self.random.random(), self.random.random()))
        self.peers[name] = peer
        self.living.append(name)
        return peer

    def join(self, peer: Peer, joined: Callable[[Walk], None] = _nothing) -> None:
        """Has a peer look itself up."""
        self.find_peers(peer, ids.of_peer(peer.info.peer_id), joined)

    def grow(self, count: int, *, at_once: int = 25) -> None:
        """Has peers join until there are so many, some at once, and waits until all have looked themselves up."""
        while len(self.living) < count:
            for _ in range(min(at_once, count - len(self.living), max(1, len(self.living)))):
                self.join(self.add())
            self.run()

    def kill(self, peer: Peer) -> None:
        """Ends a peer without a word; takes time in proportion to the living."""
        peer.alive = False
        self.living.remove(peer.info.peer_id)

    def kill_share(self, share: float) -> None:
        """Ends a share of all at once."""
        for name in self.random.sample(self.living, int(share * len(self.living))):
            self.peers[name].alive = False
        self.living = [name for name in self.living if self.peers[name].alive]

    def anybody(self) -> Peer:
        """A living peer."""
        return self.peers[self.random.choice(self.living)]

    # -- what peers do -----------------------------------------------------------------------------------------------

    def find_peers(self, asker: Peer, target: NodeId, done: Callable[[Walk], None] = _nothing) -> Walk:
        """Looks up the peers closest to a point."""
        return self._start(asker, asker.node.find_peers(target, self.now), "", done)

    def find_records(self, asker: Peer, key: str, done: Callable[[Walk], None] = _nothing) -> Walk:
        """Looks up the records under a key."""
        walk = self._start(asker, asker.node.find_records(key, self.now), key, done)
        walk.merged.update(asker.get(key, self.now))
        return walk

    def publish(self, signer: Peer, key: str, lifetime: float, done: Callable[[Walk], None] = _nothing) -> None:
        """Stores a record at its replicas."""
        value = Value(key, signer.info.peer_id, int(self.now * 1000) + 1, self.now + lifetime)

        def store(walk: Walk) -> None:
            signer.put(value)
            for info in walk.lookup.replicas():
                self.messages += 1
                walk.messages += 1
                if (replica := self.peers.get(info.peer_id)) is not None and replica.alive:
                    replica.put(value)
            done(walk)

        self.find_peers(signer, ids.of_key(key), store)

    def refresh(self, peer: Peer, age: float) -> None:
        """Looks up a peer itself and a point in each bucket in which nothing was looked up for some seconds."""
        own = ids.of_peer(peer.info.peer_id)
        self.find_peers(peer, own)
        for index in peer.node.table.stale_buckets(self.now, age):
            self.find_peers(peer, ids.in_bucket(own, index, self.random.getrandbits(ids.ID_BITS)))

    def truly_closest(self, target: NodeId, count: int) -> list[PeerId]:
        """The living peers closest to a point, as nobody in the hive can know."""
        return heapq.nsmallest(count, self.living, key=lambda name: ids.of_peer(name) ^ target)

    # -- the network -------------------------------------------------------------------------------------------------

    def latency(self, one: Peer, other: Peer) -> float:
        """Seconds of one way between two peers."""
        if self._uniform_latency is not None:
            return self._uniform_latency
        (x, y), (u, v) = one.place, other.place
        return FIRST_HOP + ACROSS * float(((x - u) ** 2 + (y - v) ** 2) ** 0.5) / 2

    def answer(self, peer: Peer, asker: Peer, target: NodeId) -> tuple[PeerInfo, ...]:
        """Whom a peer names; liars are made by replacing this."""
        return peer.node.table.closest(target, BUCKET_SIZE, without=asker.info.peer_id)

    def _start(self, asker: Peer, lookup: Lookup, key: str, done: Callable[[Walk], None]) -> Walk:
        walk = Walk(lookup, asker, key, done, self.now)
        self.after(0.0, lambda: self._go_on(walk, 0))
        self.after(LOOKUP_DEADLINE, lambda: self._finish(walk, walk.rounds))
        return walk

    def _go_on(self, walk: Walk, after: int) -> None:
        """Sends what there is to send now, because of a request of the round `after`."""
        if walk.finished or not walk.asker.alive:
            return
        for info in walk.lookup.next():
            self._send(walk, info, after + 1)
        if walk.lookup.finished:
            self._finish(walk, after)

    def _finish(self, walk: Walk, rounds: int) -> None:
        if walk.finished or not walk.asker.alive:
            return
        walk.finished = True
        walk.rounds, walk.seconds = rounds, self.now - walk.started_at
        walk.asker.node.finished(walk.lookup, self.now)
        walk.done(walk)

    def _send(self, walk: Walk, info: PeerInfo, number: int) -> None:
        walk.messages += 1
        self.messages += 1
        there = self.peers.get(info.peer_id)
        if there is None or not there.alive:
            self.after(SLOW_AFTER, lambda: self._slow(walk, info, number))
            self.after(REQUEST_DEADLINE, lambda: self._failed(walk, info, number))
            return
        closer = self.answer(there, walk.asker, walk.lookup.target)
        told = there.get(walk.key, self.now) if walk.key else {}
        self._seen(there, walk.asker.info)
        self.after(2 * self.latency(walk.asker, there), lambda: self._answered(walk, there, closer, told, number))

    def _answered(
        self, walk: Walk, there: Peer, closer: tuple[PeerInfo, ...], told: dict[PeerId, Value], number: int
    ) -> None:
        if walk.finished or not walk.asker.alive:
            return
        self._seen(walk.asker, there.info)
        if told:
            self._merge(walk, there, told)
        walk.lookup.answered(there.info.peer_id, walk.asker.node.worth_asking(closer, self.now))
        self._go_on(walk, number)

    def _merge(self, walk: Walk, there: Peer, told: dict[PeerId, Value]) -> None:
        news = False
        for signer, value in told.items():
            if signer not in walk.merged or walk.merged[signer].sequence < value.sequence:
                walk.merged[signer] = value
                news = True
        walk.lookup.holds(there.info.peer_id, agrees=told == walk.merged, news=news)

    def _slow(self, walk: Walk, info: PeerInfo, number: int) -> None:
        walk.lookup.slow(info.peer_id)
        self._go_on(walk, number)

    def _failed(self, walk: Walk, info: PeerInfo, number: int) -> None:
        if walk.finished or not walk.asker.alive:
            return
        walk.asker.node.table.failed(info.peer_id, self.now)
        walk.lookup.failed(info.peer_id)
        self._go_on(walk, number)

    def _seen(self, peer: Peer, info: PeerInfo) -> None:
        """Has a peer notice another, check whoever is in its way, and hand records over if it is new."""
        table = peer.node.table
        silent = table.seen(info, self.now)
        if silent is not None:
            self._check(peer, silent)
        newcomers = table.take_newcomers()
        if not self._hands_over or not peer.values:
            return
        for newcomer in newcomers:
            for key in to_hand_over(table, peer.info.peer_id, newcomer, peer.values):
                self.messages += 1
                for value in peer.get(key, self.now).values():
                    self.peers[newcomer.peer_id].put(value)

    def _check(self, peer: Peer, silent: PeerInfo) -> None:
        self.messages += 1
        if self.peers[silent.peer_id].alive:
            peer.node.table.seen(silent, self.now)
        else:
            self.after(REQUEST_DEADLINE, lambda: peer.node.table.failed(silent.peer_id, self.now))
