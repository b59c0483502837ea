"""Rate limits as token buckets: how long to wait before, or after, moving some bytes.

A bucket fills at its rate up to a second's worth. Who takes more than is there runs up a debt and waits until it is
paid, so a block larger than the bucket passes as well, and the rate holds over time.
"""

from __future__ import annotations

BURST = 1.0
"""Seconds of the rate that a bucket holds: what was not used before may be made up for."""


class TokenBucket:
    """One limit, shared by all that it holds for.

    Args:
        rate: Bytes a second; None or 0 for no limit.
    """

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate or None
        self._tokens = (rate or 0.0) * BURST
        self._at: float | None = None

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.rate is not None

    def take(self, amount: int, now: float) -> float:
        """Takes `amount` bytes.

        Returns:
            Seconds to wait until they may move.
        """
        if self.rate is None:
            return 0.0
        elapsed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._tokens = min(self._tokens + elapsed * self.rate, self.rate * BURST) - amount
        return max(0.0, -self._tokens / self.rate)
