"""What a child and its descendants use: processor time, memory, processes, disk; and what of it is too much."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from hivemind_p2p.errors import TaskCrashedError, TaskError, TaskMemoryError

INTERVAL: Final = 0.1
"""Seconds between two looks at a running child: soon enough to stop a memory bomb, cheap enough to forget (about a
millisecond a look)."""

MAX_PROCESSES: Final = 300
"""Processes of one task before it is stopped: the second line behind the kernel's own limit."""


MOST_FILES: Final = 20_000
"""Files and folders that a task may make on the machine's disk: looking at them takes a few hundredths of a second."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a child used so far.

    Attributes:
        cpu_seconds: User and system time of the child, of its living descendants, and of those it waited for.
        memory_bytes: Resident now, shared pages counted in each process.
        processes: The child and its descendants.
        threads: Threads of the child itself; 0 if it is gone.
        disk_bytes: What lies in its folder, where that is a folder of the machine's disk.
    """

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    processes: int = 0
    threads: int = 0
    disk_bytes: int = 0


def exceeded(sample: Sample, *, memory_bytes: int, disk_bytes: int) -> TaskError | None:
    """Why a task has to be stopped; None while it keeps to its limits."""
    if sample.memory_bytes > memory_bytes:
        return TaskMemoryError(f"it used {sample.memory_bytes:,} bytes of memory")
    if sample.processes > MAX_PROCESSES:
        return TaskCrashedError(f"it was stopped when it had {sample.processes} processes")
    if sample.disk_bytes > disk_bytes:
        return TaskCrashedError(f"it was stopped when it had written {sample.disk_bytes:,} bytes")
    return None


class Meter:
    """Reads one child, which may end at any moment.

    Args:
        pid: The process that was started: the child, or bubblewrap in front of it.
        walled: Whether bubblewrap stands in front of it: the process, in it the first process of the sandbox, in
            that the child.
        scratch: The child's folder on the machine's disk, if it has one.
    """

    def __init__(self, pid: int, *, walled: bool, scratch: str = "") -> None:
        self._scratch = scratch
        self.root = psutil.Process(pid)
        self.init = _only_child(self.root) if walled else None
        self.child = _only_child(self.init) if self.init is not None else self.root

    def quick(self) -> Sample:
        """The child alone: a few microseconds, for the beginning and the end of a task."""
        try:
            with self.child.oneshot():
                return Sample(_cpu(self.child), self.child.memory_info().rss, 1, self.child.num_threads())
        except psutil.Error:
            return Sample()

    def full(self) -> Sample:
        """The child and its descendants; those that left their parents too, where a sandbox holds them together."""
        cpu, memory, processes = 0.0, 0, 0
        for process in self._tree():
            try:
                with process.oneshot():
                    cpu += _cpu(process)
                    memory += process.memory_info().rss
                    processes += 1
            except psutil.Error:
                continue
        disk = folder_bytes(self._scratch) if self._scratch else 0
        return Sample(cpu, memory, processes, self.quick().threads, disk)

    def _tree(self) -> list[psutil.Process]:
        try:
            if self.init is None:
                return [self.child, *self.child.children(recursive=True)]
            return list(self.init.children(recursive=True))
        except psutil.Error:
            return []

    def is_alone(self) -> bool:
        """Whether the child has no descendant and no second thread left over from a task."""
        if self.quick().threads != 1 or _children(self.child.pid):
            return False
        return self.init is None or _children(self.init.pid) == [self.child.pid]


def folder_bytes(folder: str) -> int:
    """What a folder takes on the disk, links not followed; at most `MOST_FILES` files are looked at.

    A folder with more files than that counts as full: so many can only be an attack.
    """
    total, seen, folders = 0, 0, [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    seen += 1
                    total += _on_disk(entry)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    if seen > MOST_FILES:
                        return 1 << 62
        except OSError:
            continue  # the task has removed it meanwhile
    return total


def _on_disk(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512
    except OSError:
        return 0


class OtherPrograms:
    """How busy programs other than this one and its children keep the machine."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._before = self._now()

    def share(self) -> float:
        """Of all cores together, since the last call; between 0 and 1."""
        (busy, own, total), before = self._now(), self._before
        self._before = (busy, own, total)
        passed = total - before[2]
        # Children that ended take their time along, or hand it to this process at once: never less than nothing.
        others = (busy - before[0]) - max(0.0, own - before[1])
        return min(1.0, max(0.0, others / passed)) if passed > 0 else 0.0

    def _now(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        total = float(sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0))
        return total - idle, self._tree(), total

    def _tree(self) -> float:
        own = self._own.cpu_times()
        used = float(own.user + own.system + own.children_user + own.children_system)
        for child in self._own.children(recursive=True):
            try:
                times = child.cpu_times()
            except psutil.Error:
                continue
            used += float(times.user + times.system)
        return used


def machine() -> dict[str, float]:
    """The whole machine: cores busy in per cent since the last call, bytes of memory in use and in all."""
    memory = psutil.virtual_memory()
    return {
        "cpu_percent": psutil.cpu_percent(),
        "memory_used_bytes": float(memory.total - memory.available),
        "memory_bytes": float(memory.total),
    }


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _children(pid: int) -> list[int]:
    """The processes that a process started, from the list that Linux keeps, which is quicker than a search."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return _children_by_search(pid)


def _children_by_search(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _only_child(process: psutil.Process | None) -> psutil.Process:
    """Raises `psutil.NoSuchProcess` where there is none."""
    pids = _children(process.pid) if process is not None else []
    if not pids:
        raise psutil.NoSuchProcess(process.pid if process else 0)
    return psutil.Process(pids[0])
