"""Work of a transport that outlives whoever wanted it: dials that others share, pings, goodbyes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


class Background:
    """Starts tasks that outlive their callers; a closed one starts nothing any more."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._closed = False

    def close(self) -> None:
        """Cancels everything that still runs."""
        self._closed = True
        self._nursery.cancel_scope.cancel()

    def start(self, work: Callable[[], Awaitable[object]]) -> bool:
        """Starts work that deals with its own errors; False if this was closed before."""
        if self._closed:
            return False
        self._nursery.start_soon(work)
        return True
