"""The loop of the sandboxed child process: takes a packet, runs what is in it, writes what came of it.

It stands between two of a stranger's function calls, so it is short and keeps nothing that matters: what a task does
to it harms only its own caller's later tasks. A result is written before the next packet is taken; `worker.packets`
says why.
"""

from __future__ import annotations

import io
import os
import resource
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hivemind_p2p.errors import HivemindError, TaskFailedError, TaskMemoryError
from hivemind_p2p.proto.tasks_pb2 import Report
from hivemind_p2p.tasks import references, registry, values
from hivemind_p2p.tasks.raised import closest_builtin
from hivemind_p2p.tasks.spec import most_result_bytes
from hivemind_p2p.worker import limits, packets
from hivemind_p2p.worker.packets import MAX_MESSAGE, MAX_OUTPUT, MAX_TRACEBACK

if TYPE_CHECKING:
    from types import TracebackType

    from hivemind_p2p.interfaces import Buffer

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_DESCRIPTOR: Final = 4
_ROOM: Final = socket.CMSG_SPACE(_DESCRIPTOR)
_READY: Final = packets.REPLY_HEAD.pack(packets.READY, 0, 0, 0, 0, 0.0, 0.0, 0)
_PEAK_UNIT: Final = 1024 if os.uname().sysname == "Linux" else 1
_PEAK_EVERY: Final = 0.05
"""Seconds between two looks at the peak of memory: the question costs more than a small task."""


class Tail(io.RawIOBase):
    """A file that keeps the end of what is written to it, and may pass everything on."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self.pass_on: Callable[[bytes], None] | None = None

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Keeps the end."""
        self._kept += data[-MAX_OUTPUT:]
        if len(self._kept) > 2 * MAX_OUTPUT:
            del self._kept[:-MAX_OUTPUT]
        if self.pass_on is not None:
            self.pass_on(bytes(data))
        return len(data)

    def take(self) -> str:
        """What was written since the last call."""
        if not self._kept:
            return ""
        text = self._kept[-MAX_OUTPUT:].decode("utf-8", "replace")
        self._kept.clear()
        return text


class Server:
    """Serves one executor until the executor closes its end or kills the process.

    Args:
        requests: The descriptor that packets come from.
        replies: The descriptor that frames are written to.
        output: Where the work's prints go.
    """

    def __init__(self, requests: int, replies: int, output: Tail) -> None:
        self._requests = requests
        self._socket = socket.socket(fileno=requests)
        self._inputs: dict[str, None] = {}
        self._replies = replies
        self._output = output
        self._memory_bytes = 0
        self._shared: dict[int, bytes] = {}
        self._types: dict[bytes, Any] = {}
        self._peak, self._peak_seen = 0, 0.0
        self._children_seconds = 0.0
        self._own_pid = os.getpid()

    def serve(self) -> None:
        """Says that it is ready, then runs what comes."""
        write_all(self._replies, _READY)
        while packet := self._take():
            kind = packet[0]
            if kind == packets.TASK:
                self._task(packet)
            elif kind == packets.SHARED:
                _, slot, length = packets.SHARED_HEAD.unpack_from(packet)
                self._shared[slot] = self._whole(packet[packets.SHARED_HEAD.size :], length)

    def _take(self) -> bytes:
        packet, beside, _, _ = self._socket.recvmsg(packets.LARGEST_PACKET, _ROOM, socket.MSG_CMSG_CLOEXEC)
        if beside:
            self._take_input(packets.link_of(packet), int.from_bytes(beside[0][2][:_DESCRIPTOR], sys.byteorder))
        return packet

    def _take_input(self, link: str | None, descriptor: int) -> None:
        if link is None:
            os.close(descriptor)
            return
        self._inputs.pop(link, None)
        if len(self._inputs) >= packets.INPUTS:
            oldest = next(iter(self._inputs))
            del self._inputs[oldest]
            references.drop_file(oldest)
        self._inputs[link] = None
        references.take_file(link, descriptor)

    def _whole(self, beginning: bytes, length: int) -> bytes:
        if len(beginning) == length:
            return beginning
        data = bytearray(beginning)
        while len(data) < length:
            data += os.read(self._requests, packets.LARGEST_PACKET)[1:]
        return bytes(data)

    def _task(self, packet: bytes) -> None:
        _, ticket, slot, flags, memory_bytes, named, length = packets.TASK_HEAD.unpack_from(packet)
        if memory_bytes != self._memory_bytes:  # a child serves one size only, so this is once
            self._memory_bytes = memory_bytes
            limits.lower(limits.for_task(memory_bytes))
        start = packets.TASK_HEAD.size
        name = packet[start : start + named]
        payload = memoryview(self._whole(packet[start + named :], length))
        if flags & packets.STREAM_OUTPUT:
            self._output.pass_on = lambda data: self._print(ticket, data)
        wall, cpu = time.perf_counter(), time.process_time()
        report, value = self._run(name, slot, payload)
        if os.getpid() != self._own_pid:
            os._exit(0)  # a process that the task forked has come out of its function
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self._output.pass_on = None
        has_children = _has_children()
        self._answer(ticket, report, value, wall, cpu + self._of_children(), has_children)

    def _answer(
        self, ticket: int, report: Report | None, value: list[Buffer], wall: float, cpu: float, has_children: bool
    ) -> None:
        if printed := self._output.take():
            report = report or Report()
            report.output = printed
        header = report.SerializeToString() if report is not None else b""
        left = packets.LEFT_SOMETHING if has_children or _threads() != 1 else 0
        size = sum([len(part) if type(part) is bytes else memoryview(part).nbytes for part in value])
        head = packets.REPLY_HEAD.pack(packets.RESULT, ticket, left, len(header), size, wall, cpu, self._peak_bytes())
        if size < 1 << 16:
            write_all(self._replies, b"".join((head, header, *value)))
            return
        for part in (head + header, *value):
            write_all(self._replies, memoryview(part).cast("B"))

    def _print(self, ticket: int, data: bytes) -> None:
        if os.getpid() == self._own_pid:
            head = packets.REPLY_HEAD.pack(packets.PRINTED, ticket, 0, 0, len(data), 0.0, 0.0, 0)
            write_all(self._replies, head + data)

    def _peak_bytes(self) -> int:
        now = time.monotonic()
        if now - self._peak_seen > _PEAK_EVERY:
            self._peak_seen = now
            self._peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_UNIT
        return self._peak

    def _of_children(self) -> float:
        """Processor time of processes that the work has started and waited for."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = used.ru_utime + used.ru_stime
        new, self._children_seconds = seconds - self._children_seconds, seconds
        return new

    def _run(self, name: bytes, slot: int, payload: memoryview) -> tuple[Report | None, list[Buffer]]:
        try:
            kind = self._types.get(name) or self._type(name)
            result = kind.run_shared(self._shared[slot], payload) if slot else kind.run(payload)
            if result is None:
                return None, [values.ENCODED_NONE]
            return None, values.encode_parts(result, max_bytes=most_result_bytes(self._memory_bytes))
        except MemoryError as error:
            return _report(TaskMemoryError.code(), "it needed more memory than it asked for", error), []
        except HivemindError as error:
            return _report(error.code(), error.message, error), []
        except BaseException as error:  # SystemExit and KeyboardInterrupt too end the task, not the child
            return _report(TaskFailedError.code(), _describe(error), error), []

    def _type(self, name: bytes) -> Any:
        found = self._types[name] = registry.task_type(name.decode("utf-8", "replace"))
        return found


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Writes everything, however much the pipe takes at a time."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


def _threads() -> int:
    import _thread

    return _thread._count() + 1


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _report(code: str, message: str, error: BaseException) -> Report:
    return Report(
        error_code=code,
        error_message=_plain(message[:MAX_MESSAGE]),
        remote_traceback=_plain(_traceback(error)[-MAX_TRACEBACK:]),
        exception=closest_builtin(error),
    )


def _plain(text: str) -> str:
    """Text without lone surrogates, which protobuf refuses."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _describe(error: BaseException) -> str:
    lines = traceback.format_exception_only(type(error), error)
    notes = len(getattr(error, "__notes__", ()))  # they come last, one a line or more
    said = lines[: len(lines) - notes] if 0 < notes < len(lines) else lines
    return said[-1].strip() if said else type(error).__name__


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, _own_frames_cut(error.__traceback__)))


def _own_frames_cut(place: TracebackType | None) -> TracebackType | None:
    """The part of a traceback below the frames of this program and of the task type."""
    rooms = tuple(os.path.join(_PACKAGE, room, "") for room in ("worker", "tasks"))
    while place is not None and place.tb_frame.f_code.co_filename.startswith(rooms):
        place = place.tb_next
    return place
