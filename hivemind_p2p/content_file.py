"""A file of a content as an ordinary Python file, for code that wants one: `zipfile`, pandas, PIL, a media player.

It is read while it is being fetched (`bt/reader.py`); each read crosses the portal and waits for what it needs.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from hivemind_p2p.portal import Portal

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from hivemind_p2p.bt.reader import Reader

BUFFER = 256 * 1024
"""Bytes read at once: crossing the portal costs about as much as reading these."""


class ContentFile(io.RawIOBase):
    """The raw file below the buffer; made by `open_file`.

    Args:
        reader: Reads on the trio thread.
        bridge: Leads there.
    """

    def __init__(self, reader: Reader, bridge: Portal) -> None:
        self.name = reader.name
        self._reader = reader
        self._bridge = bridge
        self._place = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """What lies elsewhere is fetched next."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Moves the place where reading goes on.

        Raises:
            ValueError: It would lie before the beginning, or the file is closed.
        """
        self._check_open()
        origins = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._reader.length}
        place = origins[whence] + offset
        if place < 0:
            raise ValueError(f"a file has no place {place}")
        self._place = place
        return place

    def tell(self) -> int:
        """Where reading goes on."""
        self._check_open()
        return self._place

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Reads some bytes, at least one unless the file ends here; waits until they have arrived."""
        self._check_open()
        view = memoryview(buffer).cast("B")
        data = self._bridge.call(self._reader.read_at, self._place, len(view))
        view[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        """Ends the fetch, unless somebody else wants the content as well."""
        if not self.closed and self._bridge.alive:
            # Nobody waits for it: this may be the garbage collector, in any thread.
            self._bridge.start(self._reader.aclose)
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")


def open_file(reader: Reader, bridge: Portal) -> io.BufferedReader:
    """The file of a reader."""
    return io.BufferedReader(ContentFile(reader, bridge), BUFFER)
