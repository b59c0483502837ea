"""A file of a content that is read while it is being fetched.

What is read next is fetched next: the piece that is waited for and those behind it come before all others, in their
order, and a jump moves this window. The rest of the file comes rarest first, as in any fetch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

import trio

from hivemind_p2p.bt.concurrency import RunSync
from hivemind_p2p.bt.contents import Content
from hivemind_p2p.bt.metainfo import Manifest, ManifestFile
from hivemind_p2p.errors import ContentError, HivemindError

AHEAD_BYTES = 16 * 1024 * 1024
"""Bytes behind the reader's place that are fetched before all else: a second or so of a fast link."""

LEAST_AHEAD = 4
"""Pieces of them at least, however long they are: with fewer only one or two sources would have work."""


class Reader:
    """Reads one file. Made by `SwarmService.open`; one task reads at a time.

    Args:
        manifest: Of the content.
        file: Which.
        run_sync: Runs what blocks.
        hurry: Called when other pieces are wanted first than before.
    """

    def __init__(self, manifest: Manifest, file: ManifestFile, *, run_sync: RunSync, hurry: Callable[[], None]) -> None:
        self.length = file.length
        self.name = file.path
        self.scope = trio.CancelScope()
        self._manifest = manifest
        self._file = file
        self._run_sync = run_sync
        self._hurry = hurry
        self._ahead = max(LEAST_AHEAD, AHEAD_BYTES // manifest.piece_length)
        self._from = self._at = file.first_piece
        self._jumped = False
        self._place = 0
        self._content: Content | None = None
        self._arrival = trio.Event()
        self._closed = trio.Event()
        self._failure: HivemindError | None = None
        self._fetched = False

    # -- reading -----------------------------------------------------------------------------------------------------

    async def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, all that are left for -1; fewer only where the file ends. Waits until they are here.

        Raises:
            NoSourceError: Nobody sends them.
            ContentError: The reader is closed, or the file was changed on the disk.
        """
        stop = self.length if size < 0 else min(self.length, self._place + size)
        parts: list[bytes] = []
        while self._place < stop:
            parts.append(await self.read_at(self._place, stop - self._place))
            self._place += len(parts[-1])
        return b"".join(parts)

    async def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at an offset, as many as lie in one piece; nothing behind the end.

        Raises:
            NoSourceError: Nobody sends them.
            ContentError: The reader is closed, or the file was changed on the disk.
        """
        if not 0 <= offset < self.length or size <= 0:
            return b""
        index, begin = divmod(offset, self._manifest.piece_length)
        piece = self._file.first_piece + index
        length = min(size, self._manifest.length_of(piece) - begin)
        self._jumped |= piece not in (self._at, self._at + 1)
        self._at = piece
        store = (await self._wait_for(piece)).store
        data = await self._run_sync(partial(store.read, piece, begin, length))
        if data is None:
            raise ContentError(f"{self.name!r} was changed on the disk while it was read", hint="Open it again.")
        return bytes(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the place where `read` goes on; what lies there is fetched next. Returns the place."""
        origins = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.length}
        self._place = max(0, origins[whence] + offset)
        return self._place

    def tell(self) -> int:
        """Where `read` goes on."""
        return self._place

    async def aclose(self) -> None:
        """Ends the fetch, unless somebody else wants the content as well. What has arrived is kept."""
        self._closed.set()
        self.scope.cancel()
        self.end(ContentError(f"the reader of {self.name!r} is closed", hint="Open it again."))
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _wait_for(self, piece: int) -> Content:
        while True:
            if self._failure is not None:
                raise self._failure
            if self._content is not None and piece in self._content.store.held:
                return self._content
            if self._fetched:
                raise ContentError(f"{self.name!r} was changed on the disk while it was read", hint="Open it again.")
            self._want_first(piece)
            await self._arrival.wait()

    def _want_first(self, piece: int) -> None:
        """Moves the window to where the reader has jumped, and on where half of it has been read."""
        if self._jumped or piece > self._from + self._ahead // 2:
            self._jumped = False
            self._from = piece
            self._hurry()

    # -- what the service says ---------------------------------------------------------------------------------------

    @property
    def ahead(self) -> range:
        """The pieces that are wanted first, in their order."""
        return range(self._from, min(self._from + self._ahead, self._file.first_piece + self._file.pieces))

    def attached(self, content: Content) -> None:
        """Here is what it reads from; more arrives."""
        if self._content is not content:
            self._content = content
            content.readers.add(self)
        self.arrived()

    def arrived(self) -> None:
        """There is more to read than before."""
        self._arrival.set()
        self._arrival = trio.Event()

    def fetched(self) -> None:
        """All of the file is here."""
        self._fetched = True
        self.arrived()

    async def closed(self) -> None:
        """Waits until nobody reads any more."""
        await self._closed.wait()

    def end(self, failure: HivemindError) -> None:
        """Nothing more arrives; who reads is told."""
        self._failure = self._failure or failure
        if self._content is not None:
            self._content.readers.discard(self)
        self.arrived()
