"""Swarms of simulated peers: everybody honest ends complete, every liar is banned, and many take little longer."""

from __future__ import annotations

import random
from functools import partial

import pytest

from hivemind_p2p.testing.simulated_swarm import Population, Simulated

PIECES = 64
PIECE = 1 << 18


def population(seed: int) -> Population:
    return Population(PIECES, piece_length=PIECE, latency=0.025, chance=random.Random(seed))


def feed(count: int) -> tuple[float, float]:
    """Seconds until all have everything, and how many copies the seed sent."""
    hive = population(seed=1)
    seed = hive.add(complete=True)
    peers = [hive.add() for _ in range(count)]
    for peer in [seed, *peers]:
        hive.join(peer)
    assert hive.run(600, lambda: all(peer.finished_at is not None for peer in peers))
    return hive.now, seed.sent / (PIECES * PIECE)


def test_feeding_many_takes_little_longer_than_feeding_one():
    times = {count: feed(count)[0] for count in (1, 4, 16, 32)}
    assert times[32] < 4 * times[1]
    assert times[32] < 1.5 * times[16], "twice the peers, far from twice the time"


def test_a_seed_that_is_alone_sends_little_more_than_one_copy_to_four():
    assert feed(4)[1] <= 1.5


def live(hive: Population, chance: random.Random, groups: dict[str, list[Simulated]]) -> None:
    """They come within half a minute; a third of the good ones goes and comes back; the network is cut for a while."""
    for peer in groups["seeds"] + groups["liars"]:
        hive.join(peer)
    honest = groups["free riders"] + groups["slow"] + groups["good"]
    for peer in honest:
        hive.at(chance.uniform(0, 30), partial(hive.join, peer))
    for peer in chance.sample(groups["good"], len(groups["good"]) // 3):
        gone = chance.uniform(31, 50)
        hive.at(gone, partial(hive.leave, peer))
        hive.at(gone + chance.uniform(5, 20), partial(hive.join, peer))
    everybody = list(hive.peers.values())
    chance.shuffle(everybody)
    half = len(everybody) // 2
    hive.at(35, partial(hive.part, [everybody[:half], everybody[half:]]))
    hive.at(60, hive.heal)


@pytest.mark.parametrize("seed", [1, 2])
def test_with_liars_free_riders_churn_and_a_partition_everybody_honest_ends_complete(seed):
    chance = random.Random(seed)
    hive = population(seed)
    groups = {
        "seeds": [hive.add(complete=True) for _ in range(3)],
        "liars": [hive.add(lies=True) for _ in range(18)],
        "free riders": [hive.add(gives=False) for _ in range(6)],
        "slow": [hive.add(up=1e5, down=5e5) for _ in range(6)],
        "good": [hive.add() for _ in range(27)],
    }
    live(hive, chance, groups)
    honest = groups["free riders"] + groups["slow"] + groups["good"]
    assert hive.run(300, lambda: all(peer.finished_at is not None for peer in honest))
    assert all(peer.held.complete for peer in honest)
    banned = {other for peer in honest for other in peer.member.banned}
    assert banned == {liar.peer_id for liar in groups["liars"]}
