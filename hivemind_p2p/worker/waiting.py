"""Waits for one piece of work, for who has no use for many at once."""

from __future__ import annotations

from typing import Protocol

import trio

from hivemind_p2p import errors
from hivemind_p2p.errors import SandboxError, TaskRefusedError
from hivemind_p2p.interfaces import WorkListener
from hivemind_p2p.types import Outcome, Work


class Takes(Protocol):
    """What an executor has for it."""

    def submit(self, work: Work, listener: WorkListener) -> None:
        """Puts work in the line."""

    def go_on(self) -> None:
        """Starts what can be started."""

    def cancel(self, work: Work) -> None:
        """Takes it out again."""


class OneWork:
    """One piece of work; a `WorkListener`."""

    def __init__(self, executor: Takes, work: Work) -> None:
        self._executor = executor
        self._work = work
        self._ended = trio.Event()
        self._outcome: Outcome | None = None

    async def outcome(self, cpus: float, memory_bytes: int) -> Outcome:
        """Runs it to the end, within these limits; cancelling the call kills it.

        Raises:
            TaskRefusedError: It asks for more.
            SandboxError: No child could be started for it.
        """
        check(self._work, cpus, memory_bytes)
        self._executor.submit(self._work, self)
        self._executor.go_on()
        try:
            await self._ended.wait()
        finally:
            self._executor.cancel(self._work)
        assert self._outcome is not None
        if self._outcome.error_code == SandboxError.code():
            raise errors.from_code(self._outcome.error_code, self._outcome.error_message)
        return self._outcome

    def started(self, work: Work) -> None:
        """Says nothing."""

    def printed(self, work: Work, data: bytes) -> None:
        """Says nothing."""

    def ended(self, work: Work, outcome: Outcome) -> None:  # noqa: ARG002 - there is only one
        """The end."""
        self._outcome = outcome
        self._ended.set()


def check(work: Work, cpus: float, memory_bytes: int) -> None:
    """Refuses what could never run.

    Raises:
        TaskRefusedError: It asks for more cpus or memory than this.
    """
    if work.needs.cpus > cpus:
        raise TaskRefusedError(f"it needs {work.needs.cpus:g} cpus, and this peer lends {cpus:g}")
    if work.needs.memory_bytes > memory_bytes:
        raise TaskRefusedError(
            f"it needs {work.needs.memory_bytes:,} bytes of memory, and this peer lends {memory_bytes:,}"
        )
