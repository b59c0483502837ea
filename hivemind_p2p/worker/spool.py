"""Files for values that are too large to be held in memory, filled as they come from a child."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

LEAST_FREE: Final = 1 << 30
"""Bytes that stay free on the disk: a result never takes the last of them."""


class FileSpool:
    """One value on its way into a file.

    Args:
        folder: Where the file is to lie; made if it is not there.
        length: Bytes of the value.
    """

    def __init__(self, folder: Path, length: int) -> None:
        self.left = length
        self._path = ""
        self._lost = ""
        self._file = -1
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if shutil.disk_usage(folder).free < length + LEAST_FREE:
                self._lost = f"this peer has no room for its result of {length:,} bytes"
                return
            self._file, self._path = tempfile.mkstemp(prefix="result-", dir=folder)
        except OSError as error:
            self._fail(error)

    def take(self, data: memoryview) -> int:
        """Takes the next bytes; how many of them were its own."""
        taken = min(self.left, len(data))
        self.left -= taken
        own = data[:taken]
        try:
            while self._file >= 0 and own:
                own = own[os.write(self._file, own) :]
        except OSError as error:
            self._fail(error)
        return taken

    def _fail(self, error: OSError) -> None:
        """The rest is read and dropped: the child that it comes from is well, and goes on."""
        self.close()
        self._lost = f"this peer could not store its result: {error.strerror or error}"

    def finish(self) -> tuple[str, str]:
        """Where the file lies, or what went wrong."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        return self._path, self._lost

    def close(self) -> None:
        """Removes it: the child went in the middle of it."""
        self.finish()
        if self._path:
            Path(self._path).unlink(missing_ok=True)
            self._path = ""
