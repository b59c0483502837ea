"""The walls around a child process, as a command line. Nothing here starts anything.

With bubblewrap (Linux) the child sees an empty system: the interpreter and its packages, read-only and at their own
paths, a small /tmp of its own, no network, no other processes, no home folder, none of the peer's files. Without it
the child is a plain process with limits; then only trusted work should be run, and the peer says so.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import hivemind_p2p

SandboxName = Literal["auto", "bubblewrap", "none"]
"""What may be asked for: the strongest that works, bubblewrap or an error, or no walls."""

SCRATCH_BYTES: Final = 256 << 20
"""Bytes that a task may write into its /tmp, which lies in memory, and as many again into /dev/shm."""

FIRST_UID: Final = 1 << 30
"""Under root, children run as users from here on, far above any that exist; each its own, so that the kernel counts
its processes apart."""

UIDS: Final = 1 << 29
"""How many such users there are."""

_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_SYSTEM_FILES: Final = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/sys/devices/system/cpu",
)
_INSTALLED: Final = ("site-packages", "dist-packages")
_START: Final = (
    "import sys; first, *rest = sys.argv[1].split(':'); sys.path.insert(0, first); "
    "sys.path.extend(path for path in rest if path not in sys.path); "
    "from hivemind_p2p.worker.child import main; main()"
)


@dataclass(frozen=True, slots=True)
class Wall:
    """One way to start a child.

    Attributes:
        name: ``bubblewrap`` or ``none``.
        own_user: Whether each child gives up root for a user of its own. Only root can offer that; anybody else
            gets a user namespace instead.
        program: Where bubblewrap lies.
    """

    name: Literal["bubblewrap", "none"]
    own_user: bool = False
    program: str = ""


@dataclass(frozen=True, slots=True)
class Python:
    """The interpreter that the child runs, and the folders that it needs to see."""

    executable: str
    folders: tuple[str, ...]
    path: tuple[str, ...]


def walls(wanted: SandboxName) -> tuple[Wall, ...]:
    """The ways to start a child on this machine, strongest first. Which of them work shows when one is tried."""
    if wanted == "none":
        return (Wall("none"),)
    program = shutil.which("bwrap") if sys.platform == "linux" else None
    found: list[Wall] = []
    if program is not None and os.geteuid() == 0:
        found.append(Wall("bubblewrap", own_user=True, program=program))
    if program is not None:
        found.append(Wall("bubblewrap", program=program))
    if wanted == "auto":
        found.append(Wall("none"))
    return tuple(found)


def this_python() -> Python:
    """The interpreter that runs now, and this package wherever it lies."""
    package = Path(hivemind_p2p.__file__).resolve().parent
    installed = [path for path in sys.path if any(part in _INSTALLED for part in Path(path).parts)]
    return Python(
        executable=sys.executable,
        folders=(sys.base_prefix, sys.prefix, *installed, str(package)),
        path=(str(package.parent), *installed),
    )


def environment(scratch: str) -> dict[str, str]:
    """The few variables that a child has, none of them the peer's own."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": scratch,
        "TMPDIR": scratch,
        "USER": "task",
        "LOGNAME": "task",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        # One core was asked for unless the task says otherwise: more threads only get in each other's way.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def command(wall: Wall, python: Python, *, uid: int, parent: int, hidden: Sequence[str] = ()) -> list[str]:
    """The command line of a child.

    Args:
        wall: How to start it.
        python: What to start.
        uid: The user that the child becomes where the wall gives it one.
        parent: The process with which a child without walls dies.
        hidden: Folders that must not be seen even where they lie inside one that is shown.
    """
    program = [python.executable, "-I", "-c", _START, ":".join(python.path)]
    program += [str(uid if wall.own_user else 0), str(0 if wall.name == "bubblewrap" else parent)]
    if wall.name == "none":
        return program
    return [wall.program, *_namespaces(wall), *_file_system(python.folders, hidden), "--", *program]


def _namespaces(wall: Wall) -> list[str]:
    arguments = ["--die-with-parent", "--new-session", "--unshare-ipc", "--unshare-pid", "--unshare-net"]
    arguments += ["--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox", "--cap-drop", "ALL"]
    if wall.own_user:
        return [*arguments, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*arguments, "--unshare-user"]


def _file_system(folders: Iterable[str], hidden: Sequence[str]) -> list[str]:
    arguments = ["--proc", "/proc", "--dev", "/dev"]
    for scratch in ("/tmp", "/dev/shm"):  # noqa: S108 - inside the sandbox
        arguments += ["--perms", "1777", "--size", str(SCRATCH_BYTES), "--tmpfs", scratch]
    for folder in _SYSTEM:
        if os.path.islink(folder):
            arguments += ["--symlink", os.readlink(folder), folder]
        else:
            arguments += ["--ro-bind-try", folder, folder]
    for path in _SYSTEM_FILES:
        arguments += ["--ro-bind-try", path, path]
    shown = _outermost(folders)
    for folder in _ancestors(shown):
        arguments += ["--perms", "0755", "--dir", folder]
    for folder in shown:
        arguments += ["--ro-bind", folder, folder]
    for folder in hidden:
        if any(_is_inside(folder, other) for other in shown):
            arguments += ["--tmpfs", folder]
    return [*arguments, "--remount-ro", "/", "--chdir", "/tmp"]  # noqa: S108


def _outermost(folders: Iterable[str]) -> list[str]:
    """Absolute folders without those that lie inside another or in the system's own."""
    kept: list[str] = []
    for folder in sorted({os.path.abspath(folder) for folder in folders if os.path.isdir(folder)}, key=len):
        if not any(_is_inside(folder, other) for other in (*kept, *_SYSTEM)):
            kept.append(folder)
    return kept


def _ancestors(folders: Iterable[str]) -> list[str]:
    """The folders on the way to these, outermost first; empty in the sandbox, but open to the child's own user."""
    above = {str(parent) for folder in folders for parent in Path(folder).parents}
    return sorted(above - {"/", "/tmp"}, key=len)  # noqa: S108


def _is_inside(path: str, folder: str) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(folder)
