"""Runs tasks in a few warm, sandboxed child processes; implements `hivemind_p2p.interfaces.Executor`.

Participants: the task service, which hands work in; child processes, in which strangers' code runs.
Messages: `worker.packets`: packets down a socket, frames up a pipe.
Goals:
    - Nothing that runs in a child harms this process: every length is bounded, every wait has an end, and the child
      is killed with all that it started when its time or memory is up, when its work is cancelled, when this process
      ends, however it ends.
    - A child serves one caller only, and one size of memory; it stays warm for that caller's next task until another
      caller needs the room. A fresh one stands ready, so that nobody waits for a start.
    - A task that took no time costs little more: several lie ready in a child's socket, and are taken back from there
      when the one before them takes long, is stopped, or takes the child with it. Those were not started.
Non-goals: choosing whose work is taken, and being paid for it (the task service's business).
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import SandboxError, TaskCrashedError, TaskError, TaskMemoryError, TaskTimeoutError
from hivemind_p2p.interfaces import WorkListener
from hivemind_p2p.tasks.spec import most_result_bytes
from hivemind_p2p.types import Outcome, PeerId, Usage, Work
from hivemind_p2p.worker import monitor
from hivemind_p2p.worker.background import Background
from hivemind_p2p.worker.gpus import Gpu
from hivemind_p2p.worker.lanes import Close, Give, Key, Lanes, Open
from hivemind_p2p.worker.limits import BASE_MEMORY
from hivemind_p2p.worker.packets import LEFT_SOMETHING, PRINTED, BrokenFrameError, Reply
from hivemind_p2p.worker.pipes import ChildGoneError
from hivemind_p2p.worker.pool import ChildPool
from hivemind_p2p.worker.process import RESULTS, ChildProcess
from hivemind_p2p.worker.reporter import TaskReport
from hivemind_p2p.worker.sandbox import SCRATCH_BYTES, SandboxName
from hivemind_p2p.worker.waiting import OneWork
from hivemind_p2p.worker.workplace import Run, Workplace, child_goes_on, failure

RECALL_AFTER: Final = 0.05
"""Seconds that a task runs before those that lie ready behind it are taken back: they may start elsewhere, and their
caller sees that they wait."""

STARTED_AFTER: Final = 0.02
"""Seconds that a task runs before its caller is told that it has started; most end sooner, which says the same."""

LONGEST_NAP: Final = 0.005
"""Seconds between two looks at what a child with much work has answered. It has twice as much lying ready."""

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
        warm: Times that a child of the caller's stood ready.
        waiting: Tasks that wait.
    """

    sandbox: str
    running: int
    completed: int
    failed: int
    started: int
    warm: int
    waiting: int = 0


class ChildExecutor:
    """A pool of child processes. An async context manager; leaving it kills them all.

    Args:
        folder: Where children without a sandbox get their working folders; children with one see neither it nor
            the folder around it.
        slots: Children that work at once at most, and cpus that one task may ask for.
        memory_bytes: What all tasks that run at once may ask for.
        gpus: GPUs that they may have, each task its own. A child that has some is not kept warm: it holds their memory.
        sandbox: ``auto``, ``bubblewrap``, ``landlock`` or ``none``.
        unsafe: Whether ``auto`` may run work without walls where no walls can be had.

    Raises:
        SandboxError: On entering: no child could be started in the sandbox that was asked for.
    """

    def __init__(
        self,
        folder: Path,
        *,
        slots: int,
        memory_bytes: int,
        gpus: Sequence[Gpu] = (),
        sandbox: SandboxName = "auto",
        unsafe: bool = False,
    ) -> None:
        self._pool = ChildPool(folder, slots, sandbox, hidden=(str(folder.absolute().parent),), unsafe=unsafe)
        self._results = folder / RESULTS
        self._slots = slots
        self._memory_bytes = memory_bytes
        self._gpus = tuple(gpus)
        self._lanes = Lanes(float(slots), memory_bytes, len(self._gpus))
        self._places: dict[int, Workplace] = {}
        self._place_of: dict[ChildProcess, Workplace] = {}
        self._runs: dict[int, Run] = {}
        self._ticket_of: dict[Work, int] = {}
        self._tickets = itertools.count(1)
        self._closed = False
        self._background: Background
        self._busy = trio.Event()
        self._unchecked: set[ChildProcess] = set()
        self._completed = self._failed = self._warm = 0

    @property
    def sandbox(self) -> str:
        """How children are walled in: ``bubblewrap``, ``landlock`` or ``none``."""
        return self._pool.wall.name if self._pool.wall is not None else ""

    @property
    def walls(self) -> str:
        """The same in words, with what the kernel adds."""
        return f"{self._pool.wall or ''}{', a cgroup' if self._pool.groups is not None else ''}"

    def statistics(self) -> ExecutorStatistics:
        """What it has done so far."""
        return ExecutorStatistics(
            sandbox=self.sandbox,
            running=self._lanes.running,
            completed=self._completed,
            failed=self._failed,
            started=self._pool.started,
            warm=self._warm,
            waiting=len(self._runs) - self._lanes.running,
        )

    def tasks(self) -> list[TaskReport]:
        """What runs now, for people to look at."""
        now = trio.current_time()
        return [place.report(now) for place in self._places.values() if place.child is not None and place.inside]

    async def __aenter__(self) -> Self:
        shutil.rmtree(self._results, ignore_errors=True)  # left by one that was killed
        wall = await self._pool.open()
        _events.info("executor_ready", sandbox=wall.name, walls=str(wall), slots=self._slots)
        if not wall.holds:
            _events.warning("no_sandbox", advice="run trusted work only, or install bubblewrap")
        self._background = await Background.begin()
        self._background.start(self._watch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self._closed = True
        await self._background.end()
        await self._pool.close()
        shutil.rmtree(self._results, ignore_errors=True)

    # -- for the task service ----------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Tasks that run now."""
        return self._lanes.running

    @property
    def paused(self) -> bool:
        """Whether no more tasks are started; those that run go on."""
        return self._lanes.paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._lanes.paused = paused
        for place in list(self._places.values()) if paused else []:
            self._recall(place)
        self._go_on()

    def submit(self, work: Work, listener: WorkListener) -> None:
        """Puts work in the line; the listener is told what becomes of it. Check it with `Executor.check` before."""
        key = Key.of(work)
        run = Run(next(self._tickets), work, key, listener)
        self._runs[run.ticket] = run
        self._ticket_of[work] = run.ticket
        self._lanes.submit(run.ticket, key, work.priority)

    def go_on(self) -> None:
        """Starts what can be started, after one or many `submit`."""
        self._go_on()

    def belongs(self, caller: PeerId, account: str) -> None:
        """Says whose a caller is: accounts share what is lent."""
        self._lanes.belongs(caller, account)

    def seconds(self, work: Work) -> float | None:
        """How long such work takes; None while that is not known."""
        return self._lanes.seconds(Key.of(work))

    def withdraw(self, work: Work) -> bool:
        """Takes work out that has not begun; False if it has. Its listener is told nothing more. `go_on` afterwards."""
        ticket = self._ticket_of.get(work)
        if ticket is None:
            return False
        run = self._runs[ticket]
        if not self._lanes.withdraw(ticket):
            place = self._places.get(run.lane)
            if place is None:
                return False
            self._recall(place)
            if not self._lanes.withdraw(ticket):
                return False
        self._forget(run)
        return True

    def cancel(self, work: Work) -> None:
        """Takes work out, killing it if it runs. Its listener is told nothing more."""
        ticket = self._ticket_of.get(work)
        if ticket is None:
            return
        run = self._runs[ticket]
        if not self._lanes.withdraw(ticket) and (place := self._places.get(run.lane)) is not None:
            self._stop_one(place, run)
        self._forget(run)
        self._go_on()

    async def run(self, work: Work) -> Outcome:
        """Runs one piece of work to the end. Cancelling the call kills it.

        Raises:
            TaskRefusedError: It asks for more than this machine lends.
            SandboxError: No child could be started for it.
        """
        return await OneWork(self, work).outcome(float(self._slots), self._memory_bytes)

    # -- doing what was decided --------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        if self._closed:
            return
        for action in self._lanes.decide(trio.current_time()):
            if isinstance(action, Give):
                run, place = self._runs[action.ticket], self._places[action.lane]
                run.lane = action.lane
                place.given.append(run)
            elif isinstance(action, Open):
                self._open(action)
            else:
                self._close(action)
        for place in self._places.values():
            if place.given:
                self._feed(place)

    def _open(self, action: Open) -> None:
        place = self._places[action.lane] = Workplace(action.lane, action.key)
        self._busy.set()
        if action.key.gpus:
            place.gpus = self._free_gpus()[: action.key.gpus]
        child = self._pool.warm(action.key.child) if not place.gpus else None
        if child is not None:
            self._warm += 1
            self._unchecked.discard(child)
            self._begin(place, child)
        else:
            self._background.start(self._bring_child, place)

    def _free_gpus(self) -> tuple[Gpu, ...]:
        taken = {gpu for place in self._places.values() for gpu in place.gpus}
        return tuple(gpu for gpu in self._gpus if gpu not in taken)

    def _begin(self, place: Workplace, child: ChildProcess) -> None:
        place.begin(child)
        if child.group is not None:
            child.limit(place.key.memory_bytes, place.key.cpus)
        self._place_of[child] = place

    async def _bring_child(self, place: Workplace) -> None:
        child, error = None, SandboxError("this peer is closing")
        try:
            child = await self._pool.take(place.key.child, place.gpus, network=place.key.network)
        except SandboxError as failed:
            error = failed
        if self._places.get(place.lane) is not place:
            if child is not None:
                await self._pool.discard(child)  # everything that it was meant for was taken back
            return
        if child is None:
            self._end_without_child(place, error)
            return
        child.pipes.allow(most_result_bytes(place.key.memory_bytes))  # a warm one serves this size only
        self._begin(place, child)
        self._spawn_reader(child)
        self._feed(place)

    def _end_without_child(self, place: Workplace, error: SandboxError) -> None:
        for run in list(place.given):
            self._lanes.ended(place.lane, run.ticket)
            self._tell(run, Outcome(Usage(), error_code=error.code(), error_message=error.message))
        del self._places[place.lane]
        self._lanes.lost(place.lane)
        self._go_on()

    def _close(self, action: Close) -> None:
        place = self._places.pop(action.lane)
        child = place.child
        if not isinstance(child, ChildProcess):
            return
        self._place_of.pop(child, None)
        if place.gpus:
            self._pool.discard_soon(child)
            return
        self._unchecked.add(child)
        self._pool.give_back(child)
        if child.suspect:
            self._check_alone(child)

    def _check_alone(self, child: ChildProcess) -> None:
        """Ends an idle child in which a task has left something running."""
        self._unchecked.discard(child)
        child.suspect = False
        if not child.meter.is_alone():
            self._pool.discard_soon(child)

    def _feed(self, place: Workplace) -> None:
        large = place.feed(trio.current_time())
        if large and isinstance(place.child, ChildProcess):
            self._background.start(self._send_large, place.child, large)

    async def _send_large(self, child: ChildProcess, parts: list[bytes]) -> None:
        await child.pipes.send_all(parts)  # a child that is gone is noticed where its answers are read

    # -- answers -----------------------------------------------------------------------------------------------------

    def _spawn_reader(self, child: ChildProcess) -> None:
        self._background.start(self._read, child)

    async def _read(self, child: ChildProcess) -> None:
        while await child.pipes.wait_readable():
            place = self._place_of.get(child)
            if place is None:
                self._pool.discard_soon(child)  # it has ended, or talks though it was asked nothing
                return
            if not self._look(place):
                return
            self._go_on()
            await self._nap(place)

    async def _nap(self, place: Workplace) -> None:
        """Lets answers gather while much lies ready: each look costs more than a small task."""
        ready = len(place.inside) - 1
        if ready > 0:
            seconds = self._lanes.seconds(place.key) or 0.0
            await trio.sleep(min(LONGEST_NAP, ready * seconds / 2))

    def _look(self, place: Workplace) -> bool:
        """Takes what a child has answered; False if the child is gone, whose lane has then ended."""
        child = place.child
        if not isinstance(child, ChildProcess):
            return True
        reason = ""
        replies: list[Reply] = []
        try:
            for reply in child.pipes.receive_now():
                if reply.kind == PRINTED:
                    self._settle(place, replies)
                    self._printed(place, reply)
                else:
                    replies.append(reply)
        except (ChildGoneError, BrokenFrameError) as error:
            reason = str(error)
        reason = self._settle(place, replies) or reason
        if reason:
            self._lose(place, child, reason)
        return not reason

    def _settle(self, place: Workplace, replies: list[Reply]) -> str:
        """Ends the tasks that replies are about, and empties the list; what is wrong with them, if anything is."""
        expected = itertools.islice(place.inside, len(replies))
        tickets = [run.ticket for run in expected]
        if [reply.ticket for reply in replies] != tickets:
            for path in [reply.path for reply in replies if reply.path]:
                Path(path).unlink(missing_ok=True)
            replies.clear()
            return "it answered what it was not asked"
        if not replies:
            return ""
        suspect = any(reply.flags & LEFT_SOMETHING for reply in replies)
        fatal = False
        for run, outcome in place.results(replies, trio.current_time()):
            self._lanes.ended(place.lane, run.ticket, outcome.usage.wall_seconds)
            fatal = fatal or not child_goes_on(outcome)
            self._tell(run, outcome)
        replies.clear()
        if isinstance(place.child, ChildProcess):
            place.child.suspect = place.child.suspect or suspect
        return "it had no memory left" if fatal else ""

    def _printed(self, place: Workplace, reply: Reply) -> None:
        run = place.match(reply)
        if run is not None and run.work.stream_output:
            run.listener.printed(run.work, reply.payload)

    def _tell(self, run: Run, outcome: Outcome) -> None:
        self._completed += not outcome.error_code
        self._failed += bool(outcome.error_code)
        self._forget(run)
        run.listener.ended(run.work, outcome)

    def _forget(self, run: Run) -> None:
        self._runs.pop(run.ticket, None)
        self._ticket_of.pop(run.work, None)

    # -- the end of a child ------------------------------------------------------------------------------------------

    def _recall(self, place: Workplace, head_seconds: float = 0.0) -> None:
        """Takes back what was not started."""
        back = place.take_back()
        for run in back:
            run.lane = 0
        if back:
            self._lanes.recalled(place.lane, [run.ticket for run in back], head_seconds=head_seconds)

    def _stop_one(self, place: Workplace, run: Run) -> None:
        """Ends one task of a lane, wherever in it it is."""
        self._recall(place)
        # Now nothing more can be started, and what has ended has been answered: the child is at one task at most.
        if not self._look(place):
            return
        if run in place.inside:
            self._forget(run)
            self._stop_child(place, TaskCrashedError, "it ended with another task of its caller's")
        else:
            self._lanes.withdraw(run.ticket)

    def _end_child(self, place: Workplace, ended: list[Run], *, kill: bool = True) -> None:
        """Closes a lane with its child."""
        for run in ended:
            place.inside.remove(run)
            self._lanes.ended(place.lane, run.ticket)
        del self._places[place.lane]
        self._lanes.lost(place.lane)
        if isinstance(place.child, ChildProcess):
            self._place_of.pop(place.child, None)
            if kill:
                place.child.kill_now()

    def _lose(self, place: Workplace, child: ChildProcess, reason: str) -> None:
        """A child is gone, or no longer to be trusted: what it was at is lost, the rest goes on elsewhere."""
        self._recall(place)
        started = list(place.inside)
        usage = place.usage_of_head(trio.current_time())
        lost = reason == ChildGoneError.ENDED
        self._end_child(place, started, kill=not lost)
        self._background.start(self._bury, child, started, lambda: _crash(usage, child, "" if lost else reason))
        self._go_on()

    def _stop_head(self, place: Workplace, kind: type[TaskError], reason: str) -> None:
        """Ends a child because of the task that it is at, unless that has just ended."""
        head = place.inside[0]
        self._recall(place)
        if self._look(place) and place.inside and place.inside[0] is head:
            self._stop_child(place, kind, reason)

    def _stop_child(self, place: Workplace, kind: type[TaskError], reason: str) -> None:
        if not isinstance(place.child, ChildProcess):
            return
        usage, started = place.usage_of_head(trio.current_time()), list(place.inside)
        self._end_child(place, started)
        self._background.start(self._bury, place.child, started, lambda: failure(usage, kind, reason))

    async def _bury(self, child: ChildProcess, started: list[Run], outcome: Callable[[], Outcome]) -> None:
        """Tells of the end of tasks once nothing of them is left."""
        await child.wait_for_end()  # one that has ended by itself can say how
        await self._pool.discard(child)
        for run in started:
            if run.ticket in self._runs:
                self._tell(run, outcome())
        self._go_on()

    # -- the clock ---------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Looks at every busy child from time to time: its time, its memory, what lies behind a long task."""
        while True:
            await self._busy.wait()
            await trio.sleep(self._pause())
            for place in list(self._places.values()):
                if place.inside and self._places.get(place.lane) is place:
                    self._watch_one(place)
            for child in list(self._unchecked):
                self._check_alone(child)
            self._go_on()
            if not self._places:
                self._busy = trio.Event()

    def _pause(self) -> float:
        now = trio.current_time()
        ends = [
            place.since + place.inside[0].work.needs.seconds - now for place in self._places.values() if place.inside
        ]
        fresh = any(place.inside and not place.inside[0].told for place in self._places.values())
        return max(0.001, min(STARTED_AFTER if fresh else monitor.INTERVAL, *ends, monitor.INTERVAL))

    def _watch_one(self, place: Workplace) -> None:
        if not self._look(place) or not place.inside or not isinstance(place.child, ChildProcess):
            return
        head, elapsed = place.inside[0], trio.current_time() - place.since
        if elapsed >= STARTED_AFTER and not head.told:
            head.told = True
            head.listener.started(head.work)
        if elapsed >= RECALL_AFTER and place.tasks > 1:
            self._recall(place, elapsed)
        if elapsed >= head.work.needs.seconds:
            seconds = head.work.needs.seconds
            self._stop_head(place, TaskTimeoutError, f"it ran longer than the {seconds:g} s that it asked for")
            return
        self._watch_memory(place, place.child)

    def _watch_memory(self, place: Workplace, child: ChildProcess) -> None:
        now = trio.current_time()
        if now - child.sampled_at < monitor.INTERVAL:
            return
        child.sampled_at = now
        sample = child.meter.full()
        place.peak = max(place.peak, sample.memory_bytes)
        limit = place.key.memory_bytes + BASE_MEMORY
        if error := monitor.exceeded(sample, memory_bytes=limit, disk_bytes=SCRATCH_BYTES):
            self._stop_head(place, type(error), error.message)


def _crash(usage: Usage, child: ChildProcess, reason: str) -> Outcome:
    if child.out_of_memory():
        return failure(usage, TaskMemoryError, "it and what it started needed more memory than it asked for")
    return failure(usage, TaskCrashedError, reason or child.exit_status())
