"""The database from trio: each call in a thread, one writer at a time, a few readers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio
from sqlalchemy.exc import OperationalError

from hivemind_bootstrap.database import Database
from hivemind_p2p.errors import DiskFullError

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
        """Runs a writing transaction after those that wait already.

        Raises:
            DiskFullError: There is no room for it; the ledger is as it was.
        """
        return await trio.to_thread.run_sync(partial(_write, work), self._database, limiter=self._writer)

    async def read(self, work: Callable[[Database], Result]) -> Result:
        """Runs a reading one."""
        return await trio.to_thread.run_sync(work, self._database, limiter=self._readers)


def _write(work: Callable[[Database], Result], database: Database) -> Result:
    try:
        return work(database)
    except OperationalError as error:
        # SQLite's words for SQLITE_FULL; the driver gives no number that SQLAlchemy hands on.
        if "disk is full" not in str(error.orig):
            raise
        raise DiskFullError(
            "the disk of the bootstrap's ledger is full", hint="Tell the hive's operator; nothing was changed."
        ) from error
