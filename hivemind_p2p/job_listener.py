"""Tells a job how its task fares: what stands between `tasks.client`, on the trio thread, and whoever waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.job import Job
from hivemind_p2p.types import PeerId

if TYPE_CHECKING:
    from collections.abc import Callable

    from hivemind_p2p.async_hive import AsyncHive
    from hivemind_p2p.tasks.spec import TaskResult, TaskState


class JobListener:
    """One job of one hive; a `tasks.spec.TaskListener`.

    Attributes:
        keep: Whether its task goes on when this hive is left.
        end_work: Ends the task; called on the trio thread. There once the task was started.
    """

    __slots__ = ("_hive", "end_work", "job", "keep")

    def __init__(self, hive: AsyncHive, job: Job[Any], *, keep: bool = False) -> None:
        self._hive = hive
        self.job = job
        self.keep = keep
        self.end_work: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Ends the remote work; may be called from any thread."""
        self._hive.from_anywhere(self._cancel)

    def leave(self) -> None:
        """Tells who waits that the hive is left while the task goes on."""
        self._hive.forget(self)
        hint = f"It goes on; hive.job({self.job.id!r}) finds it when you are back."
        self.job.fail(ConfigurationError("this hive was closed before the job had ended", hint=hint))

    def _cancel(self) -> None:
        if self.end_work is not None:
            self.end_work()
        self._hive.forget(self)

    def moved(self, state: TaskState, peer: PeerId | None) -> None:
        """Its state has changed."""
        self.job.moved(state.name, peer)

    def printed(self, data: bytes) -> None:
        """It has printed something."""
        self.job.printed(data)

    def ended(self, result: TaskResult) -> None:
        """It gave a result."""
        self._hive.forget(self)
        self.job.verdict = result.verdict
        seconds = result.usage.wall_seconds
        self.job.complete(result.value, peer=result.peer, cost=result.cost, output=result.output, wall_seconds=seconds)

    def failed(self, error: BaseException) -> None:
        """It did not."""
        self._hive.forget(self)
        self.job.fail(error)
