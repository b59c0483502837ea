"""Whether the other side of a connection still lives: silence is met with a ping, and more silence with the end.

A killed process has its sockets closed by its system, but one that is stopped, or whose machine has lost its
network, says nothing at all, and TCP waits for it for minutes. So a connection that was silent for `INTERVAL` is
pinged, and is dead when nothing at all has come within `patience`: 3 s from the last byte at the most.

Anything that comes is a sign of life, not only the answer: a peer that sends at full speed is not pinged. And a peer
does not bury others because it was itself stopped or busy: `SteadyClock` counts no more than `LONGEST_STEP` of a
pause in its own loop.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

TICK: Final = 0.25
"""Seconds between two looks at all connections."""

INTERVAL: Final = 0.75
"""Seconds of silence after which a connection in use is pinged."""

LEAST_PATIENCE: Final = 1.0
"""Seconds that a pinged peer has at the least: its loop may be busy, and a shared machine may be slow."""

MOST_PATIENCE: Final = 1.75
"""Seconds that a pinged peer has at the most, so that interval, patience and two ticks stay within 3 s."""

LONGEST_STEP: Final = 2 * TICK
"""Seconds that one pause of this peer's own loop counts for at the most."""

IDLE_PINGS: Final = 8.0
"""Pings a second for all connections that nobody uses: with more than six, each is pinged less often. Both sides ping,
and a ping costs them 0.2 ms together: with 64, sixty idle peers of a machine kept one of its cores half busy."""

LONGEST_INTERVAL: Final = 30.0
"""Seconds: whoever uses a connection that died meanwhile finds out within 3 s, so this need only be soon."""


class Verdict(Enum):
    """What to do about a connection now."""

    WAIT = auto()
    PING = auto()
    DEAD = auto()


class SteadyClock:
    """Seconds during which this peer's loop was running: a long pause of its own counts as a short one."""

    def __init__(self, now: float) -> None:
        self._last = now
        self._lost = 0.0

    def read(self, now: float) -> float:
        """The time, to be read every `TICK`."""
        self._lost += max(0.0, now - self._last - LONGEST_STEP)
        self._last = now
        return now - self._lost

    @property
    def lost(self) -> float:
        """Seconds that this peer's own loop has stood still in all."""
        return self._lost


class Heartbeat:
    """The state of one connection. All times are a `SteadyClock`'s.

    Args:
        now: When the connection was opened.
    """

    def __init__(self, now: float) -> None:
        self._heard_at = now
        self._mark = 0.0
        self._pinged_at: float | None = None

    def look(self, now: float, *, mark: float, interval: float = INTERVAL, rtt: float | None = None) -> Verdict:
        """Judges the connection.

        Args:
            now: The time.
            mark: Something that changes with each byte received, such as when the last one came: a sign of life.
            interval: Seconds of silence that are in order.
            rtt: Its round trip in seconds, if it was measured.
        """
        if mark != self._mark:
            self._mark, self._heard_at, self._pinged_at = mark, now, None
            return Verdict.WAIT
        if self._pinged_at is not None:
            return Verdict.DEAD if now - self._pinged_at >= patience(rtt) else Verdict.WAIT
        if now - self._heard_at < interval:
            return Verdict.WAIT
        self._pinged_at = now
        return Verdict.PING

    def silent_for(self, now: float) -> float:
        """Seconds since something was heard."""
        return now - self._heard_at


def patience(rtt: float | None) -> float:
    """Seconds that a pinged peer has to answer: eight of its round trips, within bounds."""
    return min(MOST_PATIENCE, max(LEAST_PATIENCE, 8 * (rtt or 0.0)))


def idle_interval(connections: int) -> float:
    """Seconds of silence that are in order on a connection on which nobody waits, by how many there are."""
    return min(max(INTERVAL, connections / IDLE_PINGS), LONGEST_INTERVAL)
