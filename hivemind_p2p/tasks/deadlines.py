"""Ends tasks that are not done in time: one task of the loop for all of them, and none while nobody has a deadline."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from hivemind_p2p.tasks.course import Course


class Deadlines:
    """Calls `late` with each task at its deadline, whether it has ended or not.

    Args:
        nursery: Where the clock is watched.
        late: What to call; it looks whether the task is still there.
    """

    def __init__(self, nursery: trio.Nursery, late: Callable[[Course], None]) -> None:
        self._nursery = nursery
        self._late = late
        self._heap: list[tuple[float, int, Course]] = []
        self._numbers = itertools.count()
        self._watching: trio.CancelScope | None = None

    def add(self, course: Course, at: float) -> None:
        """Watches one more task."""
        heapq.heappush(self._heap, (at, next(self._numbers), course))
        if self._watching is None:
            self._nursery.start_soon(self._watch)
            self._watching = trio.CancelScope()
        elif self._heap[0][2] is course:
            self._watching.cancel()

    async def _watch(self) -> None:
        while self._heap:
            with trio.CancelScope() as scope:
                self._watching = scope
                await trio.sleep_until(self._heap[0][0])
            while self._heap and self._heap[0][0] <= trio.current_time():
                self._late(heapq.heappop(self._heap)[2])
        self._watching = None
