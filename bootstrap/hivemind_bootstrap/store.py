"""The database from trio: each call in a thread, one writer at a time, a few readers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from hivemind_bootstrap.database import Database

READERS = 4
"""Threads that read at a time. SQLite lets them go on while somebody writes."""

Result = TypeVar("Result")


class Store:
    """Runs the database's blocking calls. A call that was begun is finished even where its caller is cancelled."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer = trio.CapacityLimiter(1)
        self._readers = trio.CapacityLimiter(READERS)

    async def write(self, work: Callable[[Database], Result]) -> Result:
        """Runs a writing transaction after those that wait already."""
        return await trio.to_thread.run_sync(work, self._database, limiter=self._writer)

    async def read(self, work: Callable[[Database], Result]) -> Result:
        """Runs a reading one."""
        return await trio.to_thread.run_sync(work, self._database, limiter=self._readers)
