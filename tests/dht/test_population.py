import random

import pytest

from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.dht.population import FEWEST_SAMPLES, SAMPLES, SPACE, Population


def closest(source, target, peers, count=20):
    return tuple(sorted(target ^ source.randrange(SPACE) for _ in range(peers))[:count])


@pytest.mark.parametrize("peers", [60, 500, 3000])
def test_the_number_of_peers_is_told_from_how_close_they_lie(peers):
    source = random.Random(peers)
    population = Population()
    for _ in range(SAMPLES):
        target = NodeId(source.randrange(SPACE))
        population.observe(target, closest(source, target, peers))
    assert peers * 0.7 < population.peers < peers * 1.4
    assert population.reach(20) == pytest.approx(SPACE * 20 / peers, rel=0.5)


def test_nothing_is_said_after_few_lookups_or_with_few_peers():
    population = Population()
    assert population.peers is None
    assert population.reach(20) == 0
    for target in range(FEWEST_SAMPLES - 1):
        population.observe(NodeId(target), tuple(range(1, 21)))
    population.observe(NodeId(99), (1, 2))
    population.observe(NodeId(99), ())
    assert population.peers is None


def test_one_crowded_key_looked_up_again_and_again_does_not_count():
    source = random.Random(1)
    population = Population()
    for _ in range(5):
        target = NodeId(source.randrange(SPACE))
        population.observe(target, closest(source, target, 1000))
    before = population.peers
    for _ in range(100):
        population.observe(NodeId(7), tuple(range(1, 21)))
    assert population.peers < before * 2
