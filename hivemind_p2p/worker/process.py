"""One child process: started, spoken to over two pipes, metered, killed.

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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import psutil
import trio
from google.protobuf.message import DecodeError

from hivemind_p2p.errors import SandboxError
from hivemind_p2p.proto.tasks_pb2 import ChildRequest, Report
from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES
from hivemind_p2p.worker import sandbox
from hivemind_p2p.worker.frames import MAX_HEADER_BYTES, PREFIX
from hivemind_p2p.worker.monitor import Meter

START_DEADLINE: Final = 20.0
"""Seconds until a child must be ready: a fraction of one on an idle machine, some on one that starts swapping."""

KILL_DEADLINE: Final = 5.0
"""Seconds that a killed process has to be gone: only one stuck in the kernel takes longer, and it is left behind."""

_MAX_COMPLAINT: Final = 2_000
_numbers: Final = itertools.count()


class ChildGoneError(Exception):
    """The child ended, or wrote what no child of ours writes."""


@dataclass(eq=False)
class ChildProcess:
    """A child that is ready for work.

    Attributes:
        wall: How it was started.
        meter: What it uses.
        key: Whom it belongs to; None while it is fresh.
    """

    wall: sandbox.Wall
    meter: Meter
    _popen: subprocess.Popen[bytes]
    _stdin: trio.lowlevel.FdStream
    _stdout: trio.lowlevel.FdStream
    _scratch: str
    key: object = field(default=None)

    @classmethod
    async def start(cls, wall: sandbox.Wall, folder: Path, hidden: Sequence[str]) -> ChildProcess:
        """Starts a child and waits until it is ready.

        Raises:
            SandboxError: It could not be started, or was not ready in time.
        """
        uid = sandbox.FIRST_UID + (os.getpid() * 64 + next(_numbers)) % sandbox.UIDS
        scratch = _make_scratch(wall, folder, uid)
        with tempfile.TemporaryFile() as complaints:
            try:
                popen, stdin, stdout = _spawn(wall, uid, scratch, hidden, complaints)
            except SandboxError:
                _clear(scratch)
                raise
            except (OSError, ValueError) as error:
                _clear(scratch)
                raise SandboxError(f"a child process could not be started: {error}") from error
            try:
                await _wait_until_ready(stdout)
                meter = Meter(popen.pid, walled=wall.name == "bubblewrap", scratch=scratch)
            except BaseException as error:
                await _end(popen, None, stdin, stdout)
                _clear(scratch)
                if isinstance(error, (ChildGoneError, trio.TooSlowError, psutil.Error)):
                    raise SandboxError(_complaint(wall, complaints, error)) from error
                raise
        return cls(wall, meter, popen, stdin, stdout, scratch)

    async def exchange(self, task_type: str, memory_bytes: int, payload: bytes) -> tuple[Report, bytes]:
        """Hands a task over and waits for what comes of it.

        Raises:
            ChildGoneError: The child ended or broke the rules of the pipe.
        """
        header = ChildRequest(task_type=task_type, memory_bytes=memory_bytes).SerializeToString()
        start = PREFIX.pack(len(header), len(payload)) + header
        try:
            await self._stdin.send_all(start)
            if payload:
                await self._stdin.send_all(payload)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ChildGoneError("it closed its pipe") from error
        return await _receive(self._stdout)

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
        await _end(self._popen, self.meter.init, self._stdin, self._stdout)
        _clear(self._scratch)

    def kill_now(self) -> None:
        """The same without waiting, for when there is no more time."""
        _kill(self._popen, self.meter.init)


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


def _clear(scratch: str) -> None:
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)


def _spawn(
    wall: sandbox.Wall, uid: int, scratch: str, hidden: Sequence[str], complaints: IO[bytes]
) -> tuple[subprocess.Popen[bytes], trio.lowlevel.FdStream, trio.lowlevel.FdStream]:
    python = sandbox.this_python()
    command = sandbox.command(wall, python, uid=uid, parent=os.getpid(), scratch=scratch, hidden=hidden)
    child_reads, we_write = os.pipe()
    we_read, child_writes = os.pipe()
    try:
        popen = subprocess.Popen(  # noqa: S603 - the command line is our own
            command,
            stdin=child_reads,
            stdout=child_writes,
            stderr=complaints,
            env=sandbox.environment(scratch or "/tmp"),  # noqa: S108 - inside the sandbox
            cwd=scratch or "/",
            start_new_session=True,
        )
    except OSError:
        os.close(we_write)
        os.close(we_read)
        raise
    finally:
        os.close(child_reads)
        os.close(child_writes)
    return popen, trio.lowlevel.FdStream(we_write), trio.lowlevel.FdStream(we_read)


async def _wait_until_ready(stdout: trio.lowlevel.FdStream) -> None:
    with trio.fail_after(START_DEADLINE):
        await _receive(stdout)


async def _receive(stdout: trio.lowlevel.FdStream) -> tuple[Report, bytes]:
    """One frame, its lengths checked before memory is taken for them."""
    header_length, payload_length = PREFIX.unpack(await _exactly(stdout, PREFIX.size))
    if header_length > MAX_HEADER_BYTES or payload_length > MAX_PAYLOAD_BYTES:
        raise ChildGoneError("it wrote a frame that is larger than any result")
    header = await _exactly(stdout, header_length)
    payload = await _exactly(stdout, payload_length)
    try:
        return Report.FromString(header), payload
    except DecodeError as error:
        raise ChildGoneError("it wrote something that is no result") from error


async def _exactly(stdout: trio.lowlevel.FdStream, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        try:
            chunk = await stdout.receive_some(length - len(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ChildGoneError("its pipe broke") from error
        if not chunk:
            raise ChildGoneError("it ended")
        data += chunk
    return bytes(data)


def _complaint(wall: sandbox.Wall, complaints: IO[bytes], error: BaseException) -> str:
    complaints.seek(0)
    said = complaints.read(_MAX_COMPLAINT).decode("utf-8", "replace").strip()
    reason = "it was not ready in time" if isinstance(error, trio.TooSlowError) else "it ended"
    return f"a child with sandbox {wall.name!r} could not be started: {said or reason}"


def _kill(popen: subprocess.Popen[bytes], init: psutil.Process | None) -> None:
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
    popen: subprocess.Popen[bytes],
    init: psutil.Process | None,
    stdin: trio.lowlevel.FdStream,
    stdout: trio.lowlevel.FdStream,
) -> None:
    if popen.returncode is None or init is None:
        _kill(popen, init)
    with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_DEADLINE):
        await stdin.aclose()
        await stdout.aclose()
        await _reaped(popen)


async def _reaped(popen: subprocess.Popen[bytes]) -> None:
    pause = 0.001
    while popen.poll() is None:
        await trio.sleep(pause)
        pause = min(pause * 2, 0.05)
