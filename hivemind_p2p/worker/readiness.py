"""Decides whether a peer takes tasks now, and if not, why not. No clock, no measuring: both are handed in.

Four things close it: its user has paused it; it is leaving; these are not its hours; somebody else needs the machine.
What runs when it closes goes on to its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from hivemind_p2p.worker.schedule import DAYS, MINUTES_OF_DAY, Hours

BUSY_SHARE: Final = 0.25
"""Of all cores together, kept busy by other programs: more than an open browser takes, less than somebody at work."""

BUSY_SECONDS: Final = 10.0
"""How long others have to be busy before it closes, so that a mail program's look at the server does not do it."""

CALM_SECONDS: Final = 120.0
"""How long they have to be calm before it opens again: somebody who reads comes back."""


class State(StrEnum):
    """Whether a peer takes tasks."""

    OPEN = "open"
    PAUSED = "paused"
    LEAVING = "leaving"
    OFF_HOURS = "off hours"
    IN_USE = "in use"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided.

    Attributes:
        state: Whether it takes tasks.
        reason: Why not, as the rest of a sentence that begins with "this peer takes no tasks now:"; empty if it does.
    """

    state: State = State.OPEN
    reason: str = ""


class Readiness:
    """Whether tasks are taken.

    Args:
        hours: When.
        only_when_idle: Whether other programs on the machine go first.
    """

    def __init__(self, hours: Hours | None = None, *, only_when_idle: bool = False) -> None:
        self._hours = hours or Hours()
        self._only_when_idle = only_when_idle
        self._paused = self._leaving = False
        self._in_use = only_when_idle  # until it has been calm for a while
        self._busy_since = math.inf
        self._calm_since = math.inf

    def pause(self) -> None:
        """The user says: no more tasks."""
        self._paused = True

    def resume(self) -> None:
        """The user takes that back."""
        self._paused = False

    def leave(self) -> None:
        """The peer is about to end. That cannot be taken back."""
        self._leaving = True

    def observe(self, others: float, now: float) -> None:
        """Other programs keep this share of all cores busy."""
        if others > BUSY_SHARE:
            self._calm_since = math.inf
            self._busy_since = min(self._busy_since, now)
            self._in_use = self._in_use or now - self._busy_since >= BUSY_SECONDS
        else:
            self._busy_since = math.inf
            self._calm_since = min(self._calm_since, now)
            self._in_use = self._in_use and now - self._calm_since < CALM_SECONDS

    def verdict(self, day: int, minute: int) -> Verdict:
        """What holds at this minute of this day of the week, Monday being 0, local time."""
        if self._leaving:
            return Verdict(State.LEAVING, "it is about to end")
        if self._paused:
            return Verdict(State.PAUSED, "its user has paused it")
        if not self._hours.open_at(day, minute):
            return Verdict(State.OFF_HOURS, f"it lends at other hours, from {self._opens(day, minute)} on")
        if self._only_when_idle and self._in_use:
            return Verdict(State.IN_USE, "its machine is in use")
        return Verdict()

    def _opens(self, day: int, minute: int) -> str:
        then = day * MINUTES_OF_DAY + minute + self._hours.minutes_to_change(day, minute)
        opening_day, opening_minute = divmod(then % (7 * MINUTES_OF_DAY), MINUTES_OF_DAY)
        return f"{DAYS[opening_day]} {opening_minute // 60:02}:{opening_minute % 60:02}"
