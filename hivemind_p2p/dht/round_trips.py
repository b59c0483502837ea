"""How long an answer takes, and from when on it is worth asking somebody else as well.

Source: RFC 6298 (the smoothed round trip and its variation, as TCP keeps them).
"""

from __future__ import annotations

SHORTEST_PATIENCE = 0.25
"""Seconds: below this a busy machine looks like a dead one."""

LONGEST_PATIENCE = 1.0
"""Seconds: ten times what a healthy peer far away takes."""


class RoundTrips:
    """The round trips of one peer's requests, all peers together."""

    def __init__(self) -> None:
        self._smoothed: float | None = None
        self._variation = 0.0

    def took(self, seconds: float) -> None:
        """Notes a round trip."""
        if self._smoothed is None:
            self._smoothed, self._variation = seconds, seconds / 2
            return
        self._variation += (abs(self._smoothed - seconds) - self._variation) / 4
        self._smoothed += (seconds - self._smoothed) / 8

    @property
    def smoothed(self) -> float | None:
        """Seconds of a round trip; None before the first."""
        return self._smoothed

    @property
    def patience(self) -> float:
        """Seconds after which an answer is late: twice what TCP would wait before it sends again, within bounds."""
        if self._smoothed is None:
            return LONGEST_PATIENCE
        late = 2 * (self._smoothed + 4 * self._variation)
        return min(max(late, SHORTEST_PATIENCE), LONGEST_PATIENCE)
