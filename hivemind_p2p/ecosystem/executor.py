"""A hive as a `concurrent.futures.Executor`, for code that was written for processes or threads of this machine.

The futures are jobs, so what the standard library does with futures (`wait`, `as_completed`, `asyncio.wrap_future`)
works, and a job that runs can still be cancelled. A function that raised raises here, as an error of the same builtin
class.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from hivemind_p2p.job import Job
    from hivemind_p2p.task_methods import TaskMethods

T = TypeVar("T")


class HiveExecutor(Executor):
    """Runs functions on a hive. Made by ``hive.executor()``; shutting it down leaves the hive open.

    Example:
        >>> with hive.executor() as executor:  # doctest: +SKIP
        ...     list(executor.map(pow, [2, 3], [10, 10]))
        [1024, 59049]
    """

    def __init__(self, tasks: TaskMethods) -> None:
        self._tasks = tasks
        self._lock = threading.Lock()
        self._open: set[Future[Any]] = set()
        self._shut_down = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Job[T]:
        """Starts ``fn(*args, **kwargs)``.

        Raises:
            RuntimeError: The executor was shut down.
            NotSerializableError: The function or an argument cannot be packed.
        """
        with self._lock:
            if self._shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            job = self._tasks.submit(fn, *args, **kwargs)
            self._open.add(job)
        job.add_done_callback(self._forget)
        return job

    def _forget(self, job: Future[Any]) -> None:
        with self._lock:
            self._open.discard(job)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **_: Any,
    ) -> Iterator[T]:
        """Calls ``fn`` with one of each of `iterables` at a time; the results come in order.

        Args:
            fn: What to call.
            *iterables: Of its arguments; they are read at once, to the end of the shortest.
            timeout: Seconds from this call in which a result must be there.
            chunksize: Taken, and not needed: the hive finds out itself how much to send at a time.

        Raises:
            TimeoutError: From the iterator: a result was not there in time.
        """
        del chunksize
        end = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            if self._shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
        if len(iterables) == 1:
            jobs = self._tasks.map(fn, iterables[0])
        else:
            jobs = self._tasks.map(_spread(fn), list(zip(*iterables, strict=False)))
        over = jobs.over
        with self._lock:
            self._open.add(over)
        over.add_done_callback(self._forget)
        return _results(jobs, end)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more functions. The hive stays open.

        Args:
            wait: Whether to wait for those that are under way.
            cancel_futures: Whether to cancel those that no peer has begun.
        """
        with self._lock:
            self._shut_down = True
            open_now = list(self._open)
        if cancel_futures:
            for job in open_now:
                if not job.running():
                    job.cancel()
        if wait:
            _wait(open_now)


def _wait(futures: list[Future[Any]]) -> None:
    wait(futures)


def _spread(fn: Callable[..., T]) -> Callable[[tuple[Any, ...]], T]:
    return lambda arguments: fn(*arguments)


def _results(jobs: Any, end: float | None) -> Iterator[Any]:
    """The results one by one; the rest is cancelled where the caller stops asking."""
    try:
        for place in range(len(jobs)):
            yield jobs[place].result(None if end is None else max(0.0, end - time.monotonic()))
    finally:
        jobs.cancel()
