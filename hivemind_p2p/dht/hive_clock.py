"""The time that the hive goes by: this machine's clock, put right where the seeds say that it is far off.

Records expire by the clock. A machine that is an hour behind would sign offers that are expired wherever they arrive,
and one that is ahead would take everybody's for expired; so dates are signed and judged by the clock of the
bootstrap, which the hive trusts anyway, as soon as the two are further apart than records notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hivemind_p2p.interfaces import Clock

if TYPE_CHECKING:
    from hivemind_p2p.net.clock import ClockDifference

TOLERATED = 2.0
"""Seconds that two clocks may differ without a correction: the shortest records live fifteen times as long."""


class HiveClock:
    """Seconds since the epoch, as the hive counts them.

    Args:
        clock: This machine's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.correction = 0.0

    def __call__(self) -> float:
        """Now."""
        return self._clock() + self.correction

    @property
    def machine(self) -> Clock:
        """The clock without its correction."""
        return self._clock

    def correct(self, difference: ClockDifference) -> bool:
        """Takes what a seed said of the machine's clock; returns whether the correction has changed by much."""
        off = -difference.ahead
        wanted = off if abs(off) > max(TOLERATED, difference.uncertainty) else 0.0
        if abs(wanted - self.correction) <= TOLERATED:
            return False
        self.correction = wanted
        return True
