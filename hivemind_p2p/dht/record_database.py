"""The records of a replica on the disk, in one SQLite file, so that a node that starts again still has them.

Everything here waits for the disk: `record_keeper` calls it in a thread. The file is a help, not a truth: records are
signed, so what is read is checked again, and a file that is damaged is moved aside and begun anew, since the other
replicas and the next republication bring back what was in it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hivemind_p2p import telemetry
from hivemind_p2p.dht.record_store import Change
from hivemind_p2p.dht.records import MAX_BODY

VERSION = 1
"""Of the tables, as SQLite's `user_version`; a file of another version is moved aside."""

ROWS_AT_ONCE = 256
"""Rows read from the disk at once."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    key TEXT NOT NULL,
    signer TEXT NOT NULL,
    body BLOB NOT NULL,
    signature BLOB NOT NULL,
    forget_at REAL NOT NULL,
    PRIMARY KEY (key, signer)
)
"""

# SQLite keeps what it is given, whatever the table says: a number or a text where bytes belong.
_PURGE = """
DELETE FROM records WHERE forget_at <= ? OR typeof(body) <> 'blob' OR length(body) > ?
    OR typeof(signature) <> 'blob' OR typeof(forget_at) <> 'real'
"""

_events = telemetry.source("directory")


@dataclass(frozen=True, slots=True)
class Row:
    """A record as it was written down; `forget_at` is in seconds since the epoch."""

    body: bytes
    signature: bytes
    forget_at: float


class RecordDatabase:
    """One SQLite file. Used by one thread at a time.

    Args:
        path: The file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = self._open()

    def rows(self, now: float) -> Iterator[list[Row]]:
        """All rows that still count, some at a time; the others are deleted, and those that are no records at all.

        Raises:
            sqlite3.Error: The disk fails, or the file is damaged.
        """
        with self._connection:
            self._connection.execute(_PURGE, (now, MAX_BODY))
        cursor = self._connection.execute("SELECT body, signature, forget_at FROM records")
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            yield [Row(*row) for row in rows]

    def write(self, changes: Sequence[Change]) -> None:
        """Writes changes down, all or none.

        Raises:
            sqlite3.Error: The disk is full or fails, or the file is damaged.
        """
        kept = [
            (change.key, change.signer, change.kept.signed.body, change.kept.signed.signature, change.kept.forget_at)
            for change in changes
            if change.kept is not None
        ]
        gone = [(change.key, change.signer) for change in changes if change.kept is None]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", kept)
            self._connection.executemany("DELETE FROM records WHERE key = ? AND signer = ?", gone)

    def begin_anew(self) -> None:
        """Moves a damaged file aside and begins an empty one."""
        self.close()
        self._set_aside("it was found damaged in use")
        self._connection = self._connect()

    def close(self) -> None:
        """Closes the file; whatever was written is on the disk."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        try:
            connection = self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self._set_aside(str(error))
            return self._connect()
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False)
        try:
            # A crash of the process loses nothing that was written; one of the machine at most the last writes.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            _check(connection)
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.commit()
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _set_aside(self, reason: str) -> None:
        aside = self._path.with_name(f"{self._path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        self._path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        _events.warning("records_file_damaged", moved_to=str(aside), reason=reason)


def _check(connection: sqlite3.Connection) -> None:
    """Raises unless the file is whole and of this version."""
    ((found,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    if found != "ok":
        raise sqlite3.DatabaseError(found)
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if version not in (0, VERSION):
        raise sqlite3.DatabaseError(f"its tables are of version {version}, not {VERSION}")
    columns = [row[1] for row in connection.execute("PRAGMA table_info(records)")]
    if columns and columns != ["key", "signer", "body", "signature", "forget_at"]:
        raise sqlite3.DatabaseError(f"its table has the columns {', '.join(columns)}")
