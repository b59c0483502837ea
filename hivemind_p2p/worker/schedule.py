"""The hours of the week in which a peer lends: ``mon-fri 20:00-07:00, sat-sun``. No clock: the time is handed in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from hivemind_p2p.errors import ConfigurationError

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""Monday is 0, as in `datetime.weekday`."""

MINUTES_OF_DAY: Final = 24 * 60
_MINUTES_OF_WEEK: Final = 7 * MINUTES_OF_DAY
_HINT: Final = "Write it like this: mon-fri 20:00-07:00, sat-sun (local time; several parts with commas between)."
_PART: Final = re.compile(
    r"(?:(?P<first>[a-z]{3})(?:-(?P<last>[a-z]{3}))?)?\s*"
    r"(?:(?P<start>\d{1,2}:\d{2})\s*-\s*(?P<stop>\d{1,2}:\d{2}))?"
)


@dataclass(frozen=True, slots=True)
class Span:
    """Minutes ``[start, stop)`` of the days on which it begins; past midnight where `stop` is not after `start`."""

    days: frozenset[int]
    start: int
    stop: int

    def __contains__(self, moment: tuple[int, int]) -> bool:
        day, minute = moment
        if self.start < self.stop:
            return day in self.days and self.start <= minute < self.stop
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.stop)


@dataclass(frozen=True, slots=True)
class Hours:
    """When a peer lends; without any span, always."""

    spans: tuple[Span, ...] = ()

    def open_at(self, day: int, minute: int) -> bool:
        """Whether it lends at this minute of this day of the week."""
        return not self.spans or any((day, minute) in span for span in self.spans)

    def minutes_to_change(self, day: int, minute: int) -> int:
        """Minutes until it opens or closes next; 0 if it never does."""
        now = self.open_at(day, minute)
        at = day * MINUTES_OF_DAY + minute
        edges = {begin * MINUTES_OF_DAY + edge for span in self.spans for begin in span.days for edge in _edges(span)}
        for distance in sorted((edge - at) % _MINUTES_OF_WEEK or _MINUTES_OF_WEEK for edge in edges):
            then = (at + distance) % _MINUTES_OF_WEEK
            if self.open_at(*divmod(then, MINUTES_OF_DAY)) != now:
                return distance
        return 0


def _edges(span: Span) -> tuple[int, int]:
    return span.start, span.stop if span.start < span.stop else span.stop + MINUTES_OF_DAY


def parse(text: str) -> Hours:
    """Hours as the settings write them; empty text is always.

    Raises:
        ConfigurationError: It cannot be understood.
    """
    parts = [part.strip() for part in text.lower().split(",") if part.strip()]
    return Hours(tuple(_span(part) for part in parts))


def _span(part: str) -> Span:
    match = _PART.fullmatch(part)
    if match is None:
        raise ConfigurationError(f"not hours of the week: {part!r}", hint=_HINT)
    first, last, start, stop = match.group("first", "last", "start", "stop")
    begin, end = (_minute(start), _minute(stop)) if start else (0, MINUTES_OF_DAY)
    if begin == end:
        raise ConfigurationError(f"hours that end when they begin: {part!r}", hint=_HINT)
    return Span(_days(first, last), begin, end)


def _days(first: str | None, last: str | None) -> frozenset[int]:
    if first is None:
        return frozenset(range(7))
    for name in (first, last or first):
        if name not in DAYS:
            raise ConfigurationError(f"not a day of the week: {name!r}", hint=_HINT)
    start, stop = DAYS.index(first), DAYS.index(last or first)
    return frozenset((start + offset) % 7 for offset in range((stop - start) % 7 + 1))


def _minute(text: str) -> int:
    hour, minute = map(int, text.split(":"))
    if minute > 59 or hour * 60 + minute > MINUTES_OF_DAY:
        raise ConfigurationError(f"not a time of day: {text!r}", hint=_HINT)
    return hour * 60 + minute
