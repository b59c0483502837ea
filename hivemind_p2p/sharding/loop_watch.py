"""How long the network's loop was busy at a stretch, measured from inside.

While the loop is busy nothing is received, sent or answered, so a stage must never compute in it. What counts is the
time from the moment at which the loop learns of events until it waits for the next ones.
"""

from __future__ import annotations

import math
import time

import trio

SLOTS_A_DOUBLING = 4
"""How fine the histogram is: a fourth of a doubling, 19 %."""

SHORTEST = 1e-5
"""Seconds; whatever is shorter is not told apart."""

SLOTS = 100


class LoopWatch(trio.abc.Instrument):
    """A histogram of the stretches for which a loop was busy; `trio.lowlevel.add_instrument` takes it."""

    def __init__(self) -> None:
        self._counts = [0] * SLOTS
        self._total = 0
        self._woke: float | None = None

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - the interface is trio's
        """The loop goes to work."""
        self._woke = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - the interface is trio's
        """The loop has nothing to do."""
        if self._woke is not None:
            self.note(time.perf_counter() - self._woke)

    def note(self, seconds: float) -> None:
        """Counts one stretch."""
        slot = 0 if seconds <= SHORTEST else int(math.log2(seconds / SHORTEST) * SLOTS_A_DOUBLING) + 1
        self._counts[min(slot, SLOTS - 1)] += 1
        self._total += 1

    def quantile(self, share: float) -> float:
        """Seconds that this share of all stretches did not exceed, rounded up to the histogram's next step."""
        left = math.ceil(share * self._total)
        for slot, count in enumerate(self._counts):
            left -= count
            if left <= 0:
                return float(SHORTEST * 2 ** (slot / SLOTS_A_DOUBLING)) if self._total else 0.0
        return 0.0


__all__ = ["LoopWatch"]
