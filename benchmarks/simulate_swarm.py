"""How long does it take to feed a growing swarm, and does a rough one of two hundred end complete?

Simulated: the members that real peers run, on a calendar of events, each peer with an uplink of 2 MB/s and a downlink
of 8 MB/s, 25 ms apart. One peer has the content (16 MiB in 64 pieces), all others come at once. What is plotted is the
time until the last one has everything. The rough swarm: 30 % of the peers lie, 10 % give nothing, 10 % are slow, a
third of the rest goes and comes back, and the network is cut in two for half a minute.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import partial

from _harness import ROOT, Figures, Options, run

from hivemind_p2p.testing.simulated_swarm import Population

PLOT = ROOT / "benchmarks" / "simulate_swarm.svg"
PIECES = 64
PIECE = 1 << 18


def measure(options: Options) -> Figures:
    """Feeds 1 to 64 peers, and then the rough swarm."""
    figures = Figures()
    sizes = [2**power for power in range(options.pick(full=7, quick=5))]
    times = []
    for size in sizes:
        seconds, copies = _feed(size)
        times.append(seconds)
        figures.row(f"feed {size} peers", seconds, "s")
        figures.row(f"copies that the seed sends to {size}", copies, "copies")
    doublings = math.log2(sizes[-1])
    figures.claim(f"seconds for {sizes[-1]} peers : for 1", times[-1] / times[0], "times", at_most=1 + doublings)
    _rough(figures, options.pick(full=200, quick=60))
    if not options.quick:
        _plot(sizes, times)
    return figures


def _population(seed: int) -> tuple[Population, random.Random]:
    chance = random.Random(seed)
    return Population(PIECES, piece_length=PIECE, latency=0.025, chance=chance), chance


def _feed(size: int) -> tuple[float, float]:
    hive, _ = _population(1)
    seed = hive.add(complete=True)
    peers = [hive.add() for _ in range(size)]
    for peer in [seed, *peers]:
        hive.join(peer)
    assert hive.run(3600, lambda: all(peer.finished_at is not None for peer in peers))
    return hive.now, seed.sent / (PIECES * PIECE)


def _rough(figures: Figures, size: int) -> None:
    hive, chance = _population(2)
    seeds = [hive.add(complete=True) for _ in range(3)]
    liars = [hive.add(lies=True) for _ in range(size * 3 // 10)]
    riders = [hive.add(gives=False) for _ in range(size // 10)]
    slow = [hive.add(up=1e5, down=5e5) for _ in range(size // 10)]
    good = [hive.add() for _ in range(size - len(seeds) - len(liars) - len(riders) - len(slow))]
    honest = riders + slow + good
    for peer in seeds + liars:
        hive.join(peer)
    for peer in honest:
        hive.at(chance.uniform(0, 30), partial(hive.join, peer))
    for peer in chance.sample(good, len(good) // 3):
        gone = chance.uniform(31, 60)
        hive.at(gone, partial(hive.leave, peer))
        hive.at(gone + chance.uniform(5, 30), partial(hive.join, peer))
    everybody = list(hive.peers.values())
    chance.shuffle(everybody)
    hive.at(40, partial(hive.part, [everybody[: size // 2], everybody[size // 2 :]]))
    hive.at(70, hive.heal)
    hive.run(3600, lambda: all(peer.finished_at is not None for peer in honest))
    banned = {other for peer in honest for other in peer.member.banned}
    figures.row(f"rough swarm of {size}: until all honest peers are complete", hive.now, "s")
    figures.claim(
        "honest peers that end complete", sum(peer.held.complete for peer in honest) / len(honest), "of 1", at_least=1
    )
    figures.claim("liars banned", len(banned & {liar.peer_id for liar in liars}) / len(liars), "of 1", at_least=1)
    figures.claim("honest peers banned", sum(peer.banned_honest for peer in hive.peers.values()), "", at_most=0)


def _plot(sizes: Sequence[int], times: Sequence[float]) -> None:
    """Seconds over the number of peers, doubling from step to step: a straight line is the logarithm."""
    width, height, left, bottom = 560, 320, 60, 50
    across = (width - left - 30) / (len(sizes) - 1)
    up = (height - bottom - 40) / max(times)
    points = [(left + number * across, height - bottom - seconds * up) for number, seconds in enumerate(times)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{width / 2}" y="20" text-anchor="middle">Seconds until everybody has 16 MiB from one seed</text>',
        '<polyline fill="none" stroke="#2b6cb0" stroke-width="2" points="'
        + " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        + '"/>',
    ]
    for size, seconds, (x, y) in zip(sizes, times, points, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#2b6cb0"/>')
        parts.append(f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle">{seconds:.1f}</text>')
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{size}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 10}" text-anchor="middle">peers</text>')
    PLOT.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


if __name__ == "__main__":
    run(__doc__, measure)
