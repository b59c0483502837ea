"""Where contents lie on the disks, and moving pieces from one place to another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hivemind_p2p.bt.catalogue import Catalogue
from hivemind_p2p.bt.concurrency import RunSync
from hivemind_p2p.bt.contents import Content, Contents
from hivemind_p2p.bt.metainfo import ManifestFile
from hivemind_p2p.bt.piece_log import PieceLog
from hivemind_p2p.bt.plan import Plan
from hivemind_p2p.bt.storage import ContentStore
from hivemind_p2p.errors import CorruptPieceError
from hivemind_p2p.interfaces import Clock


class Places:
    """Finds a place for what is fetched, and brings it to where it was asked for.

    Args:
        folder: This peer's own folder for contents.
        contents: What is here.
        catalogue: Remembers it.
        clock: Seconds since the epoch.
        run_sync: Runs what blocks.
    """

    def __init__(
        self, folder: Path, contents: Contents, catalogue: Catalogue, *, clock: Clock, run_sync: RunSync
    ) -> None:
        self._folder = folder
        self._contents = contents
        self._catalogue = catalogue
        self._clock = clock
        self._run_sync = run_sync

    async def place(self, plan: Plan) -> Content:
        """Where the content lies, or will lie. Files that the user shared are only read.

        Raises:
            DiskFullError: There is no room.
            ContentError: Something else lies there, or it cannot be written.
        """
        own = self._folder / plan.manifest.infohash.hex()
        location = own if plan.to is None else absolute(plan.to)
        content = self._contents.get(plan.manifest.infohash)
        left = None
        if content is not None:
            store = content.store
            # Begun in a folder that the user has given up since, perhaps because its disk is full.
            moved = plan.to is not None and store.location not in (location, own)
            if not (store.shared or moved) or await self._run_sync(partial(store.intact, plan.pieces)):
                return content
            left = None if store.shared else store
        staged = plan.whole and location != own
        add = partial(self._catalogue.add, plan.manifest, location, now=self._clock(), staged=staged)
        content = self._contents.put(await self._run_sync(add))
        if left is not None:
            await self._run_sync(partial(carry_over, left, content.store, plan.files, plan.pieces))
        return content

    async def deliver(self, store: ContentStore, plan: Plan) -> Path:
        """Copies what was wanted to where it was wanted, unless it lies there. Returns where that is.

        Raises:
            CorruptPieceError: It was changed on the disk meanwhile.
            DiskFullError: There is no room.
            ContentError: Something else lies there, or it cannot be written.
        """
        if plan.to is None or absolute(plan.to) == store.location:
            return store.path
        copy = ContentStore(store.manifest, absolute(plan.to), PieceLog(None), staged=plan.whole)
        await self._run_sync(partial(copy.prepare, plan.files))
        for piece in plan.pieces:
            if piece not in copy.held:
                await self._run_sync(partial(copy_piece, store, copy, piece))
        if plan.whole:
            await self._run_sync(copy.settle)
        return copy.path


def absolute(path: Path) -> Path:
    """A path from the root, with its links as they are."""
    return Path(os.path.abspath(path))


def carry_over(left: ContentStore, store: ContentStore, files: Sequence[ManifestFile], pieces: Sequence[int]) -> None:
    """Copies what had arrived in another folder, so that it need not be fetched again. Blocks: run in a thread."""
    store.prepare(files)
    for piece in pieces:
        data = left.read(piece, 0, left.manifest.piece(piece).length)
        if data is not None:
            store.write(piece, data)


def copy_piece(store: ContentStore, copy: ContentStore, piece: int) -> None:
    """Copies one piece. Blocks: run in a thread.

    Raises:
        CorruptPieceError: It is not there any more.
    """
    data = store.read(piece, 0, store.manifest.piece(piece).length)
    if data is None or not copy.write(piece, data):
        raise CorruptPieceError(
            f"{store.path} was changed on the disk while it was copied",
            hint="Fetch it again: what is wrong is replaced.",
        )
