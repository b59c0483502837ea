"""Payments on disk until they are settled, so that a worker that is killed loses none of them.

The file is a row of records, each a length (4 bytes, big-endian) and a `Payment`. Records are appended with one
write each; a record that was cut off by a crash is the last one and is ignored. Everything in it is checked again
when it is read, as if it had come from the network: a file can be as wrong as a peer.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

from hivemind_p2p.credits.wire import LARGEST_PAYMENT

_LENGTH = struct.Struct(">I")

LARGEST_JOURNAL = 64 * 1024 * 1024
"""Bytes of the file after which it is written anew with what still matters."""


class Journal:
    """The file ``payments`` in a folder; in memory alone (so: nothing is kept) where the folder is None."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / "payments" if folder is not None else None
        self._size = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def size(self) -> int:
        """Bytes written since it was last empty."""
        return self._size

    def read(self) -> list[bytes]:
        """The payments in the file, oldest first; stops at the first record that cannot be one."""
        if self._path is None or not self._path.exists():
            return []
        data = self._path.read_bytes()
        found: list[bytes] = []
        at = 0
        while at + _LENGTH.size <= len(data):
            (length,) = _LENGTH.unpack_from(data, at)
            end = at + _LENGTH.size + length
            if length > LARGEST_PAYMENT or end > len(data):
                break
            found.append(data[at + _LENGTH.size : end])
            at = end
        self._size = at
        if at < len(data):
            os.truncate(self._path, at)
        return found

    def append(self, payment: bytes) -> None:
        """Adds a payment; it survives the death of this process from now on."""
        if self._path is None:
            return
        record = _LENGTH.pack(len(payment)) + payment
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, record)
        finally:
            os.close(descriptor)
        self._size += len(record)

    def replace(self, payments: Sequence[bytes]) -> None:
        """Keeps only these payments, in one step: a crash leaves the old file or the new one."""
        if self._path is None or (not payments and self._size == 0):
            return
        data = b"".join(_LENGTH.pack(len(payment)) + payment for payment in payments)
        temporary = self._path.with_suffix(".new")
        temporary.write_bytes(data)
        temporary.chmod(0o600)
        temporary.replace(self._path)
        self._size = len(data)
