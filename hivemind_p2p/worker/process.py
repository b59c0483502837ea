"""One child process: started, spoken to through `worker.pipes`, metered, killed.

The process is started on trio's own thread: a worker thread would do it without holding the loop up (it takes some
3 ms), but "die with the parent" means the *thread* that started the process, and worker threads end when idle.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import psutil
import trio

from hivemind_p2p.errors import SandboxError
from hivemind_p2p.types import SharedPart
from hivemind_p2p.worker import sandbox
from hivemind_p2p.worker.cgroups import Group
from hivemind_p2p.worker.gpus import Gpu
from hivemind_p2p.worker.limits import BASE_MEMORY
from hivemind_p2p.worker.monitor import Meter
from hivemind_p2p.worker.packets import BrokenFrameError, Reply
from hivemind_p2p.worker.pipes import ChildGoneError, ChildPipes

START_DEADLINE: Final = 20.0
"""Seconds until a child must be ready: a fraction of one on an idle machine, some on one that starts swapping."""

KILL_DEADLINE: Final = 5.0
"""Seconds that a killed process has to be gone: only one stuck in the kernel takes longer, and it is left behind."""

RESULTS: Final = "results"
"""The folder, inside the executor's, for results that are too large to be held in memory."""

_MAX_COMPLAINT: Final = 2_000
_numbers: Final = itertools.count()


@dataclass(eq=False)
class ChildProcess:
    """A child that is ready for work.

    Attributes:
        wall: How it was started.
        meter: What it uses.
        group: Its cgroup, if it has one.
        key: Whom it belongs to; None while it is fresh.
        slots: The shared parts that it has, and in which slots of its table they lie.
        inputs: The links of files that it has open, the oldest first.
        suspect: Whether a task may have left something running in it.
        sampled_at: When its memory was last looked at.
    """

    wall: sandbox.Wall
    meter: Meter
    _popen: subprocess.Popen[bytes]
    pipes: ChildPipes
    _scratch: str
    group: Group | None = None
    key: object = field(default=None)
    slots: dict[SharedPart, int] = field(default_factory=dict)
    inputs: dict[str, None] = field(default_factory=dict)
    suspect: bool = False
    sampled_at: float = 0.0
    _cpu_seconds: float = 0.0
    _no_memory: bool = False

    @classmethod
    async def start(
        cls,
        wall: sandbox.Wall,
        folder: Path,
        hidden: Sequence[str],
        group: Group | None = None,
        gpus: Sequence[Gpu] = (),
    ) -> ChildProcess:
        """Starts a child, in a cgroup of its own if there is one, and with these GPUs; waits until it is ready.

        Raises:
            SandboxError: It could not be started, or was not ready in time.
        """
        uid = sandbox.FIRST_UID + (os.getpid() * 64 + next(_numbers)) % sandbox.UIDS
        try:
            scratch = _make_scratch(wall, folder, uid)
        except OSError as error:
            raise SandboxError(f"a child process has no folder to work in: {error}") from error
        with tempfile.TemporaryFile() as complaints:
            try:
                popen, pipes = _spawn(wall, uid, scratch, hidden, complaints, folder / RESULTS, group, gpus)
            except SandboxError:
                _clear(scratch, group)
                raise
            except (OSError, ValueError) as error:
                _clear(scratch, group)
                raise SandboxError(f"a child process could not be started: {error}") from error
            try:
                await _wait_until_ready(pipes)
                meter = Meter(popen.pid, walled=wall.name == "bubblewrap", scratch=scratch)
            except BaseException as error:
                await _end(popen, None, pipes)
                _clear(scratch, group)
                if isinstance(error, (ChildGoneError, trio.TooSlowError, psutil.Error)):
                    raise SandboxError(_complaint(wall, complaints, error)) from error
                raise
        return cls(wall, meter, popen, pipes, scratch, group)

    def limit(self, memory_bytes: int, cpus: float) -> None:
        """Says what a task may have from now on; for the kernel, where it counts the child as a whole."""
        if self.group is not None:
            self.group.limit(memory_bytes + BASE_MEMORY + 2 * sandbox.SCRATCH_BYTES, cpus)

    def out_of_memory(self) -> bool:
        """Whether the kernel has ended it because it had no memory left."""
        return self._no_memory or (self.group is not None and self.group.out_of_memory())

    def send_now(self, packet: bytes) -> bool:
        """Sends a packet if the socket has room for it."""
        return self.pipes.send_now(packet)

    def recall(self) -> list[bytes]:
        """Takes back every packet that the child has not taken."""
        return self.pipes.recall()

    def cpu_seconds(self) -> float:
        """Processor time of the child so far, without that of its own children."""
        try:
            # Linux's clock of another process, as clock_getcpuclockid(3) names it: a fifth of what /proc costs.
            self._cpu_seconds = time.clock_gettime((~self.meter.child.pid << 3) | 2)
        except OSError:
            self._cpu_seconds = max(self._cpu_seconds, self.meter.quick().cpu_seconds)
        return self._cpu_seconds

    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._popen.poll() is None

    def exit_status(self) -> str:
        """How it ended, for people; call once it is gone."""
        code = self._popen.poll()
        if code is None:
            return "it closed its pipe"
        # bubblewrap gives back what a shell would: 128 and the signal's number.
        number = -code if code < 0 else code - 128
        if number in set(signal.Signals):
            return f"it was ended by {signal.Signals(number).name}"
        return f"it ended with exit status {code}"

    async def wait_for_end(self) -> None:
        """Waits, not long, until the process has ended by itself."""
        with trio.move_on_after(KILL_DEADLINE):
            await _reaped(self._popen)

    async def kill(self) -> None:
        """Ends it and everything that it started, at once. Safe to call twice, and while being cancelled."""
        await _end(self._popen, self.meter.init, self.pipes, self.group)
        self._no_memory = self.out_of_memory()  # the group, which knows, goes now
        _clear(self._scratch, self.group)

    def kill_now(self) -> None:
        """The same without waiting, for when there is no more time."""
        _kill(self._popen, self.meter.init, self.group)


def _make_scratch(wall: sandbox.Wall, folder: Path, uid: int) -> str:
    """A folder for a child without bubblewrap, in which it has one of its own."""
    if wall.name == "bubblewrap":
        return ""
    if not wall.own_user:
        return tempfile.mkdtemp(prefix="task-", dir=folder)
    # Another user than the peer's could not get through the peer's own folder to it.
    scratch = tempfile.mkdtemp(prefix="hivemind-task-")
    os.chown(scratch, uid, uid)
    return scratch


def _clear(scratch: str, group: Group | None) -> None:
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    if group is not None:
        group.close()


def _spawn(
    wall: sandbox.Wall,
    uid: int,
    scratch: str,
    hidden: Sequence[str],
    complaints: IO[bytes],
    results: Path,
    group: Group | None,
    gpus: Sequence[Gpu],
) -> tuple[subprocess.Popen[bytes], ChildPipes]:
    python = sandbox.this_python()
    command = sandbox.command(wall, python, uid=uid, parent=os.getpid(), scratch=scratch, hidden=hidden, gpus=gpus)
    command = command if group is None else group.command(command)
    pipes = ChildPipes(results)
    try:
        popen = subprocess.Popen(  # noqa: S603 - the command line is our own
            command,
            stdin=pipes.child_reads,
            stdout=pipes.child_writes,
            stderr=complaints,
            env=sandbox.environment(scratch or "/tmp", gpus),  # noqa: S108 - inside the sandbox
            cwd=scratch or "/",
            start_new_session=True,
        )
    except OSError:
        pipes.close()
        raise
    pipes.child_started()
    return popen, pipes


async def _wait_until_ready(pipes: ChildPipes) -> None:
    with trio.fail_after(START_DEADLINE):
        replies: list[Reply] = []
        while not replies and await pipes.wait_readable():
            try:
                replies += pipes.receive_now()
            except BrokenFrameError as error:
                raise ChildGoneError(str(error)) from error


def _complaint(wall: sandbox.Wall, complaints: IO[bytes], error: BaseException) -> str:
    complaints.seek(0)
    said = complaints.read(_MAX_COMPLAINT).decode("utf-8", "replace").strip()
    reason = "it was not ready in time" if isinstance(error, trio.TooSlowError) else "it ended"
    return f"a child with sandbox {wall.name!r} could not be started: {said or reason}"


def _kill(popen: subprocess.Popen[bytes], init: psutil.Process | None, group: Group | None = None) -> None:
    if group is not None:
        group.end()
    # The first process of a sandbox takes everything in it along; bubblewrap outside then ends by itself and leaves
    # no zombie behind. Whatever is not in a sandbox is in the process group.
    if init is not None:
        try:
            init.kill()
        except psutil.Error:
            pass  # it is gone already
        else:
            return
    try:
        os.killpg(popen.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


async def _end(
    popen: subprocess.Popen[bytes], init: psutil.Process | None, pipes: ChildPipes, group: Group | None = None
) -> None:
    if popen.returncode is None or init is None:
        _kill(popen, init, group)
    with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_DEADLINE):
        pipes.close()
        await _reaped(popen)


async def _reaped(popen: subprocess.Popen[bytes]) -> None:
    pause = 0.001
    while popen.poll() is None:
        await trio.sleep(pause)
        pause = min(pause * 2, 0.05)
