"""The worker's own waiting line: what may start now, given what runs. No clock, no network."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from hivemind_p2p.errors import BusyError, TaskRefusedError
from hivemind_p2p.types import Needs

QUEUE: Final = 4
"""Waiting tasks for each cpu lent: enough that several callers keep a machine busy, few enough that none waits long."""

LEAST_QUEUE: Final = 8
"""Waiting tasks that even the smallest machine takes."""


class Admission:
    """First come, first served, within the cpus and the memory that are lent.

    Args:
        cpus: Cores lent.
        memory_bytes: Memory lent.
    """

    def __init__(self, cpus: float, memory_bytes: int) -> None:
        self._cpus = cpus
        self._memory = memory_bytes
        self._free_cpus = cpus
        self._free_memory = memory_bytes
        self._waiting: OrderedDict[int, Needs] = OrderedDict()
        self._longest = max(LEAST_QUEUE, int(QUEUE * cpus))

    @property
    def waiting(self) -> int:
        """Tasks that wait."""
        return len(self._waiting)

    def submit(self, ticket: int, needs: Needs) -> None:
        """Puts a task in the line.

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
        if len(self._waiting) >= self._longest:
            raise BusyError(f"{len(self._waiting)} tasks are waiting here already")
        self._waiting[ticket] = needs

    def withdraw(self, ticket: int) -> None:
        """Takes a waiting task out; does nothing for one that has started."""
        self._waiting.pop(ticket, None)

    def start(self) -> list[int]:
        """The tickets that may start now, in order. The first that does not fit holds up those behind it."""
        started = []
        for ticket, needs in list(self._waiting.items()):
            if needs.cpus > self._free_cpus + 1e-9 or needs.memory_bytes > self._free_memory:
                break
            del self._waiting[ticket]
            self._free_cpus -= needs.cpus
            self._free_memory -= needs.memory_bytes
            started.append(ticket)
        return started

    def finish(self, needs: Needs) -> None:
        """Gives back the room of a task that had started."""
        self._free_cpus += needs.cpus
        self._free_memory += needs.memory_bytes
