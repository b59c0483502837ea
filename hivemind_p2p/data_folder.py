"""The folder of a node's state, used by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hivemind_p2p.errors import ConfigurationError, DiskFullError

FOLDER_MODE = 0o700
LOCK_MODE = 0o600


@contextmanager
def owned_folder(folder: Path, what: str) -> Iterator[Path]:
    """Makes the folder, and keeps a second process out of it for the time of the block.

    The lock ends with the process, however that ends.

    Args:
        folder: Where the state lies; made with mode 0700 where it is missing.
        what: Who uses it, ``peer`` or ``bootstrap``, for the message.

    Raises:
        ConfigurationError: It cannot be used, or another process uses it.
        DiskFullError: There is no room for it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, LOCK_MODE)
    except OSError as error:
        raise _cannot_use(folder, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"another {what} uses the folder {folder}", hint="Stop it, or name another folder with --data."
            ) from error
        yield folder
    finally:
        os.close(descriptor)


def is_in_use(folder: Path) -> bool:
    """Whether a process uses the folder now. Makes nothing, and lets go of what it looked at at once."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _cannot_use(folder: Path, error: OSError) -> ConfigurationError | DiskFullError:
    import errno

    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFullError(f"no room for the folder {folder}")
    return ConfigurationError(f"cannot use the folder {folder}: {error.strerror}", hint="Name another one with --data.")
