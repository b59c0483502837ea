"""The few calls of the Linux kernel that Python has no function for: filters, Landlock, dying with the parent.

Each raises `OSError` where the kernel refuses. Nothing can be taken back: the process and all that it starts keep
what was set here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from typing import Final

from hivemind_p2p.worker import landlock

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_SIGKILL: Final = 9

_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
_SECCOMP_SET_MODE_FILTER: Final = 1
_ALL_THREADS: Final = 1
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_ASK_VERSION: Final = 1
_PATH_BENEATH: Final = 1


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def die_with(parent: int) -> None:
    """Lets this process be killed when the thread that started it ends; ends it now if that has happened."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def stay_readable() -> None:
    """Lets a process that has changed its user look at its own entries in /proc, which else belong to root."""
    _prctl(_PR_SET_DUMPABLE, 1)


def adopt_orphans() -> None:
    """Makes this process the parent of all below it whose own parents end, so that none is lost sight of."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def give_up_new_privileges() -> None:
    """Takes the effect from set-user-id programs; the kernel asks for it before a filter or Landlock."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def filter_calls(program: bytes) -> None:
    """Installs a filter of system calls, in all threads of this process."""
    buffer = ctypes.create_string_buffer(program, len(program))
    description = _Program(len(program) // 8, ctypes.cast(buffer, ctypes.c_char_p))
    number = _SECCOMP[os.uname().machine]
    if _call(number, _SECCOMP_SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(description)):
        raise OSError(errno.EBUSY, "a thread of this process has another filter already")


def landlock_abi() -> int:
    """The version of Landlock; 0 where the kernel has none, or has it switched off."""
    try:
        return _call(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), _ASK_VERSION)
    except OSError:
        return 0


def restrict(
    abi: int, readable: Iterable[str], writable: Iterable[str], devices: Iterable[str] = (), *, network: bool
) -> None:
    """Gives up all files but these, for good. Paths that do not exist are left out."""
    attributes = landlock.ruleset(abi, network=network)
    ruleset = _call(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    try:
        for path in readable:
            _allow(abi, ruleset, path, writable=False)
        for path in writable:
            _allow(abi, ruleset, path, writable=True)
        for path in devices:
            _allow(abi, ruleset, path, writable=True, device=True)
        _call(_LANDLOCK_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(abi: int, ruleset: int, path: str, *, writable: bool, device: bool = False) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        rule = landlock.rule(abi, descriptor, writable=writable, folder=folder, device=device)
        _call(_LANDLOCK_ADD, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)


def _prctl(option: int, value: int) -> None:
    _check(_libc().prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def _call(number: int, *arguments: object) -> int:
    return _check(_libc().syscall(ctypes.c_long(number), *arguments))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
