"""From a file or folder to its manifest: look at what is there, hash what is not known yet, in all cores."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from hivemind_p2p.bt.concurrency import RunSync, nursery_of_one
from hivemind_p2p.bt.hashing import SPAN, hash_span, piece_leaves
from hivemind_p2p.bt.metainfo import Manifest, choose_piece_length
from hivemind_p2p.bt.metainfo_codec import HashedFile, build
from hivemind_p2p.errors import ContentError, UnsafePathError


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file on the disk, as it was when it was found. `modified` is in nanoseconds."""

    path: Path
    parts: tuple[str, ...]
    length: int
    modified: int


@dataclass(frozen=True, slots=True)
class Found:
    """What `scan` found: the folder in which the content lies, its name, and its files."""

    location: Path
    name: str
    is_file: bool
    files: tuple[FoundFile, ...]


Known = Callable[[FoundFile, int], bytes | None]
"""The piece layer (for a piece length) of a file that was hashed before and has not changed since."""


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
    return FoundFile(path, parts, status.st_size, status.st_mtime_ns)


async def make_manifest(found: Found, *, known: Known, run_sync: RunSync) -> tuple[Manifest, dict[str, int]]:
    """Hashes what is not known yet.

    Returns:
        The manifest, and the modification time of each file by its path in the content.

    Raises:
        ContentError: A file changed meanwhile or cannot be read, or the content is too large.
        UnsafePathError: A name is not fit to be shared.
    """
    piece_length = choose_piece_length(sum(file.length for file in found.files))
    limiter = trio.CapacityLimiter(os.cpu_count() or 1)
    hashed: dict[tuple[str, ...], HashedFile] = {}

    async def hash_one(file: FoundFile) -> None:
        layer = known(file, piece_length)
        if layer is None:
            layer = await _hash(file, piece_length, limiter, run_sync)
        hashed[file.parts] = HashedFile(file.parts, file.length, layer)

    async with nursery_of_one() as nursery:
        for file in found.files:
            nursery.start_soon(hash_one, file)
    files = [hashed[file.parts] for file in found.files]
    manifest = await run_sync(partial(build, found.name, piece_length, files, is_file=found.is_file))
    return manifest, {"/".join(file.parts): file.modified for file in found.files}


async def _hash(file: FoundFile, piece_length: int, limiter: trio.CapacityLimiter, run_sync: RunSync) -> bytes:
    leaves = piece_leaves(file.length, piece_length)
    step = max(SPAN, piece_length)
    spans: dict[int, bytes] = {}

    async def hash_one(start: int) -> None:
        stop = min(start + step, file.length)
        async with limiter:
            spans[start] = await run_sync(partial(hash_span, file.path, start=start, stop=stop, leaves=leaves))

    try:
        async with nursery_of_one() as nursery:
            for start in range(0, file.length, step):
                nursery.start_soon(hash_one, start)
        after = await run_sync(file.path.stat)
    except (OSError, EOFError) as error:
        raise ContentError(f"cannot read {file.path}: {error}") from error
    if (after.st_size, after.st_mtime_ns) != (file.length, file.modified):
        raise ContentError(f"{file.path} changed while it was hashed", hint="Share it again once nobody writes to it.")
    return b"".join(spans[start] for start in sorted(spans))
