"""What a worker uses, task by task and as a machine, for whoever looks: the screen, the status page, a test.

`Reporter` asks the executor and the system, and remembers enough of the last look to say how much of a core each task
keeps busy now. Reading what NVIDIA's driver prints is apart, and pure.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import trio

from hivemind_p2p.types import PeerId
from hivemind_p2p.worker import monitor

GPU_QUERY: Final = "--query-gpu=name,utilization.gpu,memory.used,memory.total"
GPU_DEADLINE: Final = 3.0
"""Seconds for nvidia-smi: a driver that hangs must not hold up anything."""

MOST_GPUS: Final = 16
"""GPUs that are reported."""


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A task that runs.

    Attributes:
        task_id: The caller's name for it.
        caller: Whose it is.
        task_type: What kind.
        seconds: For how long it has run.
        cpu_seconds: Processor time of its child so far.
        memory_bytes: The most memory seen.
        ready: Tasks that lie ready behind it in the same child.
        cores: Cores that it keeps busy now.
    """

    task_id: str
    caller: PeerId
    task_type: str
    seconds: float
    cpu_seconds: float
    memory_bytes: int
    ready: int = 0
    cores: float = 0.0


@dataclass(frozen=True, slots=True)
class GpuReport:
    """One GPU.

    Attributes:
        busy: The share of time in which it computed, between 0 and 1.
    """

    name: str
    busy: float
    memory_used_bytes: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class MachineReport:
    """The machine, and what runs on it for others.

    Attributes:
        cpu: The share of all cores that is busy, between 0 and 1.
        memory_used_bytes: Of the whole machine.
        memory_bytes: What it has.
        tasks: What runs.
        gpus: Its GPUs.
    """

    cpu: float = 0.0
    memory_used_bytes: int = 0
    memory_bytes: int = 0
    tasks: tuple[TaskReport, ...] = ()
    gpus: tuple[GpuReport, ...] = ()


class RunsTasks(Protocol):
    """What knows which tasks run; `worker.executor.ChildExecutor` is it."""

    def tasks(self) -> list[TaskReport]:
        """Those that run now."""


def with_cores(
    tasks: Iterable[TaskReport], before: dict[tuple[PeerId, str], tuple[float, float]], now: float
) -> tuple[list[TaskReport], dict[tuple[PeerId, str], tuple[float, float]]]:
    """The tasks with the cores that each keeps busy since `before`, and what to hand in as `before` next time."""
    found, seen = [], {}
    for task in tasks:
        key = (task.caller, task.task_id)
        since, used = before.get(key, (now - task.seconds, task.cpu_seconds))
        passed = now - since
        cores = max(0.0, (task.cpu_seconds - used) / passed) if passed > 0 else 0.0
        seen[key] = (now, task.cpu_seconds)
        found.append(replace(task, cores=cores))
    return found, seen


def read_gpus(text: str) -> tuple[GpuReport, ...]:
    """What ``nvidia-smi`` printed for `GPU_QUERY` as bare numbers with commas; lines that say nothing are left out."""
    found = []
    for row in csv.reader(text.splitlines()[:MOST_GPUS], skipinitialspace=True):
        if len(row) != 4:
            continue
        try:
            busy, used, total = (float(value) for value in row[1:])
        except ValueError:
            continue  # "[N/A]": a GPU that is split, or in a state in which it does not know
        found.append(GpuReport(row[0].strip(), min(1.0, busy / 100), int(used * 2**20), int(total * 2**20)))
    return tuple(found)


async def gpus() -> tuple[GpuReport, ...]:
    """The GPUs that NVIDIA's driver knows; none where there is no driver, or no answer in time."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command: Sequence[str] = (program, GPU_QUERY, "--format=csv,noheader,nounits")
    with trio.move_on_after(GPU_DEADLINE):
        try:
            done = await trio.run_process(
                command, capture_stdout=True, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError:
            return ()
        return read_gpus(done.stdout.decode(errors="replace")) if done.returncode == 0 else ()
    return ()


class Reporter:
    """Looks at the machine and at an executor's tasks.

    Args:
        runner: The executor; None where no tasks are run.
    """

    def __init__(self, runner: RunsTasks | None) -> None:
        self._runner = runner
        self._before: dict[tuple[PeerId, str], tuple[float, float]] = {}
        self._gpus: tuple[GpuReport, ...] = ()

    @property
    def has_gpus(self) -> bool:
        """Whether the last look found any."""
        return bool(self._gpus)

    def look(self, now: float) -> MachineReport:
        """How it is now; `now` in seconds on a clock that only moves forward."""
        machine = monitor.machine()
        tasks, self._before = with_cores(self._runner.tasks() if self._runner else (), self._before, now)
        return MachineReport(
            cpu=machine["cpu_percent"] / 100,
            memory_used_bytes=int(machine["memory_used_bytes"]),
            memory_bytes=int(machine["memory_bytes"]),
            tasks=tuple(tasks),
            gpus=self._gpus,
        )

    async def look_at_gpus(self) -> None:
        """Asks the driver, for the next `look`; takes a good part of a second."""
        self._gpus = await gpus()
