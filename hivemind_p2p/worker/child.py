"""The program in the sandboxed child process: reads a task from its standard input, runs it, writes what came of it.

Everything here runs beside code that strangers wrote. It limits itself before it reads the first task, keeps the
pipes away from that code's prints, and imports little, so that a fresh child is ready soon. It is started by
`worker.sandbox` as ``python -I -c ... PATHS ORDERS``; the orders are those of `worker.wall_in`.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import TYPE_CHECKING, BinaryIO, Final

from hivemind_p2p.errors import HivemindError, TaskFailedError, TaskMemoryError
from hivemind_p2p.proto.tasks_pb2 import ChildRequest, Report
from hivemind_p2p.worker import limits
from hivemind_p2p.worker.frames import MAX_MESSAGE, MAX_OUTPUT, MAX_TRACEBACK, PREFIX
from hivemind_p2p.worker.wall_in import Orders, wall_in

if TYPE_CHECKING:
    from types import TracebackType

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class _Tail(io.RawIOBase):
    """A file that keeps the end of what is written to it."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._kept += data[-MAX_OUTPUT:]
        if len(self._kept) > 2 * MAX_OUTPUT:
            del self._kept[:-MAX_OUTPUT]
        return len(data)

    def take(self) -> str:
        """What was written since the last call."""
        text = self._kept[-MAX_OUTPUT:].decode("utf-8", "replace")
        self._kept.clear()
        return text


def main() -> None:
    """Runs until the executor closes the pipe or kills the process."""
    requests, replies = _take_pipes()
    wall_in(Orders.from_text(sys.argv[2]))
    _warm_up()
    _to_nothing(2)  # until here the executor reads complaints from it
    output = _capture_output()
    _send(replies, b"", b"")
    own_pid = os.getpid()
    while (prefix := requests.read(PREFIX.size)) and len(prefix) == PREFIX.size:
        header_length, payload_length = PREFIX.unpack(prefix)
        request = ChildRequest.FromString(requests.read(header_length))
        payload = memoryview(requests.read(payload_length))
        limits.lower(limits.for_task(request.memory_bytes))  # a child serves one size only
        report, value = _run(request.task_type, payload)
        if os.getpid() != own_pid:
            os._exit(0)  # a process that the task forked has come out of its function
        report.output = output.take()
        _send(replies, report.SerializeToString(), value)


def _warm_up() -> None:
    """Imports what every task needs, so that no task waits for it."""
    import cloudpickle  # noqa: F401

    from hivemind_p2p.tasks import registry, values

    registry.task_types()
    values.encode(None)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Moves the pipes away from descriptors 0 and 1, where a task's own output would go."""
    requests, replies = os.dup(0), os.dup(1)
    _to_nothing(0, 1)
    return os.fdopen(requests, "rb"), os.fdopen(replies, "wb")


def _to_nothing(*descriptors: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(nothing, descriptor)
    os.close(nothing)


def _capture_output() -> _Tail:
    tail = _Tail()
    wrapper = io.TextIOWrapper(tail, "utf-8", errors="backslashreplace", write_through=True)  # type: ignore[type-var]
    sys.stdout = sys.stderr = wrapper
    return tail


def _run(task_type: str, payload: memoryview) -> tuple[Report, bytes]:
    from hivemind_p2p.tasks import registry, values
    from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES

    try:
        result = registry.task_type(task_type).run(payload)
        return Report(), values.encode(result, max_bytes=MAX_PAYLOAD_BYTES)
    except MemoryError as error:
        return _report(TaskMemoryError.code(), "it needed more memory than it asked for", error), b""
    except HivemindError as error:
        return _report(error.code(), error.message, error), b""
    except BaseException as error:  # SystemExit and KeyboardInterrupt too end the task, not the child
        return _report(TaskFailedError.code(), _describe(error), error), b""


def _report(code: str, message: str, error: BaseException) -> Report:
    return Report(
        error_code=code,
        error_message=_plain(message[:MAX_MESSAGE]),
        remote_traceback=_plain(_traceback(error)[-MAX_TRACEBACK:]),
    )


def _plain(text: str) -> str:
    """Text without lone surrogates, which protobuf refuses."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _describe(error: BaseException) -> str:
    lines = traceback.format_exception_only(type(error), error)
    return lines[-1].strip() if lines else type(error).__name__


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, _own_frames_cut(error.__traceback__)))


def _own_frames_cut(place: TracebackType | None) -> TracebackType | None:
    """The part of a traceback below the frames of this program and of the task type."""
    rooms = tuple(os.path.join(_PACKAGE, room, "") for room in ("worker", "tasks"))
    while place is not None and place.tb_frame.f_code.co_filename.startswith(rooms):
        place = place.tb_next
    return place


def _send(replies: BinaryIO, header: bytes, payload: bytes) -> None:
    replies.write(PREFIX.pack(len(header), len(payload)) + header)
    replies.write(payload)
    replies.flush()
