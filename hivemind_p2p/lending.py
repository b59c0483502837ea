"""Opens and closes a peer to tasks: the doing behind `worker.readiness`.

Participants: the user, who pauses, resumes and ends the peer; the clock on the wall; other programs on the machine;
the task service and the executor, which are told; the hive, which reads in the offer whether to send tasks.
Goals:
    - Closing refuses new tasks with the reason, before anything is paid, and gives back what has not begun; what runs
      goes on to its end.
    - Leaving waits until that has ended.
    - A hive that cannot be reached changes nothing here: the offer is published again as soon as it can be.
Non-goals: hosted stages of models, which go on while tasks are paused.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import ConfigurationError, HivemindError
from hivemind_p2p.interfaces import TaskStatus
from hivemind_p2p.types import Offer
from hivemind_p2p.worker.readiness import Readiness, State, Verdict

INTERVAL: Final = 5.0
"""Seconds between two looks at the clock and at other programs."""

DRAIN_INTERVAL: Final = 0.05
"""Seconds between two looks at whether all tasks have ended, while leaving."""

_events = telemetry.source("lending")


class TaskTaker(Protocol):
    """What takes tasks; `tasks.service.TaskService` is it.

    Attributes:
        closed: Why no tasks are taken; empty while they are.
    """

    closed: str

    def statistics(self) -> Any:
        """With ``running`` and ``waiting``."""

    def hand_back(self) -> None:
        """Gives back to their callers what has not begun."""


class TaskRunner(Protocol):
    """What runs them; `worker.executor.ChildExecutor` is it.

    Attributes:
        paused: Whether nothing that waits is started.
    """

    paused: bool


class Publisher(Protocol):
    """What tells the hive; `offers.OfferService` is it."""

    @property
    def own(self) -> Offer:
        """What is offered now."""

    async def publish(self, own: Offer | None = None) -> None:
        """Offers something else."""


@dataclass(frozen=True, slots=True)
class LendingStatistics:
    """Whether tasks are taken, and what is under way."""

    state: str
    reason: str
    running: int
    waiting: int


def local_minute() -> tuple[int, int]:
    """The day of the week, Monday being 0, and the minute of the day, here and now."""
    now = time.localtime()
    return now.tm_wday, now.tm_hour * 60 + now.tm_min


class Lending:
    """Keeps the task service, the executor and the offer at what is decided.

    Args:
        readiness: What decides.
        tasks: What takes tasks.
        runner: What runs them.
        offers: What tells the hive.
        others: The share of all cores that other programs keep busy since the last call.
        minute: The day of the week and the minute of the day.
    """

    def __init__(
        self,
        readiness: Readiness,
        tasks: TaskTaker,
        runner: TaskRunner,
        offers: Publisher,
        *,
        others: Callable[[], float],
        minute: Callable[[], tuple[int, int]] = local_minute,
    ) -> None:
        self._readiness = readiness
        self._tasks = tasks
        self._runner = runner
        self._offers = offers
        self._others = others
        self._minute = minute
        self._task_types = offers.own.task_types
        self._verdict = Verdict()
        self._offered = True
        self._changed = trio.Event()

    @property
    def verdict(self) -> Verdict:
        """What holds now."""
        return self._verdict

    def statistics(self) -> LendingStatistics:
        """Whether tasks are taken, and what is under way."""
        tasks = self._tasks.statistics()
        return LendingStatistics(self._verdict.state.value, self._verdict.reason, tasks.running, tasks.waiting)

    def decide(self) -> None:
        """Takes what is decided over; the offer follows as soon as `run` gets to it."""
        verdict = self._readiness.verdict(*self._minute())
        if verdict != self._verdict:
            _events.info("lending_changed", state=verdict.state.value, reason=verdict.reason or None)
        self._verdict = verdict
        self._tasks.closed = verdict.reason
        self._runner.paused = verdict.state is not State.OPEN
        if verdict.state is not State.OPEN:
            self._tasks.hand_back()  # another peer does it sooner

    async def run(self, *, task_status: TaskStatus) -> None:
        """Decides again and again, until it is cancelled."""
        self.decide()
        task_status.started()
        await self._offer()
        while True:
            with trio.move_on_after(INTERVAL):
                await self._changed.wait()
            self._changed = trio.Event()
            self._readiness.observe(self._others(), trio.current_time())
            self.decide()
            await self._offer()

    async def _offer(self) -> None:
        wanted = self._verdict.state is State.OPEN
        if self._offered == wanted:
            return
        task_types = self._task_types if wanted else ()
        try:
            await self._offers.publish(replace(self._offers.own, task_types=task_types))
        except HivemindError as error:
            _events.warning("offer_not_changed", reason=error.message)  # the next round tries again
            return
        self._offered = wanted

    async def told(self, word: str) -> dict[str, Any]:
        """Does what the user says: ``pause``, ``resume`` or ``status``; says how it is then.

        Raises:
            ConfigurationError: It is another word.
        """
        if word == "pause":
            self._readiness.pause()
        elif word == "resume":
            self._readiness.resume()
        elif word != "status":
            raise ConfigurationError(f"there is nothing called {word!r} to do")
        self.decide()
        self._changed.set()
        now = self.statistics()
        return {"state": now.state, "reason": now.reason, "running": now.running, "waiting": now.waiting}

    async def drain(self) -> None:
        """Takes no more tasks, and returns once all that had begun have ended."""
        self._readiness.leave()
        self.decide()
        self._changed.set()
        # Nobody tells when the last task ends, which may be in the middle of its payment.
        while (now := self._tasks.statistics()).running or now.waiting:  # noqa: ASYNC110
            await trio.sleep(DRAIN_INTERVAL)
