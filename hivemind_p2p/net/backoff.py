"""When to dial a lost peer again: soon at first, then ever more rarely, and never all at the same moment.

Each failure doubles the longest wait, up to `MOST`; the wait itself is drawn anywhere between zero and that ("full
jitter": of the ways to spread callers out it takes the fewest calls until all are back; M. Brooker, "Exponential
Backoff And Jitter", 2015). So the peers of a bootstrap that is started again come back over seconds, not at once.

A connection that lives only for a moment is a failure as well: a peer that accepts and hangs up again would otherwise
be dialled without end. Only after `STABLE` seconds is it taken for one that works.

Pure: `now` and the randomness come from the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

FIRST: Final = 0.5
"""Seconds that the first wait takes at most: a lost connection is mostly a short thing."""

MOST: Final = 60.0
"""Seconds that any wait takes at most: a laptop that comes back from a train finds its hive within a minute."""

STABLE: Final = 30.0
"""Seconds after which a connection counts as one that works."""

DOUBLINGS: Final = 64
"""After so many failures counting on changes nothing, and a float would overflow in the end."""


class Backoff:
    """One peer that should be connected.

    Args:
        random: Numbers from 0 to 1, evenly spread: `random.random` in production.
        first: Seconds of the first wait at most.
        most: Seconds of any wait at most.
        stable: Seconds after which a connection counts as one that works.

    Attributes:
        failures: Failures in a row.
        next_try: When to dial; minus infinity for at once, infinity while it is connected.

    Example:
        >>> backoff = Backoff(lambda: 0.5)
        >>> backoff.failed(now=10.0), backoff.failed(now=11.0)
        (10.25, 11.5)
    """

    def __init__(
        self, random: Callable[[], float], *, first: float = FIRST, most: float = MOST, stable: float = STABLE
    ) -> None:
        if not 0 < first <= most:
            raise ValueError(f"a first wait of up to {first:g} s does not fit a longest one of {most:g} s")
        self._random = random
        self._first = first
        self._most = most
        self._stable = stable
        self._since: float | None = None
        self.failures = 0
        self.next_try = -math.inf

    def may_try(self, now: float) -> bool:
        """Whether it is time to dial."""
        return now >= self.next_try

    def connected(self, now: float) -> None:
        """A dial has succeeded."""
        self._since = now
        self.next_try = math.inf

    def failed(self, now: float) -> float:
        """A dial has failed; returns when to try again."""
        self._since = None
        self.next_try = now + self._random() * min(self._most, self._first * 2.0**self.failures)
        self.failures = min(self.failures + 1, DOUBLINGS)
        return self.next_try

    def lost(self, now: float) -> float:
        """The connection has ended; returns when to try again."""
        if self._since is not None and now - self._since >= self._stable:
            self.failures = 0
        return self.failed(now)

    def reset(self) -> None:
        """Something says that it will work now: another network, or a call from that peer. Dials at once."""
        self.failures = 0
        self._since = None
        self.next_try = -math.inf
