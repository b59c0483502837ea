"""The caller's handle on a task: a `concurrent.futures.Future` with a few things more.

A job stays cancellable until its result is there: `cancel` ends the remote work, wherever it has got to. It can be
waited for from a script (`job.result()`), from a notebook cell (`await job`) and from a trio program (`await job`).
"""

from __future__ import annotations

import functools
import itertools
import os
import secrets
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, InvalidStateError, wait
from contextlib import suppress
from decimal import Decimal
from typing import Any, Generic, TypeVar

from hivemind_p2p.errors import TaskFailedError, TaskTimeoutError
from hivemind_p2p.types import CREDIT, Credits, PeerId

T = TypeVar("T")

INTERRUPT_SECONDS = 0.2
"""How soon an interrupted notebook cell that awaits a job notices; looking costs some microseconds."""


_numbers = itertools.count()


@functools.cache
def _process_id(process: int) -> str:
    """What the ids of this process's jobs begin with; a forked process has another."""
    return f"{secrets.token_hex(10)}{process & 0xFFFF:04x}"


def new_job_id() -> str:
    """An id that no other job has: 36 hexadecimal digits."""
    return f"{_process_id(os.getpid())}{next(_numbers):012x}"


class Job(Future[T], Generic[T]):
    """One task that runs, or ran, on some peer.

    Attributes:
        id: The task's id, as it stands on the receipt.
        peer: Who runs or ran it; None until a peer took it.
    """

    def __init__(self, job_id: str, name: str = "", source: str | None = None) -> None:
        super().__init__()
        self.id = job_id
        self.name = name
        self._source = source
        # Whoever waits and the hive that closes may both cancel; the future may be told once only.
        self._cancelling = threading.RLock()
        self._stage = "PENDING"
        self.peer: PeerId | None = None
        self._cost = Credits(0)
        self._end_remote_work: Callable[[], None] | None = None

    @property
    def state(self) -> str:
        """PENDING, QUEUED, ASSIGNED, RUNNING, COMPLETED, FAILED, CANCELLED or TIMED_OUT."""
        if self.cancelled():
            return "CANCELLED"
        if not self.done():
            return self._stage
        error = self.exception()
        if error is None:
            return "COMPLETED"
        return "TIMED_OUT" if isinstance(error, TaskTimeoutError) else "FAILED"

    @property
    def cost(self) -> Decimal:
        """What was paid for it, in credits; zero until it is done."""
        return Decimal(self._cost) / CREDIT

    def running(self) -> bool:
        """Whether a peer works on it now."""
        return not self.done() and self.state == "RUNNING"

    def cancel(self) -> bool:
        """Ends the job and its remote work. False if it was done already."""
        with self._cancelling:
            if self.cancelled():
                return True
            if not super().cancel():
                return False
            self.set_running_or_notify_cancel()  # tells concurrent.futures.wait and as_completed
        if self._end_remote_work is not None:
            self._end_remote_work()
        return True

    def when_cancelled(self, end: Callable[[], None]) -> None:
        """Calls `end` if the job is cancelled; at once if it is already."""
        self._end_remote_work = end
        if self.cancelled():
            end()

    def moved(self, stage: str, peer: PeerId | None) -> None:
        """Notes how far the task is, and with whom."""
        self._stage, self.peer = stage, peer or self.peer

    def complete(self, value: T, *, peer: PeerId, cost: Credits) -> None:
        """Puts the result in, unless the job was cancelled in the meantime."""
        self.peer, self._cost = peer, cost
        with suppress(InvalidStateError):
            self.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Puts an error in, unless the job was cancelled in the meantime."""
        if isinstance(error, TaskFailedError):
            from hivemind_p2p.notebook.tracebacks import localised

            error.remote_traceback = localised(error.remote_traceback, self._source)
        with suppress(InvalidStateError):
            self.set_exception(error)

    def result(self, timeout: float | None = None) -> T:
        """The function's result.

        Args:
            timeout: Seconds to wait; None waits for as long as it takes.

        Raises:
            TimeoutError: It is not done yet; the job goes on.
            TaskFailedError: The function raised; the error holds the remote traceback.
            HivemindError: Another class of `errors`, where the task could not be run.
        """
        try:
            return super().result(timeout)
        except KeyboardInterrupt:
            self.cancel()
            raise

    def __await__(self) -> Generator[Any, Any, T]:
        return _wait(self).__await__()

    def __repr__(self) -> str:
        where = f" on {self.peer[-6:]}" if self.peer else ""
        return f"<Job {self.name or self.id}: {self.state}{where}>"

    def _repr_html_(self) -> str:
        from hivemind_p2p.notebook.reprs import job_html

        return job_html(self)


async def _wait(job: Job[T]) -> T:
    """Waits in whichever event loop this is: asyncio in a notebook, trio in a program of its own."""
    import sniffio

    if sniffio.current_async_library() == "asyncio":
        return await _wait_in_asyncio(job)
    import trio

    token, done = trio.lowlevel.current_trio_token(), trio.Event()
    job.add_done_callback(lambda _: token.run_sync_soon(done.set))
    try:
        await done.wait()
    except trio.Cancelled:
        job.cancel()
        raise
    return job.result(timeout=0)


async def _wait_in_asyncio(job: Job[T]) -> T:
    import asyncio

    future = asyncio.wrap_future(job)
    try:
        # A kernel notes an interrupt in a signal handler, which does not wake a loop that waits; this does.
        while not future.done():
            await asyncio.wait([future], timeout=INTERRUPT_SECONDS)
    except asyncio.CancelledError:
        job.cancel()
        raise
    return future.result()


class JobList(list[Job[T]]):
    """What `hive.map` gives back: jobs in the order of their items."""

    def results(self, timeout: float | None = None) -> list[T]:
        """The results in order; raises the first error there was, and cancels the rest.

        Raises:
            TimeoutError: Some job is not done after `timeout` seconds; the jobs go on.
        """
        try:
            done, waiting = wait(self, timeout, return_when=FIRST_EXCEPTION)
        except KeyboardInterrupt:
            self.cancel()
            raise
        failed = next((job for job in self if job in done and (job.cancelled() or job.exception())), None)
        if failed is not None:
            self.cancel()
            failed.result()
        if waiting:
            raise TimeoutError(f"{len(waiting)} of {len(self)} jobs are not done after {timeout} s")
        return [job.result() for job in self]

    def cancel(self) -> int:
        """Cancels what is not done and returns how many those were."""
        return sum(job.cancel() for job in self if not job.done())

    def __await__(self) -> Generator[Any, Any, list[T]]:
        return self._gather().__await__()

    async def _gather(self) -> list[T]:
        try:
            return [await job for job in self]
        except BaseException:
            self.cancel()
            raise

    def __repr__(self) -> str:
        return f"<JobList of {len(self)}: {_count_states(self)}>"

    def _repr_html_(self) -> str:
        from hivemind_p2p.notebook.reprs import jobs_html

        return jobs_html(self)


def _count_states(jobs: Iterable[Job[Any]]) -> str:
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job.state] = counts.get(job.state, 0) + 1
    return ", ".join(f"{count} {state.lower()}" for state, count in counts.items()) or "empty"
