"""A hive as a joblib backend, which runs what scikit-learn and others do in parallel.

    with joblib.parallel_backend("hivemind"):
        GridSearchCV(model, grid).fit(X, y)

Opening a hive registers the backend where joblib is loaded already; `register_joblib` does it at any time. Peers need
what the functions use. Arrays that several calls have in common are put into the hive once, and fetched once by each
peer.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from joblib._parallel_backends import AutoBatchingMixin, ParallelBackendBase, SequentialBackend
from joblib.parallel import register_parallel_backend

from hivemind_p2p.current import current_hive

if TYPE_CHECKING:
    from hivemind_p2p.hive import Hive
    from hivemind_p2p.job import Job

NAME: Final = "hivemind"

PUT_BYTES: Final = 1 << 20
"""Bytes from which an array is put into the hive instead of being sent with every call."""


def register_joblib() -> None:
    """Lets joblib know the backend ``hivemind``."""
    register_parallel_backend(NAME, HiveBackend)


class HiveBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs joblib's calls on a hive.

    Args:
        hive: Which; the one that was opened last unless it is named.
        nesting_level: How deep in other parallel calls this is, as joblib counts.
        inner_max_num_threads: Not used: peers limit what tasks take by their own walls.
        **options: How calls are run, by the names of `hivemind_p2p.Options`.
    """

    MIN_IDEAL_BATCH_DURATION = 0.05
    MAX_IDEAL_BATCH_DURATION = 0.5
    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self,
        hive: Hive | None = None,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._named = hive
        self._options = options
        self._jobs: set[Job[Any]] = set()
        self._put: dict[int, tuple[Any, Any]] = {}
        self._lock = threading.Lock()

    @property
    def _hive(self) -> Hive:
        return self._named or current_hive()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many calls run at once: all cores of the hive where a number below zero is asked for."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else self._hive.cores()

    def start_call(self) -> None:
        """A parallel call begins."""
        self._put.clear()

    def stop_call(self) -> None:
        """It has ended: what was put into the hive for it is used no more."""
        self._put.clear()

    def submit(self, func: Any, callback: Callable[[Future[Any]], None] | None = None) -> Job[Any]:
        """Starts a batch of calls."""
        hive = self._hive
        self._put_large(hive, func)
        tasks = hive.with_options(**self._options) if self._options else hive
        job: Job[Any] = tasks.submit(func)
        with self._lock:
            self._jobs.add(job)
        job.add_done_callback(self._forget)
        if callback is not None:
            job.add_done_callback(callback)
        return job

    def _forget(self, job: Any) -> None:
        with self._lock:
            self._jobs.discard(job)

    def _put_large(self, hive: Hive, batch: Any) -> None:
        """Replaces large arrays among the arguments of a batch by references to them."""
        numpy = sys.modules.get("numpy")
        calls = getattr(batch, "items", None)
        if numpy is None or not isinstance(calls, list):
            return

        def replaced(value: Any) -> Any:
            if type(value) is not numpy.ndarray or value.nbytes < PUT_BYTES or value.dtype.hasobject:
                return value
            known = self._put.get(id(value))
            if known is None and hive.may_wait:  # later batches are sent by the hive's own thread, which cannot
                known = self._put[id(value)] = (value, hive.put(value))  # kept, so that its id stays its own
            return known[1] if known is not None else value

        batch.items = [
            (function, [replaced(value) for value in args], {name: replaced(value) for name, value in kwargs.items()})
            for function, args, kwargs in calls
        ]

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The results of a batch; raises what a call of it raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancels what is under way: some call has failed."""
        with self._lock:
            jobs = list(self._jobs)
        for job in jobs:
            job.cancel()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    def get_nested_backend(self) -> tuple[Any, int | None]:
        """What is parallel inside a call runs one after the other: a task has the cores that it asked for."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None
