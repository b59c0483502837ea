"""A hive on a simulated network and clock: how many round trips, what deaths and churn cost. Every run is the same."""

import math
from statistics import mean, median

import pytest

from hivemind_p2p.dht import ids
from hivemind_p2p.dht.population import SAMPLES
from hivemind_p2p.dht.routing_table import BUCKET_SIZE
from hivemind_p2p.testing.churn import Churn
from hivemind_p2p.testing.simulated_dht import SLOW_AFTER, Simulation

COUNT = 400
KEYS = 100


def make(count, seed=5):
    simulation = Simulation(seed)
    simulation.grow(count)
    return simulation


@pytest.fixture(scope="module")
def hive():
    """The tests of this module follow one another in the life of one hive."""
    simulation = make(COUNT)
    for number in range(KEYS):
        simulation.publish(simulation.anybody(), f"key {number}", 24 * 3600.0)
    simulation.run()
    return simulation


def read_all(simulation):
    walks = []
    for number in range(KEYS):
        simulation.find_records(simulation.anybody(), f"key {number}", walks.append)
    simulation.run()
    assert len(walks) == KEYS
    return walks


def test_the_truly_closest_peers_are_found(hive):
    walks = []
    for number in range(30):
        hive.find_peers(hive.anybody(), ids.of_key(f"target {number}"), walks.append)
    hive.run()
    right = 0
    for walk in walks:
        nearest = hive.truly_closest(walk.lookup.target, BUCKET_SIZE + 1)
        expected = [name for name in nearest if name != walk.asker.info.peer_id][:BUCKET_SIZE]
        right += len(set(expected) & {info.peer_id for info in walk.lookup.closest()})
    assert right >= 0.99 * 30 * BUCKET_SIZE


def test_the_median_lookup_takes_few_rounds_and_requests(hive):
    walks = read_all(hive)
    assert all(walk.merged for walk in walks)
    assert median(walk.rounds for walk in walks) <= math.ceil(math.log2(COUNT) / 4) + 1
    assert mean(walk.messages for walk in walks) < 15


def test_requests_grow_with_the_logarithm_of_the_hive(hive):
    def cost(simulation):
        for number in range(KEYS):
            simulation.publish(simulation.anybody(), f"key {number}", 3600.0)
        simulation.run()
        return mean(walk.messages for walk in read_all(simulation))

    small, middle, large = (cost(make(count)) for count in (50, 100, 200))
    assert large < 2 * small
    assert large - middle < 2 * (middle - small) + 1


def test_many_peers_agree_on_about_how_many_they_are(hive):
    peer = hive.anybody()
    for number in range(SAMPLES):
        hive.find_peers(peer, ids.of_key(f"anything {number}"))
    hive.run()
    assert COUNT / 2 < peer.node.population.peers < COUNT * 2


def test_a_third_dies_at_once_and_every_record_is_found(hive):
    hive.kill_share(0.3)
    walks = read_all(hive)
    assert all(walk.merged for walk in walks)
    slowest = sorted(walk.seconds for walk in walks)[int(0.99 * KEYS)]
    assert slowest <= 3 * SLOW_AFTER


def test_newcomers_are_handed_what_they_are_close_to():
    hive = make(60)
    hive.publish(hive.anybody(), "key", 3600.0)
    hive.run()
    before = set(hive.truly_closest(ids.of_key("key"), BUCKET_SIZE))
    hive.grow(120, at_once=2)
    newcomers = set(hive.truly_closest(ids.of_key("key"), BUCKET_SIZE)) - before
    given = [name for name in newcomers if hive.peers[name].get("key", hive.now)]
    assert len(newcomers) >= 5
    assert len(given) >= 0.9 * len(newcomers)


@pytest.mark.parametrize("session", [3600.0, 600.0])
def test_records_are_found_while_peers_come_and_go(session):
    churn = Churn(Simulation(seed=3), peers=40, session=session)
    churn.live(150)
    assert churn.left > 3
    found = sum(bool(walk.merged) for walk in churn.lookups)
    assert len(churn.lookups) > 250
    assert found >= 0.995 * len(churn.lookups)


def test_the_same_seed_lives_the_same_life():
    one, other = make(80), make(80)
    assert (one.messages, one.now, sorted(one.living)) == (other.messages, other.now, sorted(other.living))
