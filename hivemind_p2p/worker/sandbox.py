"""The walls around a child process, as a command line. Nothing here starts anything.

With bubblewrap (Linux) the child sees an empty system: the interpreter and its packages, read-only and at their own
paths, a small /tmp of its own, no network, no other processes, no home folder, none of the peer's files. Without
bubblewrap Landlock gives up the same files, and a filter of system calls the network and the other processes; what
exists, and how much is written, is hidden less well. Both walls have the filter. Where neither can be had, the child
is a plain process with limits; then only trusted work may be run, and only if the user says so.
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
from hivemind_p2p.errors import SandboxError
from hivemind_p2p.worker import landlock, seccomp
from hivemind_p2p.worker.gpus import SHOWN, Gpu, devices_of, groups_of
from hivemind_p2p.worker.gpus import environment as environment_of
from hivemind_p2p.worker.wall_in import Orders

WallName = Literal["bubblewrap", "landlock", "none"]

SandboxName = Literal["auto", "bubblewrap", "landlock", "none"]
"""What may be asked for: the strongest that works, one of them or an error, or no walls."""

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
_NETWORK_FILES: Final = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
)
"""What a task that may use the network needs to find others and to know them."""
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_PROC_FILES: Final = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/loadavg", "/proc/uptime", "/proc/version")
"""Of the machine; of processes a child sees its own only."""

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
        name: ``bubblewrap``, ``landlock`` or ``none``.
        own_user: Whether each child gives up root for a user of its own. Only root can offer that; with bubblewrap
            anybody else gets a user namespace instead.
        program: Where bubblewrap lies.
        landlock: The version of Landlock that is used; 0 for none.
        filtered: Whether system calls are filtered.
        network: Whether the machine's network may be used.
    """

    name: WallName
    own_user: bool = False
    program: str = ""
    landlock: int = 0
    filtered: bool = False
    network: bool = False

    @property
    def holds(self) -> bool:
        """Whether it keeps strangers' code in, so that it may be run."""
        return self.name != "none"

    def __str__(self) -> str:
        if not self.holds:
            return "no walls"
        parts = ["bubblewrap"] if self.name == "bubblewrap" else []
        parts += ["Landlock"] if self.landlock else []
        parts += ["seccomp"] if self.filtered else []
        parts += ["a user of its own"] if self.own_user else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Python:
    """The interpreter that the child runs, and the folders that it needs to see."""

    executable: str
    folders: tuple[str, ...]
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine has for walls.

    Attributes:
        bubblewrap: Where it lies; empty if it is not installed.
        root: Whether this process is root.
        landlock: The kernel's version of Landlock; 0 for none.
        filtered: Whether the filter of system calls knows this kind of processor.
    """

    bubblewrap: str = ""
    root: bool = False
    landlock: int = 0
    filtered: bool = False


def this_machine() -> Machine:
    """What there is; whether it works shows when a child is started with it."""
    if sys.platform != "linux":
        return Machine()
    from hivemind_p2p.worker import kernel

    return Machine(
        bubblewrap=shutil.which("bwrap") or "",
        root=os.geteuid() == 0,
        landlock=kernel.landlock_abi(),
        filtered=os.uname().machine in seccomp.MACHINES,
    )


def walls(wanted: SandboxName, machine: Machine, *, unsafe: bool = False) -> tuple[Wall, ...]:
    """The ways to start a child, strongest first. Which of them work shows when one is tried.

    Args:
        wanted: What was asked for.
        machine: What there is.
        unsafe: Whether ``auto`` may end with no walls.
    """
    if wanted == "none":
        return (Wall("none"),)
    found: list[Wall] = []
    abi = machine.landlock if machine.landlock >= landlock.LEAST_ABI else 0
    users = (True, False) if machine.root else (False,)
    if wanted in ("auto", "bubblewrap") and machine.bubblewrap:
        found += [Wall("bubblewrap", own, machine.bubblewrap, abi, machine.filtered) for own in users]
    # Root without a user of its own would keep root's rights, which reach around Landlock.
    if wanted in ("auto", "landlock") and abi and machine.filtered:
        found.append(Wall("landlock", machine.root, "", abi, filtered=True))
    if wanted == "auto" and unsafe:
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


def environment(scratch: str, gpus: Sequence[Gpu] = ()) -> dict[str, str]:
    """The few variables that a child has, none of them the peer's own."""
    return {
        **environment_of(gpus),
        "PATH": "/usr/bin:/bin",
        "HOME": scratch,
        "TMPDIR": scratch,
        "USER": "task",
        "LOGNAME": "task",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",  # what a command prints is followed while it runs
        # One core was asked for unless the task says otherwise: more threads only get in each other's way.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def command(
    wall: Wall,
    python: Python,
    *,
    uid: int,
    parent: int,
    scratch: str = "",
    hidden: Sequence[str] = (),
    gpus: Sequence[Gpu] = (),
) -> list[str]:
    """The command line of a child.

    Args:
        wall: How to start it.
        python: What to start.
        uid: The user that the child becomes where the wall gives it one.
        parent: The process with which a child without bubblewrap dies.
        scratch: The folder of a child without bubblewrap.
        hidden: Folders that must not be seen even where they lie inside one that is shown.
        gpus: What it may use of them.

    Raises:
        SandboxError: Such a folder cannot be hidden.
    """
    walled = wall.name == "bubblewrap"
    readable, writable = _shown(wall, python, scratch, hidden)
    devices = devices_of(gpus)
    if gpus and wall.landlock:
        readable = (*readable, *SHOWN)
    orders = Orders(
        wall=wall.name,
        uid=uid if wall.own_user else 0,
        parent=0 if walled else parent,
        network=wall.network,
        landlock=wall.landlock,
        filtered=wall.filtered,
        groups=groups_of(devices) if wall.own_user else (),
        devices=devices,
        readable=readable,
        writable=writable,
    )
    program = [python.executable, "-I", "-c", _START, ":".join(python.path), orders.to_text()]
    if not walled:
        return program
    return [
        wall.program,
        *_namespaces(wall),
        *_file_system(python.folders, hidden, network=wall.network, devices=devices),
        "--",
        *program,
    ]


def _shown(wall: Wall, python: Python, scratch: str, hidden: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What Landlock leaves readable, and what writable."""
    if not wall.landlock:
        return (), ()
    if wall.name == "bubblewrap":
        return ("/",), ("/tmp", "/dev")  # noqa: S108 - inside the sandbox, where nothing else is to be found
    folders = (*_SYSTEM, *_outermost(python.folders))
    for folder in hidden:
        around = [shown for shown in folders if _is_inside(folder, shown)]
        if around:
            raise SandboxError(
                f"the folder {folder} lies inside {around[0]}, which every task may read",
                hint="Choose another data folder with --data, or install bubblewrap, which can hide it.",
            )
    files = (*_SYSTEM_FILES, *_PROC_FILES, *(_NETWORK_FILES if wall.network else ()))
    return (*folders, *files), (scratch, *_DEVICES)


def _namespaces(wall: Wall) -> list[str]:
    arguments = ["--die-with-parent", "--new-session", "--unshare-ipc", "--unshare-pid"]
    arguments += [] if wall.network else ["--unshare-net"]
    arguments += ["--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox", "--cap-drop", "ALL"]
    if wall.own_user:
        return [*arguments, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*arguments, "--unshare-user"]


def _file_system(folders: Iterable[str], hidden: Sequence[str], *, network: bool, devices: Sequence[str]) -> list[str]:
    arguments = ["--proc", "/proc", "--dev", "/dev"]
    for scratch in ("/tmp", "/dev/shm"):  # noqa: S108 - inside the sandbox
        arguments += ["--perms", "1777", "--size", str(SCRATCH_BYTES), "--tmpfs", scratch]
    for folder in _SYSTEM:
        if os.path.islink(folder):
            arguments += ["--symlink", os.readlink(folder), folder]
        else:
            arguments += ["--ro-bind-try", folder, folder]
    files = (*_SYSTEM_FILES, *(_NETWORK_FILES if network else ()), *(SHOWN if devices else ()))
    arguments += _single_files(files, devices)
    shown = _outermost(folders)
    for folder in _ancestors(shown):
        arguments += ["--perms", "0755", "--dir", folder]
    for folder in shown:
        arguments += ["--ro-bind", folder, folder]
    for folder in hidden:
        if any(_is_inside(folder, other) for other in shown):
            arguments += ["--tmpfs", folder]
    return [*arguments, "--remount-ro", "/", "--chdir", "/tmp"]  # noqa: S108


def _single_files(files: Sequence[str], devices: Sequence[str]) -> list[str]:
    arguments: list[str] = []
    for folder in _ancestors((*files, *devices)):
        arguments += ["--perms", "0755", "--dir", folder]  # those that bubblewrap makes by itself are for root only
    for path in files:
        arguments += ["--ro-bind-try", path, path]
    for device in devices:
        arguments += ["--dev-bind-try", device, device]
    return arguments


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
