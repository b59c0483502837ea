"""Keeps a replica's records on the disk as well: reads them at the start, and writes changes behind.

Participants: the store in memory, which alone answers; one SQLite file, which a thread writes.

Goals:
    - Storing and answering never wait for the disk. What a replica took in the last `WRITE_EVERY` seconds before its
      process was killed may be lost to it, and only to it: the other replicas have it.
    - A full disk or a damaged file is a warning, and the directory goes on in memory.
    - Reading back checks every signature in small steps, so that a node with many records serves from the start.

Non-goals: keeping what this peer has published (its services publish it anew), or copies from lookups.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.dht.record_database import RecordDatabase, Row
from hivemind_p2p.dht.record_store import RecordStore
from hivemind_p2p.errors import RecordError
from hivemind_p2p.interfaces import Clock, TaskStatus

FILE_NAME = "records.sqlite3"

OPEN_AGAIN_AFTER = 60.0
"""Seconds until a file is tried again that could not be opened: a full disk gets room, another process lets go."""

WRITE_EVERY = 1.0
"""Seconds between writes: what a crash may lose here, and one transaction a second at the most."""

MOST_WRITTEN = 2048
"""Changes in one transaction: up to 32 MiB, but some hundred KiB in practice."""

CHECKED_AT_ONCE = 16
"""Signatures checked before others have their turn: 2 ms."""

_events = telemetry.source("directory")


class RecordKeeper:
    """Writes down what becomes of a store.

    Args:
        store: Made with `journal=True`.
        folder: Where the file lies.
        clock: Seconds since the epoch.
    """

    def __init__(self, store: RecordStore, folder: Path, clock: Clock) -> None:
        self._store = store
        self._path = folder / FILE_NAME
        self._clock = clock
        self.restored = self.written = self.damaged = 0
        self._failing = False

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Reads the records back, then writes changes until cancelled, the last ones on the way out."""
        database = await self._open()
        task_status.started()
        while database is None:
            await trio.sleep(OPEN_AGAIN_AFTER)
            database = await self._open()
        try:
            await self._restore(database)
            while True:
                await trio.sleep(WRITE_EVERY)
                await self._write_changes(database)
        finally:
            with trio.CancelScope(shield=True):
                await self._write_changes(database)
                await trio.to_thread.run_sync(database.close)

    async def _open(self) -> RecordDatabase | None:
        try:
            return await trio.to_thread.run_sync(RecordDatabase, self._path)
        except (sqlite3.Error, OSError) as error:
            self._warn("records_not_kept_on_disk", error)
            return None

    def _warn(self, what: str, error: Exception) -> None:
        """Says once what fails, until something was written again."""
        if not self._failing:
            _events.warning(what, file=str(self._path), reason=str(error))
        self._failing = True

    async def _restore(self, database: RecordDatabase) -> None:
        try:
            rows = database.rows(self._clock())
            while some := await trio.to_thread.run_sync(next, rows, None):
                await self._take(some)
        except sqlite3.OperationalError as error:
            _events.warning("records_not_read", file=str(self._path), reason=str(error))
        except sqlite3.DatabaseError:
            await self._begin_anew(database)
        if self.restored or self.damaged:
            _events.info("records_restored", records=self.restored, damaged=self.damaged)

    async def _take(self, rows: list[Row]) -> None:
        for start in range(0, len(rows), CHECKED_AT_ONCE):
            await trio.lowlevel.checkpoint()
            for row in rows[start : start + CHECKED_AT_ONCE]:
                try:
                    self.restored += self._store.restore(row.body, row.signature, row.forget_at, self._clock())
                except RecordError:
                    self.damaged += 1

    async def _write_changes(self, database: RecordDatabase) -> None:
        begun_anew = False
        while changes := self._store.take_changes(MOST_WRITTEN):
            try:
                await trio.to_thread.run_sync(database.write, changes)
            except sqlite3.OperationalError as error:
                # A full disk, mostly: it may have room later, and memory has the records.
                self._store.give_back(changes)
                self._warn("records_not_written", error)
                return
            except sqlite3.DatabaseError:
                if begun_anew:
                    return
                begun_anew = True
                await self._begin_anew(database)
                continue
            self.written += len(changes)
            self._failing = False

    async def _begin_anew(self, database: RecordDatabase) -> None:
        try:
            await trio.to_thread.run_sync(database.begin_anew)
        except (sqlite3.Error, OSError) as error:
            self._warn("records_not_kept_on_disk", error)
            return
        self._store.note_everything()
