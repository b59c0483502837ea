"""The caller's decisions among many simulated peers: near the ideal, better than others, and no task lost."""

import random

import pytest

from hivemind_p2p.tasks.matching import Matching
from hivemind_p2p.testing.simple_schedulers import LeastLoaded, QLearning, RandomChoice
from hivemind_p2p.testing.simulated_matching import MatchingSimulation, SimulatedPeer, ideal_seconds, mixed_peers
from hivemind_p2p.types import PeerId


def simulate(scheduler, peers, tasks, seed, spread=0.3):
    chance = random.Random(seed)
    work = [chance.lognormvariate(-spread * spread / 2, spread) for _ in range(tasks)]
    return MatchingSimulation(scheduler, peers, work, chance).run()


def mixed(scheduler, size, tasks, seed):
    return simulate(scheduler, mixed_peers(size, random.Random(seed)), tasks * size, seed)


@pytest.mark.timeout(300)
def test_a_thousand_mixed_peers_end_within_a_fifth_of_the_ideal():
    assert mixed(Matching(), 1000, 50, 0).ratio <= 1.2


@pytest.mark.parametrize("seed", range(3))
def test_it_is_better_than_chance_than_the_least_loaded_and_than_one_that_learns(seed):
    ours = mixed(Matching(), 100, 50, seed).ratio
    for other in (RandomChoice, LeastLoaded, QLearning):
        assert mixed(other(random.Random(seed)), 100, 50, seed).ratio > ours


def peers_like(*slownesses, **more):
    return [
        SimulatedPeer(PeerId(f"p{number}"), cores=1, slowness=slowness, round_trip=0.01, **more)
        for number, slowness in enumerate(slownesses)
    ]


def test_the_ideal_is_all_the_work_by_all_that_are_there():
    assert ideal_seconds(peers_like(1.0, 2.0), [3.0] * 5) == pytest.approx(10.0)
    (gone,) = peers_like(1.0, vanishes_at=4.0)
    assert ideal_seconds([gone, *peers_like(1.0)], [10.0]) == pytest.approx(6.0)


def test_equal_and_faithful_peers_are_used_to_the_full():
    assert simulate(Matching(), peers_like(*[1.0] * 20), 400, 1, spread=0.05).ratio < 1.1


def test_a_few_tasks_do_not_wait_for_the_slow():
    """As many tasks as peers, one of which is a hundred times slower."""
    finished = simulate(Matching(), peers_like(*[1.0] * 9, 100.0), 10, 1, spread=0.01)
    assert finished.seconds < 5.0


def test_those_who_lose_everything_are_soon_left_alone():
    peers = [*peers_like(*[1.0] * 10), *(SimulatedPeer(PeerId(f"bad{n}"), 4, 0.2, 0.01, loses=1.0) for n in range(5))]
    finished = simulate(Matching(), peers, 300, 1)
    assert finished.lost < 60
    assert finished.seconds < 45.0


def test_peers_that_vanish_take_nothing_with_them():
    peers = [
        *peers_like(*[1.0] * 10),
        *(SimulatedPeer(PeerId(f"x{n}"), 2, 0.5, 0.01, vanishes_at=3.0) for n in range(5)),
    ]
    assert simulate(Matching(), peers, 200, 2).ratio < 1.5
