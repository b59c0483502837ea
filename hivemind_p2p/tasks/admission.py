"""What a worker takes into its line, given what lies there. No clock, no network.

The line is shared among accounts: one that has filled it does not shut out others, which may have their part of it
besides. Callers that belong to no account count as one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from hivemind_p2p.errors import BusyError, TaskRefusedError
from hivemind_p2p.types import Needs, Offer, PeerId

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


@dataclass(frozen=True, slots=True)
class Lent:
    """What a worker lends to tasks.

    Attributes:
        cpus: Cores.
        memory_bytes: For all tasks that run at once.
        gpus: How many.
        gpu_memory_bytes: Of each.
        disk_bytes: What one task may write.
        network: Whether tasks that ask for it may use the network.
    """

    cpus: float
    memory_bytes: int
    gpus: int = 0
    gpu_memory_bytes: int = 0
    disk_bytes: int = 0
    network: bool = False

    @classmethod
    def of(cls, offer: Offer) -> Lent:
        """What an offer says."""
        return cls(offer.cpus, offer.memory_bytes, offer.gpus, offer.gpu_memory_bytes, offer.disk_bytes, offer.network)

    def lacks(self, needs: Needs) -> str:
        """What a task asks for beyond it, as a sentence; empty if nothing."""
        asked = (
            ("cpus", needs.cpus, self.cpus),
            ("bytes of memory", needs.memory_bytes, self.memory_bytes),
            ("GPUs", needs.gpus, self.gpus),
            ("bytes of memory on each GPU", needs.gpu_memory_bytes, self.gpu_memory_bytes),
            ("bytes on the disk", needs.disk_bytes, self.disk_bytes),
        )
        lacking = next((what for what in asked if what[1] > what[2]), None)
        if lacking is None:
            alone = needs.network and not self.network
            return "it needs the network, and this peer does not lend its own" if alone else ""
        what, wanted, lent = lacking
        return f"it needs {_number(wanted)} {what}, and this peer lends {_number(lent)}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


class Admission:
    """Says whether a task is taken.

    Args:
        lent: What is lent.
    """

    def __init__(self, lent: Lent) -> None:
        self._lent = lent
        self._cpus = lent.cpus
        self._of_caller: dict[PeerId, int] = {}
        self._account_of: dict[PeerId, str] = {}
        self.waiting = 0
        self.waiting_bytes = 0

    def belongs(self, caller: PeerId, account: str) -> None:
        """Says whose a caller is; empty for nobody's."""
        self._account_of[caller] = account

    def forget(self, caller: PeerId) -> None:
        """A caller is gone."""
        if caller not in self._of_caller:
            self._account_of.pop(caller, None)

    def check(self, needs: Needs, size: int, seconds: float | None, caller: PeerId) -> None:
        """Whether one more task is taken.

        Args:
            needs: What it asks for.
            size: Bytes of it.
            seconds: How long such tasks take; None while that is not known.
            caller: Who asks.

        Raises:
            TaskRefusedError: It asks for more than is lent at all.
            BusyError: The line is full.
        """
        if lacking := self._lent.lacks(needs):
            raise TaskRefusedError(lacking)
        longest = self._longest(seconds)
        full = self.waiting >= longest and not self._has_part_left(caller, longest)
        if full or self.waiting_bytes + size > MOST_WAITING_BYTES:
            raise BusyError(f"{self.waiting} tasks are waiting here already")

    def _has_part_left(self, caller: PeerId, longest: int) -> bool:
        """Whether a full line is full of others' tasks, so that this account's part of it is still to be had."""
        account = self._account_of.get(caller, "")
        counts: Counter[str] = Counter({account: 0})
        for each, count in self._of_caller.items():
            counts[self._account_of.get(each, "")] += count
        return counts[account] < longest // len(counts) and self.waiting < 2 * longest

    def _longest(self, seconds: float | None) -> int:
        least = max(LEAST_QUEUE, int(QUEUE * self._cpus))
        if seconds is None:
            return least
        return min(MOST_WAITING, max(least, int(self._cpus * LONGEST_LINE / max(seconds, 1e-5))))

    def enter(self, size: int, caller: PeerId) -> None:
        """A task has been taken."""
        self._of_caller[caller] = self._of_caller.get(caller, 0) + 1
        self.waiting += 1
        self.waiting_bytes += size

    def leave(self, size: int, caller: PeerId) -> None:
        """It has ended, or was given up."""
        if left := self._of_caller[caller] - 1:
            self._of_caller[caller] = left
        else:
            del self._of_caller[caller]
        self.waiting -= 1
        self.waiting_bytes -= size
