"""A transfer in words and signs, for bars in terminals and notebooks: how much, how fast, how long, which pieces."""

from __future__ import annotations

from collections import deque
from itertools import groupby

from hivemind_p2p.types import FetchProgress

WINDOW = 5.0
"""Seconds over which a rate is taken: long enough to stand still, short enough to follow."""

LONGEST = 99 * 3600.0
"""Seconds above which nobody is told how long it takes."""

_SIGNS = ((0, "·"), (127, "░"), (254, "▓"), (255, "█"))
"""The highest share that each sign stands for, from 0 to 255."""


class Rate:
    """Bytes a second over the last seconds.

    Args:
        now: Seconds on any clock that only moves forward; all later `now` are on the same one.
        done: Bytes that were there before.
    """

    def __init__(self, now: float, done: int = 0) -> None:
        self._seen: deque[tuple[float, int]] = deque([(now, done)])

    def seen(self, now: float, done: int) -> None:
        """So many bytes are there by now."""
        if now > self._seen[-1][0]:
            self._seen.append((now, done))
        else:
            self._seen[-1] = (now, done)

    def per_second(self, now: float) -> float:
        """The rate now; zero where nothing has come for a while."""
        while len(self._seen) > 1 and self._seen[1][0] <= now - WINDOW:
            self._seen.popleft()
        since, done = self._seen[0]
        return (self._seen[-1][1] - done) / (now - since) if now > since else 0.0


def amount(size: float) -> str:
    """Bytes for people.

    Example:
        >>> amount(1536), amount(5 * 2**30)
        ('1.5 KiB', '5.0 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def part(done: int, wanted: int) -> str:
    """Bytes of bytes, in one unit.

    Example:
        >>> part(3 * 2**20, 256 * 2**20)
        '3.0 of 256.0 MiB'
    """
    number, unit = amount(wanted).split(" ")
    scale = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}[unit]
    return f"{done / scale:.{0 if unit == 'B' else 1}f} of {number} {unit}"


def duration(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> duration(9.6), duration(75), duration(3 * 3600 + 62)
        ('10 s', '1:15 min', '3:01 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


def counted(count: int, what: str) -> str:
    """A number of things."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def signs(pieces: bytes, width: int) -> str:
    """A map of pieces as a row of signs, at most `width` of them."""
    if not pieces:
        return ""
    width = min(width, len(pieces))
    return "".join(
        _sign(pieces[cell * len(pieces) // width : (cell + 1) * len(pieces) // width]) for cell in range(width)
    )


def _sign(shares: bytes) -> str:
    share = min(254, sum(shares) // len(shares)) if min(shares) < 255 else 255
    # What has begun shows, however little it is.
    share = max(share, 1 if any(shares) else 0)
    return next(sign for highest, sign in _SIGNS if share <= highest)


def runs(pieces: bytes) -> list[tuple[float, float, float]]:
    """A map of pieces as runs of equal shares: where each begins, how wide it is (percent), and its share (0 to 1)."""
    found: list[tuple[float, float, float]] = []
    at = 0
    for share, cells in groupby(pieces):
        width = len(list(cells))
        if share:
            found.append((100 * at / len(pieces), 100 * width / len(pieces), share / 255))
        at += width
    return found


class FetchWords:
    """What to say of a fetch.

    Args:
        now: When it began.
    """

    def __init__(self, now: float) -> None:
        self.progress = FetchProgress(0, 0, 0)
        self._began_at = now
        self._rate: Rate | None = None
        self._had_bytes = 0
        self._sources = 0

    def told(self, progress: FetchProgress, now: float) -> None:
        """The fetch is this far."""
        self.progress = progress
        self._sources = max(self._sources, progress.sources)
        if self._rate is None:
            self._rate, self._had_bytes = Rate(now, progress.done_bytes), progress.done_bytes
        self._rate.seen(now, progress.done_bytes)

    @property
    def title(self) -> str:
        """What is under way."""
        return f"fetching {self.progress.name}".rstrip()

    @property
    def fraction(self) -> float:
        """How far it is, from 0 to 1."""
        return self.progress.done_bytes / self.progress.wanted_bytes if self.progress.wanted_bytes else 0.0

    @property
    def amount(self) -> str:
        """How much of it is there; empty before anything is known."""
        return part(self.progress.done_bytes, self.progress.wanted_bytes) if self._rate is not None else ""

    def speed(self, now: float) -> str:
        """How fast it goes, from how many, and how long it will take; or why it waits."""
        if self._rate is None:
            return "looking for sources"
        if self.progress.paused:
            return f"paused: {self.progress.paused}. It goes on by itself once there is room"
        left = self.progress.wanted_bytes - self.progress.done_bytes
        if left and not self.progress.sources:
            return "looking for sources"
        rate = self._rate.per_second(now)
        text = f"{amount(rate)}/s from {counted(self.progress.sources, 'source')}"
        if left and rate and left / rate < LONGEST:
            text += f", {duration(left / rate)} left"
        return text

    def summary(self, now: float) -> str:
        """What it was, once it is over."""
        came = self.progress.done_bytes - self._had_bytes
        took = now - self._began_at
        if not came:
            return f"{amount(self.progress.wanted_bytes)}, all of it was here" if self.fraction == 1 else self.amount
        rate = f"{amount(came)} in {duration(took) if took >= 10 else f'{took:.1f} s'}, {amount(came / took)}/s"
        return f"{rate} from {counted(self._sources, 'source')}" if took > 0 else amount(came)
