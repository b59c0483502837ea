"""When to try a peer again that did not answer: soon at first, then ever more rarely, and never all at one moment.

Each failure doubles the longest wait, up to a bound; the wait itself is drawn anywhere between zero and that ("full
jitter": of the ways to spread callers out it takes the fewest calls until all are back; M. Brooker, "Exponential
Backoff And Jitter", 2015). So the peers of a bootstrap that is started again come back over seconds, not at once.

Pure: `now` and the randomness come from the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

DOUBLINGS: Final = 64
"""After so many failures counting on changes nothing, and a float would overflow in the end."""


class Backoff:
    """One peer that should be reached.

    Args:
        random: Numbers from 0 to 1, evenly spread: `random.random` in production.
        first: Seconds of the first wait at most.
        most: Seconds of any wait at most.

    Attributes:
        failures: Failures in a row.
        next_try: When to try; minus infinity for at once.

    Example:
        >>> backoff = Backoff(lambda: 0.5, first=0.5, most=60)
        >>> backoff.failed(now=10.0), backoff.failed(now=11.0)
        (10.25, 11.5)
    """

    def __init__(self, random: Callable[[], float], *, first: float, most: float) -> None:
        if not 0 < first <= most:
            raise ValueError(f"a first wait of up to {first:g} s does not fit a longest one of {most:g} s")
        self._random = random
        self._first = first
        self._most = most
        self.failures = 0
        self.next_try = -math.inf

    def failed(self, now: float) -> float:
        """A try has failed; returns when to try again."""
        self.next_try = now + self._random() * min(self._most, self._first * 2.0**self.failures)
        self.failures = min(self.failures + 1, DOUBLINGS)
        return self.next_try

    def reset(self) -> None:
        """It has worked, or something says that it will now: the next try is at once."""
        self.failures = 0
        self.next_try = -math.inf
