"""Moving pieces from one place on the disks to another. Everything here blocks and is run in threads."""

from __future__ import annotations

from collections.abc import Sequence

from hivemind_p2p.bt.metainfo import ManifestFile
from hivemind_p2p.bt.storage import ContentStore
from hivemind_p2p.errors import CorruptPieceError


def carry_over(left: ContentStore, store: ContentStore, files: Sequence[ManifestFile], pieces: Sequence[int]) -> None:
    """Copies what had arrived in another folder, so that it need not be fetched again."""
    store.prepare(files)
    for piece in pieces:
        data = left.read(piece, 0, left.manifest.piece(piece).length)
        if data is not None:
            store.write(piece, data)


def copy_piece(store: ContentStore, copy: ContentStore, piece: int) -> None:
    """Copies one piece.

    Raises:
        CorruptPieceError: It is not there any more.
    """
    data = store.read(piece, 0, store.manifest.piece(piece).length)
    if data is None or not copy.write(piece, data):
        raise CorruptPieceError(
            f"{store.path} was changed on the disk while it was copied",
            hint="Fetch it again: what is wrong is replaced.",
        )
