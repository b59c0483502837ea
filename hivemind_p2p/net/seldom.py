"""Events that strangers can cause as often as they like: counted each time, told once a minute at the most."""

from __future__ import annotations

from typing import Any, Final

import trio

from hivemind_p2p.telemetry import Source

TOLD_EVERY: Final = 60.0
"""Seconds between two lines of one kind."""


class Seldom:
    """One kind of event.

    Args:
        source: Whose it is.
        each: Its name for each time, told at debug level.
        together: Its name for all of them since the last line.
    """

    def __init__(self, source: Source, each: str, together: str) -> None:
        self._source = source
        self._each = each
        self._together = together
        self._told_at: float | None = None
        self._untold = 0

    def tell(self, **details: Any) -> None:
        """It has happened again; the details are those of this time."""
        self._source.debug(self._each, **details)
        self._untold += 1
        now = trio.current_time()
        # A clock that has gone back is another one: that of another run of trio.
        if self._told_at is not None and 0 <= now - self._told_at < TOLD_EVERY:
            return
        self._source.info(self._together, count=self._untold, **details)
        self._told_at, self._untold = now, 0
