"""Reading and writing files so that nothing is left half done and every failure has a class of its own.

Everything here blocks and is run in threads.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hivemind_p2p.errors import ContentError, DiskFullError, UnsafePathError

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns the system's errors into those of the house.

    Raises:
        DiskFullError: There is no room, or no quota, left.
        UnsafePathError: A symbolic link stands where a file should be.
        ContentError: Anything else.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(f"no room to write {what}") from error
        if error.errno == errno.ELOOP:
            raise UnsafePathError(f"a symbolic link stands where {what} should be") from error
        raise ContentError(
            f"cannot use {what}: {error.strerror or error}", hint="Check that the folder exists and can be written."
        ) from error


def write_all(descriptor: int, data: bytes | bytearray | memoryview, offset: int, path: Path) -> None:
    """Writes all of `data` at an offset.

    Raises:
        DiskFullError: There is no room for all of it.
        ContentError: It cannot be written.
    """
    view = memoryview(data)
    with translated(str(path)):
        while view:
            count = os.pwrite(descriptor, view, offset)
            view = view[count:]
            offset += count


def read_up_to(descriptor: int, length: int, offset: int) -> bytearray:
    """Reads `length` bytes at an offset; fewer where the file ends.

    Raises:
        OSError: It cannot be read.
    """
    data = bytearray(length)
    with memoryview(data) as view:
        filled = read_into(descriptor, view, offset)
    del data[filled:]
    return data


def read_into(descriptor: int, place: memoryview, offset: int) -> int:
    """Fills `place` with what stands at an offset; how many bytes, fewer where the file ends.

    Raises:
        OSError: It cannot be read.
    """
    filled = 0
    while filled < len(place):
        count = os.preadv(descriptor, [place[filled:]], offset + filled)
        if count == 0:
            break
        filled += count
    return filled


def write_atomically(path: Path, data: bytes) -> None:
    """Puts a file in place whole or not at all, also where the machine loses power.

    Raises:
        DiskFullError: There is no room; what was there stays.
        ContentError: It cannot be written.
    """
    with translated(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            write_all(descriptor, data, 0, path)
            os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(descriptor)


def make_folders(location: Path, parts: tuple[str, ...]) -> None:
    """Makes the folders `parts` inside `location`, none of which may be a symbolic link.

    Raises:
        UnsafePathError: One of them is a symbolic link or a file.
        DiskFullError: There is no room.
        ContentError: They cannot be made.
    """
    with translated(str(location)):
        location.mkdir(parents=True, exist_ok=True)
    folder = location
    for part in parts:
        folder = folder / part
        with translated(str(folder)):
            if not os.path.lexists(folder):
                folder.mkdir(exist_ok=True)
        if folder.is_symlink() or not folder.is_dir():
            raise UnsafePathError(f"{folder} is no folder, or a symbolic link to one")
