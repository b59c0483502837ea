"""Tells a job how its task fares: what stands between `tasks.client`, on the trio thread, and whoever waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hivemind_p2p.job import Job
from hivemind_p2p.types import PeerId

if TYPE_CHECKING:
    from hivemind_p2p.async_hive import AsyncHive
    from hivemind_p2p.tasks.course import Course
    from hivemind_p2p.tasks.spec import TaskResult, TaskState


class JobListener:
    """One job of one hive; a `tasks.spec.TaskListener`.

    Attributes:
        course: The task, once it was started.
    """

    __slots__ = ("_hive", "course", "job")

    def __init__(self, hive: AsyncHive, job: Job[Any]) -> None:
        self._hive = hive
        self.job = job
        self.course: Course | None = None

    def cancel(self) -> None:
        """Ends the remote work; may be called from any thread."""
        self._hive.from_anywhere(self._cancel)

    def _cancel(self) -> None:
        if self.course is not None:
            self._hive.peer.tasks.cancel(self.course)
        self._hive.forget(self)

    def moved(self, state: TaskState, peer: PeerId | None) -> None:
        """Its state has changed."""
        self.job.moved(state.name, peer)

    def printed(self, data: bytes) -> None:
        """It has printed something."""

    def ended(self, result: TaskResult) -> None:
        """It gave a result."""
        self._hive.forget(self)
        self.job.complete(result.value, peer=result.peer, cost=result.cost)

    def failed(self, error: BaseException) -> None:
        """It did not."""
        self._hive.forget(self)
        self.job.fail(error)
