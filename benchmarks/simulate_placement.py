"""How good are the layers' places that peers choose for themselves, each alone, and what does churn do to them?

Simulated: the decision that real peers take, everybody at once, round after round; peers of mixed speed (a small board
to a GPU, 5 to 400 GB/s of weights) and memory (2 to 12 layers). For 5 peers every placement is tried; for more, the
rate is held against what no placement can exceed (`throughput.upper_bound`), which few peers cannot always reach.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from itertools import product

from _harness import Figures, Options, run

from hivemind_p2p.sharding import placement
from hivemind_p2p.sharding.layer_spans import candidates
from hivemind_p2p.sharding.throughput import tokens_per_second, uncovered
from hivemind_p2p.testing.simulated_placement import PlacedHive, model, peers

HIVES = ((10, 24), (20, 32), (50, 32), (100, 48), (500, 80))
"""How many peers serve a model of how many layers."""

AT_LEAST = 0.9


def measure(options: Options) -> Figures:
    """Places hives of 5 to 500 peers, and then lets a tenth of each go and come again and again."""
    figures = Figures()
    _against_every_placement(figures, options.pick(full=20, quick=4))
    for count, layers in HIVES[: options.pick(full=5, quick=3)]:
        _against_the_bound(figures, count, layers, options.pick(full=5, quick=2))
    return figures


def _named(count: int, first: str) -> list[str]:
    return [f"{first}{number:03d}" for number in range(count)]


def _against_every_placement(figures: Figures, seeds: int) -> None:
    shares = []
    for seed in range(seeds):
        hive = PlacedHive(model(8), peers(random.Random(seed), _named(5, "p"), memories=(1, 2, 3, 4)))
        best = _best(hive)
        hive.settle()
        if best:
            shares.append(hive.rate / best)
    figures.claim(
        f"5 peers, the worst of {len(shares)}: of the best placement", min(shares), "times", at_least=AT_LEAST
    )


def _best(hive: PlacedHive) -> float:
    servers = list(hive.servers.values())
    best = 0.0
    for spans in product(*(candidates(hive.sizes, server.memory, hive.sizes.layers) for server in servers)):
        placed = [replace(server, spans=(span,)) for server, span in zip(servers, spans, strict=True)]
        if not uncovered(placed, hive.sizes):
            best = max(best, tokens_per_second(placed, hive.sizes))
    return best


def _against_the_bound(figures: Figures, count: int, layers: int, seeds: int) -> None:
    fresh, later, seconds, moved, interrupted = [], [], 0.0, 0, 0
    for seed in range(seeds):
        chance = random.Random(seed)
        hive = PlacedHive(model(layers), peers(chance, _named(count, "p")))
        begun = time.perf_counter()
        placement.plan(list(hive.servers.values()), hive.sizes, most_layers=layers)
        seconds = max(seconds, time.perf_counter() - begun)
        hive.settle()
        fresh.append(hive.rate / hive.bound)
        moves = hive.moves
        for number in range(5):
            gone = chance.sample(sorted(hive.servers), count // 10)
            hive.go(gone)
            hive.settle()
            hive.come(peers(chance, _named(len(gone), f"n{number}-")))
            hive.settle()
            later.append(hive.rate / hive.bound)
        moved += hive.moves - moves
        interrupted += hive.interruptions + hive.gaps
    what = f"{count} peers, {layers} layers"
    figures.claim(f"{what}: of what no placement can exceed", _mean(fresh), "times", at_least=AT_LEAST)
    figures.claim(f"{what}: the same while a tenth goes and comes, five times", _mean(later), "times")
    figures.row(f"{what}: spans loaded for each peer that came", moved / (5 * seeds * (count // 10)), "spans")
    figures.claim(f"{what}: layers that lost their host by a move", interrupted, "layers", at_most=0)
    figures.row(f"{what}: one decision", seconds, "s")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    run(__doc__, measure)
