"""Files that are here already, as part of another content: copied on this disk in place of being fetched.

Files with one root have the same bytes, whatever their names and piece lengths. Where the file system can share
blocks between files (btrfs, XFS, bcachefs) the copy takes no room either. It is no hard link: who edits a fetched file
must not change another content.

Everything here blocks and is run in threads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from hivemind_p2p import telemetry
from hivemind_p2p.bt.files import make_folders, translated
from hivemind_p2p.bt.metainfo import ManifestFile
from hivemind_p2p.bt.storage import ContentStore
from hivemind_p2p.errors import ContentError, DiskFullError

_FICLONE = 0x40049409
"""Linux: makes a file share the blocks of another one (``ioctl_ficlone(2)``)."""

_COPIED_AT_ONCE = 64 * 1024 * 1024

_events = telemetry.source("swarm")


def take_over(
    others: Iterable[ContentStore], store: ContentStore, files: Sequence[ManifestFile], wanted: Container[int]
) -> None:
    """Puts files in their places that lie here, whole and unchanged, in other contents.

    Args:
        others: The contents to look in.
        store: Where they are missing. What is put in is checked like anything that lies there already.
        files: Which may be put in.
        wanted: The pieces that are wanted; files of which only a part is wanted are left to be fetched.

    Raises:
        DiskFullError: There is no room.
    """
    missing = {file.root: file for file in files if _is_missing(store, file, wanted)}
    for other in others:
        if other is store or not missing:
            continue
        for known in other.manifest.files:
            file = missing.get(known.root) if known.pieces else None
            if file is None or file.length != known.length or not other.intact(_pieces(known)):
                continue
            if _put(other.path_of(known), store, file):
                _events.info("file_taken_over", path=file.path, content=store.manifest.link)
                del missing[known.root]


def _is_missing(store: ContentStore, file: ManifestFile, wanted: Container[int]) -> bool:
    if not file.pieces or os.path.lexists(store.path_of(file)):
        return False
    return all(piece in wanted and piece not in store.held for piece in _pieces(file))


def _pieces(file: ManifestFile) -> range:
    return range(file.first_piece, file.first_piece + file.pieces)


def _put(source: Path, store: ContentStore, file: ManifestFile) -> bool:
    """Whether the file lies in its place now, and is what it should be."""
    target = store.path_of(file)
    make_folders(store.location, target.parent.relative_to(store.location).parts)
    try:
        with translated(str(target)):
            _copy(source, target)
        store.prepare([file])
    except DiskFullError:
        raise
    except ContentError as error:
        _events.warning("file_not_taken_over", path=str(source), error=error.message)
        with suppress(OSError):
            target.unlink()
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    """A copy that appears whole or not at all: a kill leaves a hidden file behind at worst."""
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".copying-")
    try:
        with source.open("rb") as read:
            _clone_or_copy(read.fileno(), descriptor)
        os.fchmod(descriptor, 0o644)
        os.rename(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)


def _clone_or_copy(source: int, target: int) -> None:
    with suppress(OSError):
        fcntl.ioctl(target, _FICLONE, source)
        return
    try:
        while os.copy_file_range(source, target, _COPIED_AT_ONCE):
            pass
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}:
            raise
        _copy_by_hand(source, target)


def _copy_by_hand(source: int, target: int) -> None:
    while data := os.read(source, 1 << 20):
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
