"""What a worker takes into its line, given what lies there. No clock, no network."""

from __future__ import annotations

from typing import Final

from hivemind_p2p.errors import BusyError, TaskRefusedError
from hivemind_p2p.types import Needs

QUEUE: Final = 4
"""Waiting tasks for each cpu lent: enough that several callers keep a machine busy, few enough that none waits long."""

LEAST_QUEUE: Final = 8
"""Waiting tasks that even the smallest machine takes."""

LONGEST_LINE: Final = 1.0
"""Seconds of work for each cpu lent that are taken into the line, where tasks are so short that this is more."""

MOST_WAITING: Final = 8192
"""Waiting tasks at most."""

MOST_WAITING_BYTES: Final = 256 << 20
"""Bytes of packed tasks that wait, and of shared parts; each caller keeps its own copy until a task has ended."""


class Admission:
    """Says whether a task is taken.

    Args:
        cpus: Cores lent.
        memory_bytes: Memory lent.
    """

    def __init__(self, cpus: float, memory_bytes: int) -> None:
        self._cpus = cpus
        self._memory = memory_bytes
        self.waiting = 0
        self.waiting_bytes = 0

    def check(self, needs: Needs, size: int, seconds: float | None) -> None:
        """Whether one more task is taken.

        Args:
            needs: What it asks for.
            size: Bytes of it.
            seconds: How long such tasks take; None while that is not known.

        Raises:
            TaskRefusedError: It asks for more than is lent at all.
            BusyError: The line is full.
        """
        if needs.cpus > self._cpus:
            raise TaskRefusedError(f"it needs {needs.cpus:g} cpus, and this peer lends {self._cpus:g}")
        if needs.memory_bytes > self._memory:
            raise TaskRefusedError(
                f"it needs {needs.memory_bytes:,} bytes of memory, and this peer lends {self._memory:,}"
            )
        if self.waiting >= self._longest(seconds) or self.waiting_bytes + size > MOST_WAITING_BYTES:
            raise BusyError(f"{self.waiting} tasks are waiting here already")

    def _longest(self, seconds: float | None) -> int:
        least = max(LEAST_QUEUE, int(QUEUE * self._cpus))
        if seconds is None:
            return least
        return min(MOST_WAITING, max(least, int(self._cpus * LONGEST_LINE / max(seconds, 1e-5))))

    def enter(self, size: int) -> None:
        """A task has been taken."""
        self.waiting += 1
        self.waiting_bytes += size

    def leave(self, size: int) -> None:
        """It has ended, or was given up."""
        self.waiting -= 1
        self.waiting_bytes -= size
