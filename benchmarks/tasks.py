"""What does a task cost besides its work? A function that does nothing, here and under other engines, in one run.

    python benchmarks/tasks.py --ray ~/ray/bin/python --dask ~/dask/bin/python --parsl ... --joblib ...

The hive's peers run it in their sandboxed children, meter it, bill it and are paid. The standard library's
`ProcessPoolExecutor` is always measured beside it; each of the others if it is given the interpreter of a virtual
environment that has it. All have two workers, and every result is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _engines
from _engines import WORKERS, echo, measure
from _harness import Figures, Options, add_options, environment, median, print_figures, quantile, write_json

OTHERS = {"ray-tasks": "ray", "ray-actors": "ray", "dask": "dask", "parsl": "parsl", "joblib": "joblib"}
"""Engines, and the option that names an interpreter for them."""

DEADLINE = 600
SHARED_BYTES = 1_000_000_000


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_options(parser)
    for engine in sorted(set(OTHERS.values())):
        parser.add_argument(f"--{engine}", metavar="PYTHON", help=f"an interpreter that has {engine}")
    parser.add_argument("--without-shared", action="store_true", help="Leave the large input out.")
    arguments = parser.parse_args()
    figures = run(Options(quick=arguments.quick), vars(arguments))
    print_figures(figures.rows, figures.claims)
    if arguments.json is not None:
        write_json(arguments.json, figures.rows, figures.claims)


def run(options: Options, pythons: dict[str, Any]) -> Figures:
    """Measures everything that can be measured."""
    tasks = options.pick(full=10_000, quick=2_000)
    round_trips = options.pick(full=1_000, quick=200)
    items = options.pick(full=100_000, quick=20_000)
    found: dict[str, dict[str, Any]] = {
        "process-pool": other("process-pool", sys.executable, tasks, round_trips, items)
    }
    for engine, option in OTHERS.items():
        if python := pythons.get(option):
            found[engine] = other(engine, python, tasks, round_trips, items)
    figures = Figures()
    found["hive"] = hive_figures(tasks, round_trips, items, figures)
    for engine, measured in found.items():
        show(figures, engine, measured, tasks, items)
    compare(figures, found, tasks)
    figures.claim("cold child, from its start to the task's first line", 1e3 * cold_child(), "ms", at_most=150)
    if not pythons.get("without_shared"):
        shared_input(options, figures)
    return figures


def other(engine: str, python: str, tasks: int, round_trips: int, items: int) -> dict[str, Any]:
    """Another engine, in a process of its own."""
    path = os.pathsep.join((str(Path(python).absolute().parent), os.environ.get("PATH", "")))
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PATH": path}
    command = [python, _engines.__file__, engine, str(tasks), str(round_trips), str(items)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, cwd=folder, env=own, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
    if done.returncode:
        raise SystemExit(f"{engine} failed: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def hive_figures(tasks: int, round_trips: int, items: int, figures: Figures) -> dict[str, Any]:
    """The same with a local hive."""
    import hivemind_p2p as hm

    with hm.local_hive(peers=WORKERS, serve_models=False) as hive:
        before = cpu_seconds()
        found = measure(
            lambda number: hive.submit(echo, number),
            lambda job: job.result(DEADLINE),
            lambda jobs: [job.result(DEADLINE) for job in jobs],
            tasks,
            round_trips,
        )
        count = 3 * tasks + round_trips
        figures.row("hive: processor time a task, all processes", 1e6 * (cpu_seconds() - before) / count, "us")
        found["map"] = best_map(hive, items)
        paid = hive.promised
    figures.row("hive: paid for all of it", float(paid), "credits")
    return found


def best_map(hive: Any, items: int) -> float:
    """Seconds of a map over tiny items, best of three."""
    best = float("inf")
    for _ in range(_engines.REPEATS):
        started = time.perf_counter()
        results = list(hive.map(echo, range(items)).results(DEADLINE))
        best = min(best, time.perf_counter() - started)
        if results != list(range(items)):
            raise SystemExit("wrong results")
    return best


def cpu_seconds() -> float:
    """Processor time of this process and of all below it."""
    import psutil

    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def show(figures: Figures, engine: str, found: dict[str, Any], tasks: int, items: int) -> None:
    """The rows of one engine."""
    if "all_at_once" in found:
        figures.row(f"{engine}: {tasks} tasks at once", tasks / found["all_at_once"], "tasks/s")
        figures.row(f"{engine}: round trip, p50", 1e3 * median(found["round_trips"]), "ms")
        figures.row(f"{engine}: round trip, p99", 1e3 * quantile(found["round_trips"], 0.99), "ms")
    if "map" in found:
        figures.row(f"{engine}: map over {items} items", items / found["map"], "items/s")


def compare(figures: Figures, found: dict[str, dict[str, Any]], tasks: int) -> None:
    """The hive beside the others."""
    hive = found["hive"]
    rate = tasks / hive["all_at_once"]

    def ratio(engine: str) -> float:
        return rate / (tasks / found[engine]["all_at_once"])

    if "ray-tasks" in found:
        figures.claim("tasks/s, hive : Ray tasks", ratio("ray-tasks"), "times", at_least=2)
        figures.claim("tasks/s, hive : Ray actors", ratio("ray-actors"), "times", at_least=1)
    for engine in ("dask", "parsl", "process-pool"):
        if engine in found:
            figures.claim(f"tasks/s, hive : {engine}", ratio(engine), "times")
    figures.claim("round trip, p50", 1e3 * median(hive["round_trips"]), "ms", at_most=1.0)
    figures.claim("round trip, p99", 1e3 * quantile(hive["round_trips"], 0.99), "ms", at_most=3.0)
    if "joblib" in found:
        of_joblib = found["joblib"]["map"] / hive["map"]
        figures.claim("map, items/s, hive : joblib", of_joblib, "times", at_least=1 / 3)


def cold_child() -> float:
    """Seconds from the decision to start a child to the first line of a task in it; the median of some."""
    import trio

    from hivemind_p2p.tasks.library.function import NAME, pack
    from hivemind_p2p.tasks.reading import decode
    from hivemind_p2p.types import Needs, PeerId, Work
    from hivemind_p2p.worker.executor import ChildExecutor

    async def once() -> float:
        with tempfile.TemporaryDirectory() as folder:
            work = Work("cold", PeerId("caller"), NAME, pack(time.monotonic), Needs())
            started = time.monotonic()
            async with ChildExecutor(Path(folder) / "peer" / "work", slots=1, memory_bytes=1 << 30) as executor:
                outcome = await executor.run(work)
            return float(decode(outcome.payload)) - started

    return median([trio.run(once) for _ in range(9)])


def shared_input(options: Options, figures: Figures) -> None:
    """A large value that eight tasks on four peers use: how often does each peer fetch it?"""
    import hivemind_p2p as hm

    size = options.pick(full=SHARED_BYTES, quick=SHARED_BYTES // 50)
    needs = hm.Needs(memory=size + (1 << 29))
    with hm.local_hive(peers=4, serve_models=False, memory=2 * size + (1 << 30)) as hive:
        # Not of random bytes, which would take longer to make than to share; nothing on the way compresses them.
        shared = hive.put(bytes(range(256)) * (size // 256))
        started = time.perf_counter()
        jobs = [hive.submit(_length, shared, needs=needs) for _ in range(8)]
        lengths = [job.result(DEADLINE) for job in jobs]
        figures.row(f"{size / 1e6:g} MB for 8 tasks on 4 peers", time.perf_counter() - started, "s")
        if lengths != [size // 256 * 256] * 8:
            raise SystemExit("wrong results")
        peers = len({job.peer for job in jobs})
        figures.row("peers that ran them", peers)
        sent = hive.statistics()["content"].uploaded_bytes / shared.length
        figures.claim(
            "bytes that left the caller, in sizes of the input for each peer", sent / peers, "times", at_most=1.1
        )


def _length(value: Any) -> int:
    time.sleep(0.2)
    return len(value)


if __name__ == "__main__":
    os.environ.update(environment())
    main()
