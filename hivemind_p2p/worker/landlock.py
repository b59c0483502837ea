"""The rules of Landlock around a task, as the bytes that the kernel takes. Nothing here calls the kernel.

Landlock (https://docs.kernel.org/userspace-api/landlock.html) lets a process give up its rights to files, TCP ports
and other processes for good, for itself and all that it starts, without being root. What it can give up grows with
the version ("ABI") of the kernel's Landlock; what this kernel does not know is left to the filter of system calls.
It does not guard rights and times of files, nor whether a path exists.
"""

from __future__ import annotations

import struct
from typing import Final

LEAST_ABI: Final = 3
"""Linux 6.2. Before, a task could cut files to nothing that it may only read."""

SIGNALS_ABI: Final = 6
"""Linux 6.12: from here on, Landlock keeps signals and abstract sockets inside."""

_NETWORK_ABI: Final = 4
_DEVICES_ABI: Final = 5

EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_FOLDER: Final = 1 << 3
REMOVE_FOLDER: Final = 1 << 4
REMOVE_FILE: Final = 1 << 5
MAKE_DEVICE: Final = 1 << 6
MAKE_FOLDER: Final = 1 << 7
MAKE_FILE: Final = 1 << 8
MAKE_SOCKET: Final = 1 << 9
MAKE_FIFO: Final = 1 << 10
MAKE_BLOCK: Final = 1 << 11
MAKE_LINK: Final = 1 << 12
REFER: Final = 1 << 13
TRUNCATE: Final = 1 << 14
DEVICE_CONTROL: Final = 1 << 15

READ: Final = EXECUTE | READ_FILE | READ_FOLDER
WRITE: Final = (
    WRITE_FILE
    | REMOVE_FOLDER
    | REMOVE_FILE
    | MAKE_FOLDER
    | MAKE_FILE
    | MAKE_SOCKET
    | MAKE_FIFO
    | MAKE_LINK
    | REFER
    | TRUNCATE
)
"""Everything but making devices, which no task needs."""

_OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | DEVICE_CONTROL
"""What can be said about a file that is no folder."""

_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_ABSTRACT_SOCKETS, _SIGNALS = 1 << 0, 1 << 1


def handled_files(abi: int) -> int:
    """All rights to files that this version can take away."""
    most = TRUNCATE if abi < _DEVICES_ABI else DEVICE_CONTROL
    return (most << 1) - 1


def ruleset(abi: int, *, network: bool) -> bytes:
    """``struct landlock_ruleset_attr``: what is forbidden where no rule allows it.

    Args:
        abi: The kernel's version of Landlock, at least `LEAST_ABI`.
        network: Whether TCP may be used.
    """
    parts = [handled_files(abi)]
    if abi >= _NETWORK_ABI:
        parts.append(0 if network else _BIND_TCP | _CONNECT_TCP)
    if abi >= SIGNALS_ABI:
        parts.append(_ABSTRACT_SOCKETS | _SIGNALS)
    return struct.pack(f"={len(parts)}Q", *parts)


def rule(abi: int, descriptor: int, *, writable: bool, folder: bool, device: bool = False) -> bytes:
    """``struct landlock_path_beneath_attr``: what is allowed at an open file, or at a folder and below it."""
    allowed = (READ | WRITE) if writable else READ
    allowed |= DEVICE_CONTROL if device else 0
    allowed &= handled_files(abi) if folder else handled_files(abi) & _OF_FILES
    return struct.pack("=Qi", allowed, descriptor)
