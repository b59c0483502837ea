"""Does the directory hold at ten thousand peers? Its own decisions, simulated, on one core and a clock that jumps.

Each size of hive grows peer by peer, publishes records, and looks them up from everywhere. A *round* is one step in
the longest chain of requests in which each was sent because of the one before: what a lookup takes in round trips, one
after another. The largest hive then loses 30 % of its peers at once, and its records are looked up before anybody has
noticed. Smaller hives live through churn, with records republished by their owners. A time-out is the second after
which a lookup asks somebody else meanwhile; the dead refuse nothing, so every request to one runs into it.

Records are not signed here, because signing for thousands of peers would take longer than all else together.
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from _harness import ROOT, Figures, Options, median, quantile, run

from hivemind_p2p.testing.churn import Churn
from hivemind_p2p.testing.simulated_dht import SLOW_AFTER, Simulation, Walk

SIZES = (100, 316, 1000, 3162, 10000)
QUICK_SIZES = (100, 316, 1000)
DYING = 0.3
CHURNING = 1000
PLOT = ROOT / "benchmarks" / "simulate_dht.svg"

ROUNDS = math.ceil(math.log2(10_000) / 4) + 1
"""The target for the median lookup among 10,000 peers."""


def measure(options: Options) -> Figures:
    """All sizes, the deaths, and churn."""
    figures = Figures()
    # Everything that is made here stays until the end: looking for garbage would take a third of the time.
    gc.disable()
    sizes = QUICK_SIZES if options.quick else SIZES
    costs = [_measure_size(size, options, figures, last=size == sizes[-1]) for size in sizes]
    _plot(sizes, costs)
    if not options.quick:
        _draw(PLOT, sizes, costs)
    first, *_, last = costs
    middle = costs[len(costs) // 2]
    figures.claim(
        f"requests that the growth {sizes[len(sizes) // 2]} to {sizes[-1]} adds : {sizes[0]} to "
        f"{sizes[len(sizes) // 2]} (1 is logarithmic)",
        (last - middle) / (middle - first) * _doublings(sizes),
        "times",
        at_most=1.5,
    )
    for hours, words in ((1.0, "1 h"), (1 / 6, "10 min")):
        _measure_churn(hours * 3600, words, options, figures)
    return figures


def _doublings(sizes: Sequence[int]) -> float:
    """Doublings in the first half of the growth for one in the second."""
    middle = sizes[len(sizes) // 2]
    return math.log(middle / sizes[0]) / math.log(sizes[-1] / middle)


def _measure_size(size: int, options: Options, figures: Figures, *, last: bool) -> float:
    """One hive; returns the mean number of requests of a lookup of records."""
    simulation = Simulation(seed=size)
    simulation.grow(size)
    figures.row(f"{size} peers: requests a join", simulation.messages / size)
    keys = [f"key {number}" for number in range(options.pick(2000 if last else 500, 300))]
    stores = _publish(simulation, keys)
    gets = _look_up(simulation, keys)
    requests = statistics.mean(walk.messages for walk in gets)
    figures.row(f"{size} peers: requests a lookup of records, mean", requests)
    figures.row(f"{size} peers: rounds a lookup of records, median", median([walk.rounds for walk in gets]))
    figures.row(f"{size} peers: rounds a lookup of 20 peers, median", median([walk.rounds for walk in stores]))
    figures.row(f"{size} peers: found", _found(gets), "%")
    figures.row(f"{size} peers: peers known, median", median([len(it.node.table) for it in simulation.peers.values()]))
    if last:
        _claim_largest(size, gets, stores, figures)
        _measure_deaths(simulation, keys, size, figures)
    return requests


def _claim_largest(size: int, gets: list[Walk], stores: list[Walk], figures: Figures) -> None:
    figures.claim(f"{size} peers: lookups that succeed", _found(gets), "%", at_least=99.9)
    for what, walks in (("records", gets), ("20 peers", stores)):
        rounds = [walk.rounds for walk in walks]
        figures.claim(f"{size} peers: rounds, lookup of {what}, median", median(rounds), "rounds", at_most=ROUNDS)
        figures.row(f"{size} peers: rounds, lookup of {what}, p99", quantile(rounds, 0.99))
        figures.row(f"{size} peers: time, lookup of {what}, p99", quantile([w.seconds for w in walks], 0.99), "s")


def _measure_deaths(simulation: Simulation, keys: list[str], size: int, figures: Figures) -> None:
    simulation.kill_share(DYING)
    gets = _look_up(simulation, keys)
    seconds = [walk.seconds for walk in gets]
    name = f"{size} peers, {DYING:.0%} died at once"
    figures.claim(f"{name}: records found", _found(gets), "%", at_least=99.9)
    figures.claim(f"{name}: lookup, p99", quantile(seconds, 0.99) / SLOW_AFTER, "time-outs", at_most=3)
    figures.row(f"{name}: lookup, median", median(seconds), "s")
    figures.row(f"{name}: requests a lookup, mean", statistics.mean(walk.messages for walk in gets))


def _measure_churn(session: float, words: str, options: Options, figures: Figures) -> None:
    peers = options.pick(CHURNING, 100)
    churn = Churn(Simulation(seed=7), peers=peers, session=session)
    churn.live(options.pick(1800, 300))
    name = f"{peers} peers, median session {words}"
    figures.row(f"{name}: sessions that ended", churn.left)
    figures.row(f"{name}: lookups", len(churn.lookups))
    figures.row(f"{name}: requests of a peer a minute, upkeep and all", churn.requests_a_minute)
    figures.row(f"{name}: lookup, median", median([walk.seconds for walk in churn.lookups]), "s")
    figures.row(f"{name}: lookup, p99", quantile([walk.seconds for walk in churn.lookups], 0.99), "s")
    figures.claim(f"{name}: lookups that succeed", _found(churn.lookups), "%", at_least=99.9)


def _publish(simulation: Simulation, keys: list[str]) -> list[Walk]:
    walks: list[Walk] = []
    for key in keys:
        simulation.publish(simulation.anybody(), key, 24 * 3600.0, walks.append)
        simulation.run()
    return walks


def _look_up(simulation: Simulation, keys: list[str]) -> list[Walk]:
    """All at the same time, so that no lookup learns from the failures of another."""
    walks: list[Walk] = []
    for key in keys:
        simulation.find_records(simulation.anybody(), key, walks.append)
    simulation.run()
    return walks


def _found(walks: Sequence[Walk]) -> float:
    return 100 * sum(bool(walk.merged) for walk in walks) / len(walks)


def _plot(sizes: Sequence[int], costs: Sequence[float]) -> None:
    """Bars as text: in a logarithmic hive each is longer than the one before by the same piece."""
    print("requests a lookup of records, mean")
    for size, cost in zip(sizes, costs, strict=True):
        print(f"{size:>6} peers  {'█' * round(cost * 3)} {cost:.1f}")


def _draw(path: Path, sizes: Sequence[int], costs: Sequence[float]) -> None:
    """A drawing with a logarithmic axis of peers, on which a logarithm is a straight line."""
    width, height, left, bottom = 560, 320, 50, 40
    low, high = math.log10(sizes[0]), math.log10(sizes[-1])
    top = math.ceil(max(costs) / 5) * 5

    def place(size: int, cost: float) -> tuple[float, float]:
        x = left + (math.log10(size) - low) / (high - low) * (width - left - 30)
        return round(x, 1), round(height - bottom - cost / top * (height - bottom - 30), 1)

    points = [place(size, cost) for size, cost in zip(sizes, costs, strict=True)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="18">Requests a lookup of records (mean), by number of peers</text>',
    ]
    for cost in range(0, top + 1, 5):
        _, y = place(sizes[0], cost)
        parts.append(f'<path d="M{left} {y}H{width - 30}" stroke="#ddd"/><text x="20" y="{y + 4}">{cost}</text>')
    line = " ".join(f"{x},{y}" for x, y in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#2a6fb0" stroke-width="2"/>')
    for (x, y), size, cost in zip(points, sizes, costs, strict=True):
        parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="#2a6fb0"/>')
        parts.append(f'<text x="{x}" y="{y - 9}" text-anchor="middle">{cost:.1f}</text>')
        parts.append(f'<text x="{x}" y="{height - 20}" text-anchor="middle">{size:,}</text>')
    path.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


if __name__ == "__main__":
    run(__doc__, measure)
