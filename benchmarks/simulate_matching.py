"""How near to the ideal does a hive of mixed peers end 50 tasks for each? The caller's own decisions, simulated.

Peers have 1 to 8 cores, speeds that differ by ten times and more, and round trips of 5 to 200 ms; one in ten loses
tasks, gets stuck or vanishes. Tasks take about a second on a usual peer. Ideal is the work of all tasks divided by the
speed of all peers together, as if it could be cut at will and nothing ever failed: nobody reaches it. Compared are the
peer by lot, the least loaded one, and a learner (Q-learning, which has practised on three other hives), with the same
limits, retries and pauses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from _harness import ROOT, Figures, Options, median, run

from hivemind_p2p.tasks.matching import Matching
from hivemind_p2p.testing.simple_schedulers import LeastLoaded, QLearning, RandomChoice
from hivemind_p2p.testing.simulated_matching import Finished, MatchingSimulation, Scheduler, mixed_peers

TASKS = 50
"""For each peer."""

PLOT = ROOT / "benchmarks" / "simulate_matching.svg"
PRACTICE = 3
COLOURS = ("#2b6cb0", "#c05621", "#718096", "#805ad5", "#2f855a")


class Unhelped(Matching):
    """Ours, without asking back and without copies."""

    def _help(self, now: float) -> list[object]:  # type: ignore[override]  # noqa: ARG002
        return []


def measure(options: Options) -> Figures:
    """Every scheduler on every size of hive."""
    figures = Figures()
    sizes = options.pick(full=(10, 100, 1000), quick=(10, 50))
    names: dict[str, Callable[[], Scheduler]] = {
        "ours": Matching,
        "ours, no help at the end": Unhelped,
        "least loaded": lambda: LeastLoaded(random.Random(1)),
        "Q-learning": _practised(options.pick(full=100, quick=20)),
        "by lot": lambda: RandomChoice(random.Random(1)),
    }
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for size in sizes:
        seeds = range(5 if size <= 100 else 2)
        for name, make in names.items():
            runs = [simulate(make(), size, seed) for seed in seeds]
            ratio = median([each.ratio for each in runs])
            ratios[name].append(ratio)
            words = f"{size} peers, {name}: finish time : ideal"
            if name == "ours" and size == max(sizes):
                figures.claim(words, ratio, "times", at_most=1.2)
            else:
                figures.row(words, ratio, "times")
    last = {name: values[-1] for name, values in ratios.items()}
    best = min(value for name, value in last.items() if not name.startswith("ours"))
    figures.claim("the best of the others : ours", best / last["ours"], "times", at_least=1.0)
    if not options.quick:
        _plot(sizes, ratios)
    return figures


def simulate(scheduler: Scheduler, size: int, seed: int) -> Finished:
    """One hive, to the end."""
    chance = random.Random(seed)
    peers = mixed_peers(size, chance)
    work = [chance.lognormvariate(-0.045, 0.3) for _ in range(size * TASKS)]
    return MatchingSimulation(scheduler, peers, work, chance).run()


def _practised(size: int) -> Callable[[], Scheduler]:
    """Learners that have seen other hives before: what they learned there they bring along."""
    learner = QLearning(random.Random(1))
    for seed in range(100, 100 + PRACTICE):
        fresh = QLearning(random.Random(seed))
        fresh.values = learner.values
        simulate(fresh, size, seed)

    def make() -> QLearning:
        fresh = QLearning(random.Random(1))
        fresh.values = learner.values.copy()
        return fresh

    return make


def _plot(sizes: Sequence[int], ratios: dict[str, list[float]]) -> None:
    """Bars side by side for each size of hive; the line is what we want to stay below."""
    width, height, left, bottom, top = 640, 360, 50, 50, 70
    most = max(max(values) for values in ratios.values())
    up = (height - bottom - top) / most
    group = (width - left - 20) / len(sizes)
    bar = group / (len(ratios) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{width / 2}" y="20" text-anchor="middle">Finish time of 50 tasks a peer, in times the ideal</text>',
    ]
    for number, (name, values) in enumerate(ratios.items()):
        x = left + number * 118
        parts.append(f'<rect x="{x}" y="34" width="10" height="10" fill="{COLOURS[number]}"/>')
        parts.append(f'<text x="{x + 14}" y="43" font-size="10">{name}</text>')
        for place, value in enumerate(values):
            at, tall = left + place * group + number * bar, value * up
            y = height - bottom - tall
            parts.append(
                f'<rect x="{at:.1f}" y="{y:.1f}" width="{bar - 4:.1f}" height="{tall:.1f}" fill="{COLOURS[number]}"/>'
            )
            label = f'<text x="{at + bar / 2 - 2:.1f}" y="{y - 4:.1f}" text-anchor="middle" font-size="10">'
            parts.append(f"{label}{value:.2f}</text>")
    for place, size in enumerate(sizes):
        at = left + place * group + len(ratios) * bar / 2
        parts.append(f'<text x="{at:.1f}" y="{height - bottom + 18}" text-anchor="middle">{size:,} peers</text>')
    for value, style in ((1.0, "#a0aec0"), (1.2, "#e53e3e")):
        y = height - bottom - value * up
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="{style}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" fill="{style}">{value}</text>')
    PLOT.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


if __name__ == "__main__":
    run(__doc__, measure)
