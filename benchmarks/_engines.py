"""Other engines under the same work, each run by the interpreter of a virtual environment that has it.

    PYTHON benchmarks/_engines.py ENGINE TASKS ROUND_TRIPS ITEMS

Prints one line of JSON: seconds for all tasks at once (best of three, results checked), seconds of each round trip,
and seconds for a map over tiny items, where the engine has one. `tasks.py` starts it, and does the same with the hive.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

WORKERS = 2
REPEATS = 3


def echo(value: Any) -> Any:
    """The work: none."""
    return value


def measure(
    submit: Callable[[int], Any],
    result: Callable[[Any], Any],
    gather: Callable[[list[Any]], list[Any]],
    tasks: int,
    round_trips: int,
) -> dict[str, Any]:
    """All tasks in flight, then one after the other."""
    if gather([submit(number) for number in range(20 * WORKERS)]) != list(range(20 * WORKERS)):
        raise SystemExit("wrong results")
    best = min(_all_at_once(submit, gather, tasks) for _ in range(REPEATS))
    times = []
    for number in range(round_trips):
        started = time.perf_counter()
        if result(submit(number)) != number:
            raise SystemExit("a wrong result")
        times.append(time.perf_counter() - started)
    return {"all_at_once": best, "round_trips": times}


def _all_at_once(submit: Callable[[int], Any], gather: Callable[[list[Any]], list[Any]], tasks: int) -> float:
    started = time.perf_counter()
    results = gather([submit(number) for number in range(tasks)])
    seconds = time.perf_counter() - started
    if results != list(range(tasks)):
        raise SystemExit("wrong results")
    return seconds


@contextmanager
def _ray(kind: str) -> Iterator[tuple[Any, ...]]:
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        if kind == "tasks":
            remote = ray.remote(echo)
            yield remote.remote, ray.get, ray.get
            return

        @ray.remote
        class Actor:
            def echo(self, value: Any) -> Any:
                return value

        actors = [Actor.remote() for _ in range(WORKERS)]
        yield (lambda number: actors[number % WORKERS].echo.remote(number)), ray.get, ray.get
    finally:
        ray.shutdown()


@contextmanager
def _dask() -> Iterator[tuple[Any, ...]]:
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield (
            lambda number: client.submit(echo, number, pure=False),
            lambda future: future.result(),
            client.gather,
        )


@contextmanager
def _parsl() -> Iterator[tuple[Any, ...]]:
    import tempfile

    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    with tempfile.TemporaryDirectory() as folder:
        executor = HighThroughputExecutor(
            label="local",
            max_workers_per_node=WORKERS,
            cores_per_worker=0.5,
            address="127.0.0.1",
            encrypted=False,
            provider=LocalProvider(init_blocks=1, max_blocks=1),
        )
        parsl.load(Config(executors=[executor], run_dir=folder, usage_tracking=0))
        app = parsl.python_app(echo)
        try:
            yield app, lambda future: future.result(), lambda futures: [future.result() for future in futures]
        finally:
            parsl.dfk().cleanup()
            parsl.clear()


@contextmanager
def _process_pool() -> Iterator[tuple[Any, ...]]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield (
            lambda number: pool.submit(echo, number),
            lambda future: future.result(),
            lambda futures: [future.result() for future in futures],
        )


def _joblib(items: int) -> dict[str, Any]:
    from joblib import Parallel, delayed

    best = float("inf")
    with Parallel(n_jobs=WORKERS) as parallel:
        parallel(delayed(echo)(number) for number in range(1000))
        for _ in range(REPEATS):
            started = time.perf_counter()
            results = parallel(delayed(echo)(number) for number in range(items))
            best = min(best, time.perf_counter() - started)
            if results != list(range(items)):
                raise SystemExit("wrong results")
    return {"map": best}


ENGINES: dict[str, Callable[[], Any]] = {
    "ray-tasks": lambda: _ray("tasks"),
    "ray-actors": lambda: _ray("actors"),
    "dask": _dask,
    "parsl": _parsl,
    "process-pool": _process_pool,
}


def main() -> None:
    """The command."""
    engine, tasks, round_trips, items = sys.argv[1], *map(int, sys.argv[2:5])
    if engine == "joblib":
        found = _joblib(items)
    else:
        with ENGINES[engine]() as (submit, result, gather):
            found = measure(submit, result, gather, tasks, round_trips)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
