"""Limits that the kernel holds for a child and all that it starts: cgroups of version 2, where they can be had.

Limits of single processes (`worker.limits`) do not stop many that each take a little, and looks at a child come a tenth
of a second apart. A cgroup counts memory, processor time and processes of the whole child in the kernel.
To make one, the peer must own a part of the tree: systemd gives it one to a service with ``Delegate=yes``, a container
may have one, root can take one. Where none is to be had, the peer goes on with what it has.

https://docs.kernel.org/admin-guide/cgroup-v2.html; processes may not lie in a cgroup whose children have limits, so
the peer moves itself into one of its own first.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hivemind_p2p.worker.limits import MAX_PROCESSES

ROOT: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")

NEEDED: Final = ("memory", "pids")
WISHED: Final = ("memory", "pids", "cpu")

PERIOD: Final = 100_000
"""Microseconds over which processor time is shared out: the kernel's own default."""

PEER: Final = "peer"
"""The cgroup that the peer itself goes to."""

_PREFIX: Final = "hivemind-"
_JOIN: Final = 'echo $$ > "$0" && exec "$@"'


class NoCgroupsError(Exception):
    """There are none to be had; the text says why, as the end of a sentence."""


@dataclass(eq=False)
class Group:
    """The cgroup of one child.

    Args:
        path: Its folder.
        cpu: Whether processor time can be limited.
        remove: Removes the folder.
    """

    path: Path
    cpu: bool
    remove: Callable[[Path], None]
    _set: dict[str, str] = field(default_factory=dict)

    def command(self, command: Sequence[str]) -> list[str]:
        """A command that joins the cgroup before anything else, so that nothing of it is left outside."""
        return ["/bin/sh", "-c", _JOIN, str(self.path / "cgroup.procs"), *command]

    def limit(self, memory_bytes: int, cpus: float) -> None:
        """Sets what the child may have from now on; what is set already costs nothing."""
        self._write("memory.max", str(memory_bytes))
        if self.cpu:
            self._write("cpu.max", f"{max(1_000, int(cpus * PERIOD))} {PERIOD}")

    def _write(self, name: str, value: str) -> None:
        if self._set.get(name) != value:
            with suppress(OSError):  # a child that has ended takes no limits; its other walls hold
                self.path.joinpath(name).write_text(value)
            self._set[name] = value

    def begin(self) -> None:
        """Sets what holds for every child."""
        self._write("pids.max", str(MAX_PROCESSES))
        self._write("memory.swap.max", "0")
        self._write("memory.oom.group", "1")

    def out_of_memory(self) -> bool:
        """Whether the kernel has ended it because it had no memory left."""
        try:
            events = dict(line.split() for line in self.path.joinpath("memory.events").read_text().splitlines())
        except (OSError, ValueError):
            return False
        return events.get("oom_kill", "0") != "0"

    def end(self) -> None:
        """Kills what is left in it, at once."""
        with suppress(OSError):  # Linux 5.14
            self.path.joinpath("cgroup.kill").write_text("1")

    def close(self) -> None:
        """Removes it, once everything in it is gone."""
        with suppress(OSError):
            self.remove(self.path)


class Groups:
    """The part of the tree that this peer owns. Made by `find`.

    Args:
        base: Where its children's cgroups go.
        cpu: Whether processor time can be limited.
        pid: This process.
        remove: Removes a folder.
    """

    def __init__(self, base: Path, *, cpu: bool, pid: int, remove: Callable[[Path], None] = os.rmdir) -> None:
        self.base = base
        self.cpu = cpu
        self._pid = pid
        self._remove = remove
        self._numbers = itertools.count()

    def make(self) -> Group | None:
        """A cgroup for a new child; None where the kernel gives no more."""
        group = Group(self.base / f"{_PREFIX}{self._pid}-{next(self._numbers)}", self.cpu, self._remove)
        try:
            group.path.mkdir()
        except OSError:
            return None
        group.begin()
        return group

    def tidy(self) -> None:
        """Removes those that peers which were killed have left; one that is in use cannot be removed."""
        for left in self.base.glob(f"{_PREFIX}*"):
            with suppress(OSError):
                self._remove(left)


def find(
    root: Path = ROOT,
    own: Path = OWN,
    *,
    pid: int | None = None,
    remove: Callable[[Path], None] = os.rmdir,
    only_look: bool = False,
) -> Groups:
    """The part of the tree that this peer may use, made ready.

    Args:
        root: Where the tree is mounted.
        own: Where the kernel says which cgroup this process is in.
        pid: This process.
        remove: Removes a folder.
        only_look: Whether nothing is to be changed: to know whether it could be used.

    Raises:
        NoCgroupsError: There is none.
    """
    pid = os.getpid() if pid is None else pid
    place = _place(root, own)
    reasons = []
    for base in dict.fromkeys((place.parent if place.name == PEER else place, place, root)):
        try:
            cpu = _make_ready(base, pid, is_root=base == root, only_look=only_look)
        except NoCgroupsError as error:
            reasons.append(str(error))
            continue
        except OSError as error:
            reasons.append(f"{base} cannot be used: {error.strerror or error}")
            continue
        groups = Groups(base, cpu=cpu, pid=pid, remove=remove)
        if not only_look:
            groups.tidy()
        return groups
    raise NoCgroupsError(reasons[0])


def _place(root: Path, own: Path) -> Path:
    try:
        lines = own.read_text().splitlines()
    except OSError as error:
        raise NoCgroupsError("this system has no cgroups") from error
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None or not root.joinpath("cgroup.controllers").is_file():
        raise NoCgroupsError("this system has cgroups of version 1 only")
    return root / path.lstrip("/")


def _make_ready(base: Path, pid: int, *, is_root: bool, only_look: bool) -> bool:
    """Sees to it that cgroups below `base` have limits; whether of processor time, too."""
    controllers = base.joinpath("cgroup.controllers").read_text().split()
    if lacking := [name for name in NEEDED if name not in controllers]:
        raise NoCgroupsError(f"the cgroup of this peer has no control of {' and '.join(lacking)}")
    if not (os.access(base, os.W_OK) and os.access(base / "cgroup.procs", os.W_OK)):
        raise NoCgroupsError("this peer may not make cgroups of its own")
    control = base / "cgroup.subtree_control"
    if any(name not in control.read_text().split() for name in NEEDED):
        inside = {int(line) for line in base.joinpath("cgroup.procs").read_text().split()}
        if is_root or inside - {pid}:
            raise NoCgroupsError("other processes are in the cgroup of this peer")
        if only_look:
            return "cpu" in controllers
        base.joinpath(PEER).mkdir(exist_ok=True)
        base.joinpath(PEER, "cgroup.procs").write_text(str(pid))
        control.write_text(" ".join(f"+{name}" for name in WISHED if name in controllers))
    return "cpu" in controllers
