"""From a file or folder to its manifest: look at what is there, hash what is not known yet."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hivemind_p2p.bt.concurrency import RunSync
from hivemind_p2p.bt.file_hashing import FoundFile, hash_files
from hivemind_p2p.bt.hash_book import HashBook
from hivemind_p2p.bt.hashing import coarser_layer
from hivemind_p2p.bt.metainfo import LONGEST_PIECE, Manifest, choose_piece_length
from hivemind_p2p.bt.metainfo_codec import HashedFile, build
from hivemind_p2p.errors import ContentError, UnsafePathError


@dataclass(frozen=True, slots=True)
class Found:
    """What `scan` found: the folder in which the content lies, its name, and its files."""

    location: Path
    name: str
    is_file: bool
    files: tuple[FoundFile, ...]


def scan(path: Path) -> Found:
    """Looks at what is to be shared. Blocks: run in a thread.

    Raises:
        ContentError: Nothing is there, it holds no file, or something in it is neither file nor folder.
        UnsafePathError: A symbolic link leads out of the folder.
    """
    path = Path(os.path.abspath(path))
    if not path.exists():
        raise ContentError(f"there is nothing to share at {path}", hint="Check the path.")
    try:
        files = [_found(path, (path.name,))] if path.is_file() else list(_walk(path, path.resolve(), ()))
    except OSError as error:
        raise ContentError(f"cannot read {error.filename or path}: {error.strerror}") from error
    if not files:
        raise ContentError(f"there is no file in {path}")
    if len(files) == 1 and files[0].parts == (path.name,):
        # A folder with one file of the same name cannot be told from that file (BEP 52): it is shared as the file.
        return Found(files[0].path.parent, path.name, True, tuple(files))
    return Found(path.parent, path.name, False, tuple(files))


def _walk(folder: Path, root: Path, parts: tuple[str, ...]) -> Iterator[FoundFile]:
    for entry in sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name)):
        path = Path(entry.path)
        if entry.is_symlink():
            _check_symbolic_link(path, root)
        if entry.is_dir():
            yield from _walk(path, root, (*parts, entry.name))
        else:
            yield _found(path, (*parts, entry.name))


def _check_symbolic_link(path: Path, root: Path) -> None:
    target = path.resolve()
    if not target.is_relative_to(root) or not target.is_file():
        raise UnsafePathError(
            f"the symbolic link {path} leads out of the folder, to a folder or nowhere: {target}",
            hint="Share a copy that holds the files themselves, for example one made with cp -rL.",
        )


def _found(path: Path, parts: tuple[str, ...]) -> FoundFile:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ContentError(f"{path} is neither a file nor a folder")
    return FoundFile(path, parts, status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino)


async def make_manifest(
    found: Found, *, book: HashBook, run_sync: RunSync, helpers: bool = False
) -> tuple[Manifest, dict[str, int]]:
    """Hashes what is not known yet, in all cores.

    Args:
        found: What `scan` found.
        book: Knows what was hashed before, and remembers what is hashed now.
        run_sync: Runs what blocks.
        helpers: Whether processes may be started that hash.

    Returns:
        The manifest, and the modification time of each file by its path in the content.

    Raises:
        ContentError: A file changed meanwhile or cannot be read, or the content is too large.
        UnsafePathError: A name is not fit to be shared.
    """
    files = found.files
    if choose_piece_length(sum(file.length for file in files)) > LONGEST_PIECE:
        raise ContentError(f"{found.name!r} is too large for one content", hint="Share parts of it.")
    layers = await run_sync(partial(book.layers, [file.fingerprint for file in files]))
    new = [file for file, layer in zip(files, layers, strict=True) if layer is None and file.length]
    if new:
        hashed = await hash_files(new, run_sync, helpers=helpers)
        await run_sync(partial(book.remember, [(file.fingerprint, hashed[file]) for file in new]))
        layers = [hashed.get(file, layer) for file, layer in zip(files, layers, strict=True)]
    manifest = await run_sync(partial(_build, found, layers))
    return manifest, {"/".join(file.parts): file.modified for file in files}


def _build(found: Found, layers: Sequence[bytes | None]) -> Manifest:
    piece_length = choose_piece_length(sum(file.length for file in found.files))
    hashed = []
    for file, layer in zip(found.files, layers, strict=True):
        own = choose_piece_length(file.length)
        known = layer or b""
        longer = coarser_layer(known, file_length=file.length, known=own, wanted=piece_length) if known else b""
        hashed.append(HashedFile(file.parts, file.length, longer))
    return build(found.name, piece_length, hashed, is_file=found.is_file)
