"""Zip archives from strangers: what may be in one, and unpacking it so that nothing lands elsewhere or too large.

Both ways are guarded: a peer unpacks what callers send, a caller what peers send back. Refused are names that are
absolute or would leave the folder, links and devices, encryption, other compression than deflate, and an archive that
says or turns out to be larger than is allowed. The list of contents is bounded before it is read, and every file
before it is written.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hivemind_p2p.errors import ArchiveError

MAX_ENTRIES: Final = 10_000
"""Files and folders in one archive."""

MAX_LIST_BYTES: Final = 4 << 20
"""Bytes of the list of contents at an archive's end; an entry takes 46 and its name, and some 500 once read."""

MAX_UNPACKED: Final = 256 << 20
"""Bytes of all files together: what a task may write into one file."""

LONGEST_PATH: Final = 1024
LONGEST_NAME: Final = 255
DEEPEST_PATH: Final = 32

_END: Final = b"PK\x05\x06"
_END_BYTES: Final = 22
_END_64: Final = b"PK\x06\x07"
_END_64_BYTES: Final = 20
_CHUNK: Final = 1 << 20
_FIRST_DATE: Final = (1980, 1, 1, 0, 0, 0)
_KINDS: Final = (0, stat.S_IFREG, stat.S_IFDIR)
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MALFORMED: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What zipfile raises for damage."""


def unpack(data: bytes | memoryview, folder: Path, *, max_bytes: int = MAX_UNPACKED) -> None:
    """Unpacks an archive into an empty folder, all of it or, where it is refused for its list, nothing.

    Raises:
        ArchiveError: It is refused; the message says which entry, and why.
    """
    _check_end(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check_entries(entries, max_bytes)
            for entry in entries:
                _write(archive, entry, folder)
    except _MALFORMED as error:
        raise ArchiveError(f"the archive is damaged: {error}"[:500]) from error


def pack_folder(folder: Path, *, max_bytes: int = MAX_UNPACKED) -> bytes:
    """A folder as an archive, the same bytes for the same files.

    Raises:
        ArchiveError: It holds something that `unpack` would refuse, or more than it takes.
    """
    made = io.BytesIO()
    left, seen = max_bytes, 0
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _files_below(folder):
            name = path.relative_to(folder).as_posix()
            _check_name(name)
            seen += 1
            if seen > MAX_ENTRIES:
                raise ArchiveError(f"the folder has more than {MAX_ENTRIES:,} files")
            left -= path.stat().st_size
            if left < 0:
                raise ArchiveError(f"the folder has more than {max_bytes:,} bytes")
            archive.writestr(zipfile.ZipInfo(name, _FIRST_DATE), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return made.getvalue()


def _files_below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted((*files, *folders)):
            path = Path(place, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise ArchiveError(f"{path.relative_to(folder)} is neither a file nor a folder")
            if stat.S_ISREG(mode):
                yield path


def _check_end(data: bytes | memoryview) -> None:
    """Bounds the list of contents before anything reads it.

    An archive with a comment or in the form for more than 4 GiB is refused: then the end can be read in one way only.
    """
    end = bytes(data[-_END_BYTES:])
    if len(end) < _END_BYTES or not end.startswith(_END) or end[-2:] != b"\0\0":
        raise ArchiveError("this is no zip archive, or one with a comment")
    if bytes(data[-_END_BYTES - _END_64_BYTES : -_END_BYTES]).startswith(_END_64):
        raise ArchiveError("the archive has the form for more than 4 GiB")
    if int.from_bytes(end[12:16], "little") > MAX_LIST_BYTES:
        raise ArchiveError("the archive's list of contents is too long")


def _check_entries(entries: list[zipfile.ZipInfo], max_bytes: int) -> None:
    if len(entries) > MAX_ENTRIES:
        raise ArchiveError(f"the archive has {len(entries):,} entries, more than {MAX_ENTRIES:,}")
    if sum(entry.file_size for entry in entries) > max_bytes:
        raise ArchiveError(f"the archive unpacks to more than {max_bytes:,} bytes")
    files: set[str] = set()
    folders: set[str] = set()
    for entry in entries:
        _check_entry(entry)
        parts = _folded(entry.filename.rstrip("/")).split("/")
        path = "/".join(parts)
        if path in files or (path in folders and not entry.is_dir()):
            raise ArchiveError(f"two entries are one file on some systems: {entry.filename[:200]!r}")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
        (folders if entry.is_dir() else files).add(path)
    if both := files & folders:
        raise ArchiveError(f"an entry is a file and a folder: {min(both)[:200]!r}")


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename
    _check_name(name[:-1] if name.endswith("/") else name)
    if stat.S_IFMT(entry.external_attr >> 16) not in _KINDS:
        raise ArchiveError(f"{name[:200]!r} is neither a file nor a folder")
    if entry.flag_bits & 1 or entry.compress_type not in _METHODS:
        raise ArchiveError(f"{name[:200]!r} is encrypted, or not compressed by deflate")
    if entry.is_dir() and entry.file_size:
        raise ArchiveError(f"{name[:200]!r} is a folder with bytes")


def _check_name(name: str) -> None:
    parts = name.split("/")
    unsafe = any(character in '\\:*?"<>|' or unicodedata.category(character) in ("Cc", "Cs") for character in name)
    if unsafe or any(part in ("", ".", "..") or part[-1] in ". " for part in parts):
        raise ArchiveError(f"not a name for a file in a folder: {name[:200]!r}")
    if len(parts) > DEEPEST_PATH or len(name.encode()) > LONGEST_PATH:
        raise ArchiveError(f"the name is too long or too deep: {name[:200]!r}")
    if any(len(part.encode()) > LONGEST_NAME for part in parts):
        raise ArchiveError(f"a part of the name is too long: {name[:200]!r}")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    path = folder.joinpath(*entry.orig_filename.rstrip("/").split("/"))
    if entry.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    left = entry.file_size
    with archive.open(entry) as source, path.open("xb") as target:
        while piece := source.read(_CHUNK):
            left -= len(piece)
            if left < 0:
                raise ArchiveError(f"{entry.filename[:200]!r} is longer than the archive says")
            target.write(piece)
    if left:
        raise ArchiveError(f"{entry.filename[:200]!r} is shorter than the archive says")
