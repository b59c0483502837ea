"""Liars in numbers, against the directory's own decisions: a key surrounded, paths misled, tables flooded.

The attacks that need signatures or sockets are in `tests/dht/test_attacks.py`.
"""

import pytest

from hivemind_p2p.dht import ids
from hivemind_p2p.dht.lookup import MOST_ASKED
from hivemind_p2p.dht.population import SPACE
from hivemind_p2p.dht.routing_table import BUCKET_SIZE
from hivemind_p2p.testing.simulated_dht import Simulation, Value
from hivemind_p2p.types import PeerId, PeerInfo

COUNT = 300
KEY = "the key under attack"
TARGET = ids.of_key(KEY)
READERS = 25


class Attacked(Simulation):
    """A hive of which some are liars, who do what a test wants."""

    def __init__(self, seed, lies=None):
        super().__init__(seed)
        self.liars = set()
        self.lies = lies

    def answer(self, peer, asker, target):
        if peer.info.peer_id in self.liars and self.lies is not None:
            return self.lies(self, peer, target)
        return super().answer(peer, asker, target)

    def learn_size(self, peers):
        """Has peers look up what keeps their buckets fresh, as all do from time to time."""
        for peer in peers:
            for number in range(5):
                self.find_peers(peer, ids.of_key(f"{peer.info.peer_id} {number}"))
        self.run()

    def readers(self):
        honest = [name for name in self.living if name not in self.liars]
        return [self.peers[name] for name in self.random.sample(honest, READERS)]

    def read(self, readers):
        walks = []
        for reader in readers:
            self.find_records(reader, KEY, walks.append)
            self.run()
        return walks


def surround(hive, count, within):
    """Sybils made up until so many lie within a distance of the key; they join like anybody else."""
    sybils = []
    while len(sybils) < count:
        name = PeerId(f"sybil {hive.random.getrandbits(64):016x}")
        if ids.of_peer(name) ^ TARGET < within:
            sybils.append(name)
    for name in sybils:
        peer = hive.add(name=name)
        hive.liars.add(name)
        hive.join(peer)
        hive.run()
    return sybils


def accomplices(hive, peer, target):
    """Names other liars only."""
    return tuple(hive.peers[name].info for name in sorted(hive.liars, key=lambda name: ids.of_peer(name) ^ target)[:20])


def without_memory(hive, sybils):
    """The liars keep nothing."""
    for name in sybils:
        hive.peers[name].values.clear()


@pytest.mark.parametrize("lies", [None, accomplices])
def test_a_sybil_majority_around_a_key_does_not_hide_it(lies):
    """20 liars, all closer to the key than any honest peer, who keep nothing of what they take."""
    hive = Attacked(11, lies)
    hive.grow(COUNT)
    closest = hive.truly_closest(TARGET, 1)[0]
    sybils = surround(hive, BUCKET_SIZE, min(ids.of_peer(closest) ^ TARGET, SPACE // 500))
    assert set(hive.truly_closest(TARGET, BUCKET_SIZE)) == set(sybils)
    publisher, *readers = hive.readers()
    hive.learn_size([publisher, *readers])
    stored = []
    hive.publish(publisher, KEY, 3600.0, stored.append)
    hive.run()
    without_memory(hive, sybils)
    assert stored[0].lookup.crowded
    honest = [name for name in hive.peers if name not in hive.liars and hive.peers[name].get(KEY, hive.now)]
    assert len(honest) >= BUCKET_SIZE // 2
    walks = hive.read(readers)
    assert sum(bool(walk.merged) for walk in walks) == len(readers)
    assert max(walk.messages for walk in walks) <= MOST_ASKED


def test_a_sybil_majority_that_agrees_on_junk_does_not_drown_the_record():
    hive = Attacked(12, accomplices)
    hive.grow(COUNT)
    closest = hive.truly_closest(TARGET, 1)[0]
    sybils = surround(hive, BUCKET_SIZE, min(ids.of_peer(closest) ^ TARGET, SPACE // 500))
    publisher, *readers = hive.readers()
    hive.learn_size([publisher, *readers])
    hive.publish(publisher, KEY, 3600.0)
    hive.run()
    without_memory(hive, sybils)
    for name in sybils:
        hive.peers[name].put(Value(KEY, sybils[0], 1, hive.now + 3600))
    walks = hive.read(readers)
    assert sum(publisher.info.peer_id in walk.merged for walk in walks) == len(readers)


def made_up(hive, peer, target):
    """20 peers right beside the target that do not exist, others each time."""
    found = []
    while len(found) < 20:
        name = PeerId(f"nobody {hive.random.getrandbits(64):016x}")
        if ids.of_peer(name) ^ target < SPACE // 100:
            found.append(PeerInfo(name, ("/ip4/10.0.0.1/tcp/9",)))
    return tuple(found)


def test_liars_who_name_peers_that_do_not_exist_cost_some_requests_and_no_result():
    hive = Attacked(13, made_up)
    hive.grow(COUNT)
    hive.publish(hive.anybody(), KEY, 3600.0)
    hive.run()
    hive.liars = set(hive.random.sample(hive.living, COUNT // 10))
    walks = hive.read(hive.readers())
    assert all(walk.merged for walk in walks)
    assert max(walk.messages for walk in walks) <= MOST_ASKED
    assert max(walk.seconds for walk in walks) < 15
    assert not any(name.startswith("nobody") for peer in hive.peers.values() for name in known(peer))


def known(peer):
    return [info.peer_id for info in peer.node.table.peers()]


def test_a_third_of_liars_everywhere_hide_nothing():
    """They answer, name only one another, and keep nothing."""
    hive = Attacked(14, accomplices)
    hive.grow(COUNT)
    hive.liars = set(hive.random.sample(hive.living, COUNT // 3))
    publisher, *readers = hive.readers()
    hive.publish(publisher, KEY, 3600.0)
    hive.run()
    without_memory(hive, hive.liars)
    walks = hive.read(readers)
    assert sum(bool(walk.merged) for walk in walks) == len(readers)


def test_a_flood_of_newcomers_leaves_an_old_hive_as_it_was():
    """As many newcomers as there are peers, each heard from once, then gone."""
    hive = Attacked(15)
    hive.grow(60)
    hive.publish(hive.anybody(), KEY, 24 * 3600.0)
    hive.run()
    old = list(hive.living)
    before = {name: len(hive.peers[name].node.table) for name in old}
    for number in range(150):
        flooder = hive.add(name=PeerId(f"flood {number}"))
        hive.join(flooder)
        hive.run()
        hive.kill(flooder)
        hive.liars.add(flooder.info.peer_id)
    assert all(len(hive.peers[name].node.table) <= before[name] + 8 * BUCKET_SIZE for name in old)
    walks = hive.read(hive.readers())
    assert all(walk.merged for walk in walks)
