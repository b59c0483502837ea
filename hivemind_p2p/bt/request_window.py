"""How many bytes to have on their way from one source: twice what its bandwidth and delay have room for.

As BBR does (N. Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016): the most that was delivered in a
second and the shortest time that an answer took are measured apart, and their product is what the way holds. Twice
that keeps it full. At the start the measured product grows with the window, so the window doubles with each round
trip until the source or the way has no more to give.
"""

from __future__ import annotations

from dataclasses import dataclass

FEW_PIECES = 4
"""Pieces in flight to a source that has not shown yet how fast it is, and to a slow one ever after."""

FEW_BYTES = 1024 * 1024
"""Bytes of these at the most, unless that is less than two pieces: while one comes the next has been asked for."""

MOST_BYTES = 32 * 1024 * 1024
"""Bytes in flight at the most: a gigabit a second over 130 ms, doubled. What is lost when a source goes."""

RATE_MEMORY = 10.0
"""Seconds after which a rate that was not reached again is forgotten."""

GAIN = 2.0

SLACK = 0.01
"""Seconds of a source's rate that are asked for beyond that: it can then read and send several pieces in one go."""


@dataclass(slots=True)
class _Sent:
    at: float
    delivered: int


class RequestWindow:
    """The window to one source. Times are seconds on any clock that only moves forward.

    Args:
        piece_length: Bytes.
    """

    def __init__(self, piece_length: int) -> None:
        self._least = max(2 * piece_length, min(FEW_PIECES * piece_length, FEW_BYTES))
        self.bytes = self._least
        self._delivered = 0
        self._sent: dict[int, _Sent] = {}
        self._rate = 0.0
        self._rate_at = 0.0
        self._delay = 0.0

    @property
    def rate(self) -> float:
        """Bytes a second that the source was seen to send."""
        return self._rate

    @property
    def delay(self) -> float:
        """Seconds of the fastest answer; 0 before the first one."""
        return self._delay

    def asked(self, piece: int, now: float) -> None:
        """A piece was asked for."""
        self._sent[piece] = _Sent(now, self._delivered)

    def forget(self, piece: int) -> None:
        """A piece will not come."""
        self._sent.pop(piece, None)

    def arrived(self, piece: int, length: int, now: float) -> None:
        """A piece came."""
        self._delivered += length
        sent = self._sent.pop(piece, None)
        if sent is None:
            return
        delay = max(now - sent.at, 1e-6)
        self._delay = min(self._delay or delay, delay)
        rate = (self._delivered - sent.delivered) / delay
        if rate >= self._rate or now - self._rate_at > RATE_MEMORY:
            self._rate, self._rate_at = rate, now
        self.bytes = int(max(min(GAIN * self._rate * (self._delay + SLACK), MOST_BYTES), self._least))


class ArrivalRate:
    """Bytes a second that come from all sources together, over the last seconds.

    Args:
        now: The time.
    """

    def __init__(self, now: float) -> None:
        self.last_at = now
        self._bytes = 0.0
        self._since = now

    def arrived(self, length: int, now: float) -> None:
        """Some bytes came."""
        if now - self._since > RATE_MEMORY:
            # Half of the time passed counts half as much.
            self._bytes /= 2
            self._since = now - (now - self._since) / 2
        self._bytes += length
        self.last_at = now

    def rate(self, now: float) -> float:
        """Bytes a second."""
        return self._bytes / max(now - self._since, 1.0)
