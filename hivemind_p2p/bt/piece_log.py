"""Which pieces lie on the disk, as a log that survives a kill at any moment.

A record has 12 bytes: the number of a piece, and the modification time of its file. A piece is announced to the log
(`WRITING`), its data is written, and then it is recorded with the time that its file has just after the write. What is
not recorded does not count. A record that was cut off is dropped. Where a file's modification time is still the one
that was recorded last, nobody else has written to the file since. `storage` says why this order is safe.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from hivemind_p2p.bt.files import write_all, write_atomically

_RECORD = struct.Struct("<Iq")

LOST = -1
"""Instead of a modification time: the piece is not there any more."""

OPENED = -2
"""Instead of a modification time: this peer is about to create the file in which the piece lies."""

UNKNOWN = 0
"""Instead of a modification time: the piece is there, but somebody else wrote to its file before."""

WRITING = -3
"""Instead of a modification time: the piece's data is about to be written; until it is recorded it does not count."""


class PieceLog:
    """Appends to and reads a log.

    Args:
        path: The file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def read(self) -> Iterator[tuple[int, int]]:
        """Piece and modification time (nanoseconds) or mark of each record, oldest first.

        Raises:
            OSError: It exists and cannot be read.
        """
        if self._path is None or not self._path.exists():
            return
        data = self._path.read_bytes()
        yield from _RECORD.iter_unpack(data[: len(data) - len(data) % _RECORD.size])

    def modified(self) -> int | None:
        """When the last record was written, in nanoseconds since the epoch; None if there is none."""
        try:
            return None if self._path is None else self._path.stat().st_mtime_ns
        except OSError:
            return None

    def append(self, records: Iterable[tuple[int, int]]) -> None:
        """Adds records, all or none.

        Raises:
            DiskFullError: There is no room; the log is as it was.
            ContentError: It cannot be written.
        """
        if self._path is None:
            return
        data = _pack(records)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            write_all(descriptor, data, size - size % _RECORD.size, self._path)
        finally:
            os.close(descriptor)

    def replace(self, records: Iterable[tuple[int, int]]) -> None:
        """Puts these records in place of all others.

        Raises:
            DiskFullError: There is no room; the log is as it was.
            ContentError: It cannot be written.
        """
        if self._path is not None:
            write_atomically(self._path, _pack(records))


def _pack(records: Iterable[tuple[int, int]]) -> bytes:
    return b"".join(_RECORD.pack(piece, stamp) for piece, stamp in records)
