"""Runs tasks in a few warm, sandboxed child processes; implements `hivemind_p2p.interfaces.Executor`.

Participants: the task service, which asks for work to be run; child processes, in which strangers' code runs.
Messages: the frames of `worker.frames`, over two pipes to each child.
Goals:
    - Nothing that runs in a child harms this process: every length is bounded, every wait has an end, and the child
      is killed with all that it started when its time or memory is up, when the call is cancelled, when this process
      ends, however it ends.
    - A child serves one caller only, and one size of memory; it stays warm for that caller's next task until another
      caller needs the room. A fresh one stands ready, so that nobody waits for a start.
Non-goals: choosing among waiting tasks and being paid for them (the task service's business).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import (
    TaskCrashedError,
    TaskError,
    TaskFailedError,
    TaskMemoryError,
    TaskRefusedError,
    TaskTimeoutError,
    UnknownTaskTypeError,
    UnsafeValueError,
)
from hivemind_p2p.proto.tasks_pb2 import Report
from hivemind_p2p.types import Outcome, Usage, Work
from hivemind_p2p.worker import monitor
from hivemind_p2p.worker.frames import MAX_MESSAGE
from hivemind_p2p.worker.limits import BASE_MEMORY
from hivemind_p2p.worker.pool import ChildPool
from hivemind_p2p.worker.process import ChildGoneError, ChildProcess
from hivemind_p2p.worker.sandbox import SCRATCH_BYTES, SandboxName

_FROM_CHILD: Final = frozenset(
    kind.code() for kind in (TaskFailedError, TaskMemoryError, UnsafeValueError, UnknownTaskTypeError)
)
"""What a child may report; anything else did not come from our program in it."""

_events = telemetry.source("executor")


@dataclass(frozen=True, slots=True)
class ExecutorStatistics:
    """What an executor has done since it was opened.

    Attributes:
        sandbox: ``bubblewrap``, ``landlock`` or ``none``.
        running: Tasks that run now.
        completed: Tasks that gave a result.
        failed: Tasks that did not.
        started: Children started.
        warm: Tasks that found a child of their caller's ready.
    """

    sandbox: str
    running: int
    completed: int
    failed: int
    started: int
    warm: int


class ChildExecutor:
    """A pool of child processes. An async context manager; leaving it kills them all.

    Args:
        folder: Where children without a sandbox get their working folders; children with one see neither it nor
            the folder around it.
        slots: Children that work at once at most, and cpus that one task may ask for.
        memory_bytes: What one task may ask for.
        sandbox: ``auto``, ``bubblewrap``, ``landlock`` or ``none``.
        unsafe: Whether ``auto`` may run work without walls where no walls can be had.

    Raises:
        SandboxError: On entering: no child could be started in the sandbox that was asked for.
    """

    def __init__(
        self, folder: Path, *, slots: int, memory_bytes: int, sandbox: SandboxName = "auto", unsafe: bool = False
    ) -> None:
        self._slots = slots
        self._memory_bytes = memory_bytes
        self._room = trio.CapacityLimiter(slots)
        self._pool = ChildPool(folder, slots, sandbox, hidden=(str(folder.absolute().parent),), unsafe=unsafe)
        self._completed = self._failed = self._warm = 0

    @property
    def sandbox(self) -> str:
        """How children are walled in: ``bubblewrap``, ``landlock`` or ``none``."""
        return self._pool.wall.name if self._pool.wall is not None else ""

    def statistics(self) -> ExecutorStatistics:
        """What it has done so far."""
        return ExecutorStatistics(
            sandbox=self.sandbox,
            running=self._room.borrowed_tokens,
            completed=self._completed,
            failed=self._failed,
            started=self._pool.started,
            warm=self._warm,
        )

    async def __aenter__(self) -> Self:
        wall = await self._pool.open()
        _events.info("executor_ready", sandbox=wall.name, walls=str(wall), slots=self._slots)
        if not wall.holds:
            _events.warning("no_sandbox", advice="run trusted work only, or install bubblewrap")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        await self._pool.close()

    async def run(self, work: Work) -> Outcome:
        """Runs to the end, waiting for a free child first. Cancelling the call kills the work.

        Raises:
            TaskRefusedError: It asks for more than this machine lends.
            SandboxError: No child could be started for it.
        """
        self._check(work)
        async with self._room:
            child, warm = await self._pool.take((work.caller, work.needs.memory_bytes))
            self._warm += warm
            reusable = False
            try:
                outcome = await _Run(child, work).outcome()
                reusable = outcome.error_code in ("", TaskFailedError.code(), UnsafeValueError.code())
            finally:
                if reusable and child.meter.is_alone():
                    self._pool.give_back(child)
                else:
                    await self._pool.discard(child)
        self._completed += not outcome.error_code
        self._failed += bool(outcome.error_code)
        _events.debug("task_ran", task=work.task_id, caller=work.caller, error=outcome.error_code or None)
        return outcome

    def _check(self, work: Work) -> None:
        if work.needs.cpus > self._slots:
            raise TaskRefusedError(f"it needs {work.needs.cpus:g} cpus, and this peer lends {self._slots}")
        if work.needs.memory_bytes > self._memory_bytes:
            raise TaskRefusedError(
                f"it needs {work.needs.memory_bytes:,} bytes of memory, and this peer lends {self._memory_bytes:,}"
            )


class _Run:
    """One task on one child: handed over, watched, judged."""

    def __init__(self, child: ChildProcess, work: Work) -> None:
        self._child = child
        self._work = work
        self._first = self._last = child.meter.quick()
        self._peak = 0
        self._stopped: tuple[type[TaskError], str] | None = None

    async def outcome(self) -> Outcome:
        start = trio.current_time()
        needs = self._work.needs
        reply: tuple[Report, bytes] | None = None
        with trio.move_on_after(needs.seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, nursery.cancel_scope)
                try:
                    reply = await self._child.exchange(self._work.task_type, needs.memory_bytes, self._work.payload)
                except ChildGoneError as error:
                    self._stopped = self._stopped or (TaskCrashedError, str(error))
                nursery.cancel_scope.cancel()
        self._note(self._child.meter.quick())
        usage = Usage(
            wall_seconds=trio.current_time() - start,
            cpu_seconds=max(0.0, self._last.cpu_seconds - self._first.cpu_seconds),
            peak_memory_bytes=self._peak,
        )
        if reply is not None:
            return _from_reply(usage, *reply)
        return await self._without_reply(usage)

    async def _watch(self, scope: trio.CancelScope) -> None:
        limit = self._work.needs.memory_bytes + BASE_MEMORY
        while True:
            await trio.sleep(monitor.INTERVAL)
            sample = self._child.meter.full()
            self._note(sample)
            if error := monitor.exceeded(sample, memory_bytes=limit, disk_bytes=SCRATCH_BYTES):
                self._stopped = (type(error), error.message)
            if self._stopped is not None:
                scope.cancel()
                return

    def _note(self, sample: monitor.Sample) -> None:
        self._peak = max(self._peak, sample.memory_bytes)
        if sample.cpu_seconds > self._last.cpu_seconds:
            self._last = sample

    async def _without_reply(self, usage: Usage) -> Outcome:
        if self._stopped is None:
            seconds = self._work.needs.seconds
            return _failure(usage, TaskTimeoutError, f"it ran longer than the {seconds:g} s that it asked for")
        kind, reason = self._stopped
        if kind is TaskCrashedError and reason.startswith("it ended"):
            await self._child.wait_for_end()
            reason = self._child.exit_status()
        return _failure(usage, kind, reason)


def _failure(usage: Usage, kind: type[TaskError], reason: str) -> Outcome:
    return Outcome(usage, error_code=kind.code(), error_message=reason)


def _from_reply(usage: Usage, report: Report, payload: bytes) -> Outcome:
    if report.error_code and report.error_code not in _FROM_CHILD:
        return _failure(usage, TaskCrashedError, "the child reported something that no child reports")
    return Outcome(
        usage,
        payload=b"" if report.error_code else payload,
        error_code=report.error_code,
        error_message=report.error_message[:MAX_MESSAGE],
        remote_traceback=report.remote_traceback,
        output=report.output,
    )
