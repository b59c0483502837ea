"""The caller's handle on a task: a `concurrent.futures.Future` with a few things more.

A job stays cancellable until its result is there: `cancel` ends the remote work, wherever it has got to. It can be
waited for from a script (`job.result()`), from a notebook cell (`await job`) and from a trio program (`await job`).
What it prints can be read while it runs (`for line in job.stdout`, `job.follow()`), and every change of its state is
kept in `job.history` and told to whom `job.on_change` names.
"""

from __future__ import annotations

import functools
import itertools
import os
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, InvalidStateError, wait
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TextIO, TypeVar

from hivemind_p2p.errors import TaskFailedError, TaskTimeoutError
from hivemind_p2p.job_output import JobOutput
from hivemind_p2p.types import CREDIT, Credits, PeerId

if TYPE_CHECKING:
    from hivemind_p2p.tasks.quorum import Agreed

T = TypeVar("T")

INTERRUPT_SECONDS = 0.2
"""How soon an interrupted notebook cell that awaits a job notices; looking costs some microseconds."""


_numbers = itertools.count()
_making_output = threading.Lock()


@functools.cache
def _process_id(process: int) -> str:
    """What the ids of this process's jobs begin with; a forked process has another."""
    return f"{secrets.token_hex(10)}{process & 0xFFFF:04x}"


def new_job_id() -> str:
    """An id that no other job has: 36 hexadecimal digits."""
    return f"{_process_id(os.getpid())}{next(_numbers):012x}"


class Change(NamedTuple):
    """One change of a job's state.

    Attributes:
        state: What it is since then.
        peer: Who has it, if somebody has.
        time: Seconds since the epoch.
    """

    state: str
    peer: PeerId | None
    time: float


ChangeListener = Callable[["Job[Any]", Change], None]
"""Told of a change, on the thread where it happened; must neither raise nor wait."""


class Job(Future[T], Generic[T]):
    """One task that runs, or ran, on some peer.

    Attributes:
        id: The task's id, as it stands on the receipt.
        peer: Who runs or ran it; None until a peer took it.
        verdict: Who agreed about the result and who did not, where several were asked.
        wall_seconds: How long it took, as the peer says; zero until it is done.
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
        self._changes: list[Change] = []
        self._listeners: tuple[ChangeListener, ...] = ()
        self._output: JobOutput | None = None
        self.verdict: Agreed | None = None
        self.wall_seconds = 0.0

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

    @property
    def cost_in_millionths(self) -> Credits:
        """The same in millionths of a credit."""
        return self._cost

    @property
    def history(self) -> tuple[Change, ...]:
        """Every change of its state so far."""
        return tuple(self._changes)

    def on_change(self, listener: ChangeListener) -> None:
        """Tells `listener` of every change from now on, with the job and the change."""
        self._listeners += (listener,)

    @property
    def output(self) -> str:
        """What it has printed so far, also if it was cancelled then; of very much the end."""
        return self._output.text if self._output is not None else ""

    @property
    def stdout(self) -> Iterator[str]:
        """Each line that it prints, as it comes, until it is done."""
        return self._open_output().lines()

    def follow(self, file: TextIO | None = None) -> T:
        """Writes what it prints, as it comes, then gives its result; raises what `result` does.

        Args:
            file: Where to write it; this program's own standard output by default.
        """
        try:
            for line in self.stdout:
                print(line, end="", file=file, flush=True)
        except KeyboardInterrupt:
            self.cancel()
            raise
        return self.result()

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
        self._note("CANCELLED", None)
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
        if not self.done():
            self._note(stage, peer)

    def _note(self, state: str, peer: PeerId | None) -> None:
        change = Change(state, peer, time.time())
        self._changes.append(change)
        for listener in self._listeners:
            listener(self, change)

    def printed(self, data: bytes) -> None:
        """Adds what it has printed."""
        if not self.done():
            self._open_output().add(data)

    def _open_output(self) -> JobOutput:
        if self._output is None:
            with _making_output:
                if self._output is None:
                    made = JobOutput()
                    self.add_done_callback(lambda _: made.close())
                    self._output = made
        return self._output

    def complete(self, value: T, *, peer: PeerId, cost: Credits, output: str = "", wall_seconds: float = 0.0) -> None:
        """Puts the result in, unless the job was cancelled in the meantime.

        Args:
            value: The result.
            peer: Who gave it.
            cost: What was paid for it.
            output: The end of what it printed, for where it did not come while it ran.
            wall_seconds: How long it took, as the peer says.
        """
        self.peer, self._cost, self.wall_seconds = peer, cost, wall_seconds
        if output and self._output is None:
            self.printed(output.encode("utf-8", "replace"))
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
        return wait_for(self, self.cancel).__await__()

    def __repr__(self) -> str:
        where = f" on {self.peer[-6:]}" if self.peer else ""
        return f"<Job {self.name or self.id}: {self.state}{where}>"

    def _repr_html_(self) -> str:
        from hivemind_p2p.notebook.reprs import job_html

        return job_html(self)


async def wait_for(job: Future[T], give_up: Callable[[], Any] | None = None) -> T:
    """Waits in whichever event loop this is: asyncio in a notebook, trio in a program of its own.

    Args:
        job: What to wait for.
        give_up: Called where the waiting is cancelled.
    """
    import sniffio

    if sniffio.current_async_library() == "asyncio":
        return await _wait_in_asyncio(job, give_up)
    import trio

    token, done = trio.lowlevel.current_trio_token(), trio.Event()
    job.add_done_callback(lambda _: token.run_sync_soon(done.set))
    try:
        await done.wait()
    except trio.Cancelled:
        if give_up is not None:
            give_up()
        raise
    return job.result(timeout=0)


async def _wait_in_asyncio(job: Future[T], give_up: Callable[[], Any] | None) -> T:
    import asyncio

    future = asyncio.wrap_future(job)
    try:
        # A kernel notes an interrupt in a signal handler, which does not wake a loop that waits; this does.
        while not future.done():
            await asyncio.wait([future], timeout=INTERRUPT_SECONDS)
    except asyncio.CancelledError:
        if give_up is not None:
            give_up()
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

    @property
    def over(self) -> Future[None]:
        """Done once every job is."""
        over: Future[None] = Future()
        left = itertools.count(len(self) - 1, -1)  # next() of it is one step, in whichever thread

        def one_less(_: Future[Any]) -> None:
            if not next(left):
                over.set_result(None)

        for job in self:
            job.add_done_callback(one_less)
        if not self:
            over.set_result(None)
        return over

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
