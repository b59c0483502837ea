"""What was hashed before: the piece layers of files, so that a file that has not changed is never hashed again.

A file counts as unchanged while its device, inode, length and modification time are what they were; its path doesn't
matter, so a file that was moved, or is shared as part of several contents, is known as well. Who writes to a file and
puts its modification time back deceives the book; the peers that fetch such a file find out and say so.

Each layer is kept for the piece length that the file has when it is shared by itself, the shortest that it will ever
have; those for longer pieces follow from it (`hashing.coarser_layer`). That is at most 32 KiB for a file of 4 GiB.

Everything here blocks and is run in threads. The book is a cache: one that cannot be used is begun anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from hivemind_p2p import telemetry

MOST_FILES = 500_000
"""Files that are remembered; beyond that the oldest are forgotten. Some 100 MB on the disk for files of usual sizes."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS layers (
    number INTEGER PRIMARY KEY, device INTEGER, inode INTEGER, length INTEGER, modified INTEGER, layer BLOB,
    UNIQUE (device, inode)
)
"""
_FIND = "SELECT layer FROM layers WHERE device = ? AND inode = ? AND length = ? AND modified = ?"
_ADD = "INSERT OR REPLACE INTO layers (device, inode, length, modified, layer) VALUES (?, ?, ?, ?, ?)"
_FORGET = "DELETE FROM layers WHERE number <= (SELECT max(number) FROM layers) - ?"

_events = telemetry.source("swarm")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a file that nobody has changed still has: its place, its bytes, and when it was written (nanoseconds)."""

    device: int
    inode: int
    length: int
    modified: int

    @property
    def _row(self) -> tuple[int, int, int, int]:
        # SQLite's integers are signed; some file systems use all 64 bits of an inode number.
        return self.device, self.inode - (1 << 64 if self.inode >> 63 else 0), self.length, self.modified


class HashBook:
    """Finds and remembers piece layers.

    Args:
        path: The file; None remembers nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = Lock()

    def layers(self, files: Sequence[Fingerprint]) -> list[bytes | None]:
        """The layer of each file for its own piece length; None where it was not hashed or has changed since."""
        if self._path is None or not self._path.exists():
            return [None] * len(files)
        try:
            with self._opened(self._path) as book:
                return [_layer(book.execute(_FIND, file._row).fetchone()) for file in files]
        except sqlite3.Error as error:
            self._give_up(error)
            return [None] * len(files)

    def remember(self, hashed: Iterable[tuple[Fingerprint, bytes]]) -> None:
        """Keeps layers; tells an event where there is no room for that."""
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._opened(self._path) as book, book:
                book.executemany(_ADD, ((*file._row, layer) for file, layer in hashed))
                book.execute(_FORGET, (MOST_FILES,))
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[sqlite3.Connection]:
        with self._lock, closing(sqlite3.connect(path)) as book:
            # What a loss of power takes is hashed again.
            book.execute("PRAGMA synchronous = OFF")
            book.execute(_SCHEMA)
            yield book

    def _give_up(self, error: Exception) -> None:
        _events.warning("hash_book_unusable", path=str(self._path), error=str(error))
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError) and self._path:
            with self._lock:
                self._path.unlink(missing_ok=True)


def _layer(row: tuple[bytes] | None) -> bytes | None:
    return None if row is None else row[0]
