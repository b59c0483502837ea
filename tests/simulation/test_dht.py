"""Four hundred peers with the directory's own decisions, on calls instead of a network: what is found at what cost."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import pytest

from hivemind_p2p.dht import ids, records, wire
from hivemind_p2p.dht.lookup import Lookup
from hivemind_p2p.dht.messages import FindPeers, FindRecords, Question, Request, Response, Store
from hivemind_p2p.dht.node import Node
from hivemind_p2p.dht.routing_table import BUCKET_SIZE
from hivemind_p2p.identity import Identity
from hivemind_p2p.types import PeerId, PeerInfo

COUNT = 400
KEYS = 40
NOW = 1_700_000_000.0


class Simulation:
    """Peers by id; a request is a call, and a dead peer's call fails. Time advances by one second a request."""

    def __init__(self, count: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.identities = {
            identity.peer_id: identity for identity in (Identity(self.random.randbytes(32)) for _ in range(count))
        }
        self.nodes: dict[PeerId, Node] = {}
        self.dead: set[PeerId] = set()
        self.at = 0.0
        self.requests = 0
        for peer in self.identities:
            self.join(peer)

    def info(self, peer: PeerId) -> PeerInfo:
        return PeerInfo(peer, (f"/sim/{peer}",))

    def join(self, peer: PeerId) -> None:
        known = list(self.nodes)
        seeds = (self.info(self.random.choice(known)),) if known else ()
        self.nodes[peer] = Node(peer, seeds=seeds)
        self.find_peers(peer, ids.of_peer(peer))

    def kill(self, share: float) -> None:
        self.dead = set(self.random.sample(list(self.nodes), int(share * len(self.nodes))))

    @property
    def living(self) -> list[PeerId]:
        return [peer for peer in self.nodes if peer not in self.dead]

    def ask(self, asker: PeerId, info: PeerInfo, question: Question) -> Response | None:
        self.requests += 1
        self.at += 0.01
        table = self.nodes[asker].table
        if info.peer_id in self.dead:
            table.failed(info.peer_id, self.at)
            return None
        request = Request(self.info(asker), question)
        response, _ = self.nodes[info.peer_id].answer(request, now=NOW, at=self.at)
        table.seen(info, self.at)
        return response

    def walk(
        self, asker: PeerId, lookup: Lookup, question: Question, take: Callable[[PeerInfo, Response], None]
    ) -> Lookup:
        while asked := lookup.next():
            for info in asked:
                response = self.ask(asker, info, question)
                if response is None:
                    lookup.failed(info.peer_id)
                    continue
                take(info, response)
                lookup.answered(info.peer_id, self.nodes[asker].worth_asking(response.peers, self.at))
        assert lookup.finished
        self.nodes[asker].finished(lookup, self.at)
        return lookup

    def find_peers(self, asker: PeerId, target: ids.NodeId) -> Lookup:
        lookup = self.nodes[asker].find_peers(target, self.at)
        return self.walk(asker, lookup, FindPeers(target), lambda info, response: None)

    def publish(self, publisher: PeerId, key: str, value: bytes, sequence: int = 1) -> int:
        """Returns how many replicas there are."""
        signed = records.sign(self.identities[publisher], key, value, sequence=sequence, expires_at=NOW + 600)
        replicas = self.find_peers(publisher, ids.of_key(key)).closest()
        stored = [self.ask(publisher, info, Store((wire.as_bytes(signed),))) for info in replicas]
        return sum(response is not None and not response.refusals for response in stored)

    def lookup(self, asker: PeerId, key: str) -> list[bytes]:
        node = self.nodes[asker]
        merged = node.new_merge(key, NOW)
        lookup = node.find_records(key, self.at)

        def take(info: PeerInfo, response: Response) -> None:
            news = node.merge(merged, key, response.records, NOW)
            told = {record.body for record in response.records}
            if told:
                lookup.holds(info.peer_id, agrees=node.agrees(merged, key, told, NOW), news=news)

        self.walk(asker, lookup, FindRecords(key), take)
        return [signed.record.value for signed in merged.get(key, NOW)]

    def truly_closest(self, target: ids.NodeId, count: int) -> list[PeerId]:
        return sorted(self.living, key=lambda peer: ids.of_peer(peer) ^ target)[:count]


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    """The tests of this module follow one another in the life of one hive: the dead stay dead."""
    return Simulation(COUNT, seed=11)


def test_lookups_find_the_truly_closest_peers(simulation):
    right = 0
    for number in range(KEYS):
        target = ids.of_key(f"target {number}")
        asker = simulation.random.choice(simulation.living)
        expected = [peer for peer in simulation.truly_closest(target, BUCKET_SIZE + 1) if peer != asker][:BUCKET_SIZE]
        found = [info.peer_id for info in simulation.find_peers(asker, target).closest()]
        right += sum(peer in expected for peer in found)
    assert right / (KEYS * BUCKET_SIZE) > 0.99


def test_no_table_is_larger_than_kademlia_says(simulation):
    sizes = [len(node.table) for node in simulation.nodes.values()]
    assert statistics.median(sizes) >= BUCKET_SIZE
    assert max(sizes) < 200


def test_records_are_found_by_everybody_and_nobody_is_asked_much(simulation):
    simulation.publish(simulation.living[0], "shared", b"from 0")
    simulation.publish(simulation.living[1], "shared", b"from 1")
    costs = []
    for asker in simulation.random.sample(simulation.living, 100):
        before = simulation.requests
        assert sorted(simulation.lookup(asker, "shared")) == [b"from 0", b"from 1"]
        costs.append(simulation.requests - before)
    assert statistics.median(costs) <= 14
    assert max(costs) <= 30


def test_nothing_is_lost_when_a_third_dies_at_once(simulation):
    """Before anybody has noticed: every table is full of the dead, and nothing has been republished."""
    published = {f"key {number}": b"value %d" % number for number in range(KEYS)}
    for key, value in published.items():
        assert simulation.publish(simulation.random.choice(simulation.living), key, value) == BUCKET_SIZE
    simulation.kill(0.3)
    for key, value in published.items():
        for asker in simulation.random.sample(simulation.living, 3):
            assert simulation.lookup(asker, key) == [value]


def test_an_update_after_the_deaths_is_what_everybody_reads(simulation):
    for number in range(KEYS):
        publisher = simulation.random.choice(simulation.living)
        simulation.publish(publisher, f"updated {number}", b"old")
        simulation.publish(publisher, f"updated {number}", b"new", sequence=2)
        assert simulation.lookup(simulation.random.choice(simulation.living), f"updated {number}") == [b"new"]


def test_newcomers_in_between_hide_no_record(simulation):
    """New peers that lie closer to the keys than the replicas know nothing yet."""
    published = {f"early {number}": b"value %d" % number for number in range(KEYS)}
    for key, value in published.items():
        simulation.publish(simulation.random.choice(simulation.living), key, value)
    for _ in range(COUNT // 4):
        newcomer = Identity(simulation.random.randbytes(32))
        simulation.identities[newcomer.peer_id] = newcomer
        seed = simulation.random.choice(simulation.living)
        simulation.nodes[newcomer.peer_id] = Node(newcomer.peer_id, seeds=(simulation.info(seed),))
        simulation.find_peers(newcomer.peer_id, ids.of_peer(newcomer.peer_id))
    for key, value in published.items():
        assert simulation.lookup(simulation.random.choice(simulation.living), key) == [value]
