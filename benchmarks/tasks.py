"""What does a task cost besides its work? A function that does nothing, on a local hive and in a process pool.

The hive's peers run it in their sandboxed children, meter it, bill it and are paid; the standard library's
`ProcessPoolExecutor` hands it to a process over a pipe. Both have three workers, in the same run.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from typing import Any

from _harness import Figures, Options, median, quantile, run

WORKERS = 3
Submit = Callable[[Callable[..., Any]], "Future[Any]"]


def nothing() -> None:
    """The work."""


def measure(options: Options) -> Figures:
    """First the pool, then the hive."""
    import hivemind_p2p as hm

    one_by_one, at_once = options.pick(full=500, quick=100), options.pick(full=2000, quick=400)
    figures = Figures()
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool_times, pool_rate = _measure(pool.submit, one_by_one, at_once)
    with hm.local_hive(peers=WORKERS) as hive:
        hive_times, hive_rate = _measure(hive.submit, one_by_one, at_once)
    for name, times, rate in (("hive", hive_times, hive_rate), ("process pool", pool_times, pool_rate)):
        figures.row(f"{name}: round trip, p50", 1e3 * median(times), "ms")
        figures.row(f"{name}: round trip, p99", 1e3 * quantile(times, 0.99), "ms")
        figures.row(f"{name}: {at_once} in flight", rate, "tasks/s")
    figures.claim("no-op task round trip, hive : process pool", median(hive_times) / median(pool_times), "times")
    figures.claim("tasks/s with many in flight, process pool : hive", pool_rate / hive_rate, "times")
    return figures


def _measure(submit: Submit, one_by_one: int, at_once: int) -> tuple[list[float], float]:
    """Seconds of each round trip, and tasks a second with many in flight."""
    wait([submit(nothing) for _ in range(10 * WORKERS)])  # every worker has started and imported
    times = []
    for _ in range(one_by_one):
        started = time.perf_counter()
        submit(nothing).result(timeout=60)
        times.append(time.perf_counter() - started)
    started = time.perf_counter()
    jobs = [submit(nothing) for _ in range(at_once)]
    for job in jobs:
        job.result(timeout=300)
    return times, at_once / (time.perf_counter() - started)


if __name__ == "__main__":
    run(__doc__, measure)
