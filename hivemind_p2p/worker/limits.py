"""What the kernel limits for each process of a task (``setrlimit``), as data; and the lowering of it."""

from __future__ import annotations

import resource
import sys
from typing import Final

BASE_MEMORY: Final = 64 << 20
"""Bytes that the interpreter itself may take, on top of what the task asked for."""

MAX_FILE_BYTES: Final = 256 << 20
"""Bytes of one file that a task may write."""

MAX_PROCESSES: Final = 256
"""Processes and threads of a task together, where the kernel counts them for this child alone."""

MAX_OPEN_FILES: Final = 1024
"""Files that a task may have open."""

_COUNTS_BY_NAMESPACE: Final = (5, 14)
"""The first Linux that counts RLIMIT_NPROC inside a user namespace; before, it counts all of the user's processes."""


def at_start(*, own_user: bool, own_namespace: bool, kernel: tuple[int, int]) -> dict[int, int]:
    """The limits of a child before its first task.

    Args:
        own_user: Whether no other process is of its user.
        own_namespace: Whether it has a user namespace of its own.
        kernel: The version of Linux; zeros elsewhere.
    """
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: MAX_FILE_BYTES,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
    }
    if sys.platform == "linux":
        limits[resource.RLIMIT_MSGQUEUE] = 0
    if own_user or (own_namespace and kernel >= _COUNTS_BY_NAMESPACE):
        limits[resource.RLIMIT_NPROC] = MAX_PROCESSES
    return limits


def for_task(memory_bytes: int) -> dict[int, int]:
    """The limit that comes with a task: the heap and the private mappings of each of its processes."""
    return {resource.RLIMIT_DATA: memory_bytes + BASE_MEMORY}


def version_of(release: str) -> tuple[int, int]:
    """The first two numbers of a kernel's release, such as ``6.1.0-13-amd64``."""
    major, minor, *_ = [*release.split("."), "0"]
    digits = "".join(digit for digit in minor.partition("-")[0] if digit.isdigit())
    return (int(major), int(digits or 0)) if major.isdigit() else (0, 0)


def lower(limits: dict[int, int]) -> None:
    """Sets limits, hard ones: they cannot be raised again. None is raised."""
    for what, most in limits.items():
        _, hard = resource.getrlimit(what)
        if hard == resource.RLIM_INFINITY or hard > most:
            resource.setrlimit(what, (most, most))
