"""Tasks as protobuf and back, with every field that a peer sends checked before it is used."""

from __future__ import annotations

import math
from typing import Final

from hivemind_p2p import errors
from hivemind_p2p.defaults import REQUEST_DEADLINE
from hivemind_p2p.errors import ConfigurationError, HivemindError, ProtocolError, TaskError, TaskFailedError
from hivemind_p2p.proto import tasks_pb2
from hivemind_p2p.tasks.spec import MAX_TASK_ID, TaskSpec
from hivemind_p2p.types import Credits, Needs, Outcome, PeerId, Usage

PROTOCOL: Final = "/hivemind/tasks/1"

ALIVE_INTERVAL: Final = 4.0
"""Seconds between two signs of life of a worker that has a task."""

SILENCE_DEADLINE: Final = 15.0
"""Seconds without a sign of life after which a worker counts as lost."""

CHANNEL_IDLE: Final = 60.0
"""Seconds that a caller keeps an idle channel for its next task; the worker closes it somewhat later."""

MAX_TEXT: Final = 100_000
"""Characters of a report's texts that are kept: a long traceback and the output."""

SLOWEST: Final = 250_000.0
"""Bytes a second below which a payload counts as stalled: a slow home line, upwards."""

INLINE_BYTES: Final = 1 << 20
"""Bytes of a value that travel behind Finished; a longer one has a message, and so a deadline, of its own."""

_LONGEST_SECONDS: Final = 30 * 24 * 3600.0
_LARGEST_MEMORY: Final = 1 << 50


def transfer_deadline(length: int) -> float:
    """Seconds that a message with this many bytes behind it may take."""
    return REQUEST_DEADLINE + length / SLOWEST


def request_message(spec: TaskSpec, payment: bytes) -> tasks_pb2.FromCaller:
    """The first message of a task."""
    needs = tasks_pb2.Needs(
        cpus=spec.needs.cpus, memory_bytes=spec.needs.memory_bytes, seconds=float(spec.needs.seconds)
    )
    return tasks_pb2.FromCaller(
        request=tasks_pb2.Request(
            task_id=spec.task_id, task_type=spec.task_type, needs=needs, max_cost=spec.max_cost, payment=payment
        )
    )


def read_request(request: tasks_pb2.Request, payload: memoryview, caller: PeerId) -> TaskSpec:
    """A task as a worker received it.

    Raises:
        ProtocolError: A field is missing or out of bounds.
    """
    needs = request.needs
    numbers = (needs.cpus, needs.seconds)
    if not all(math.isfinite(number) for number in numbers) or needs.seconds > _LONGEST_SECONDS:
        raise ProtocolError(f"peer {caller} asked for {needs.cpus:g} cpus and {needs.seconds:g} seconds")
    if not 0 < len(request.task_id) <= MAX_TASK_ID or not request.task_id.isprintable():
        raise ProtocolError(f"peer {caller} sent a task without a proper id")
    if needs.memory_bytes > _LARGEST_MEMORY or request.max_cost >= 1 << 63:
        raise ProtocolError(f"peer {caller} asked for {needs.memory_bytes} bytes at a cost of {request.max_cost}")
    try:
        read = Needs(cpus=needs.cpus, memory=needs.memory_bytes, seconds=needs.seconds)
    except ConfigurationError as error:
        raise ProtocolError(f"peer {caller} sent a task whose needs make no sense: {error.message}") from error
    return TaskSpec(request.task_id, request.task_type, bytes(payload), read, Credits(request.max_cost))


def finished_message(outcome: Outcome, receipt: bytes, *, value_bytes: int = 0) -> tasks_pb2.FromWorker:
    """The last message of a task."""
    report = tasks_pb2.Report(
        error_code=outcome.error_code,
        error_message=outcome.error_message,
        remote_traceback=outcome.remote_traceback,
        output=outcome.output,
    )
    finished = tasks_pb2.Finished(
        report=report,
        wall_seconds=outcome.usage.wall_seconds,
        cpu_seconds=outcome.usage.cpu_seconds,
        peak_memory_bytes=outcome.usage.peak_memory_bytes,
        receipt=receipt,
        value_bytes=value_bytes,
    )
    return tasks_pb2.FromWorker(finished=finished)


def read_usage(finished: tasks_pb2.Finished) -> Usage:
    """What a worker says that the task took; nonsense reads as nothing."""
    seconds = (finished.wall_seconds, finished.cpu_seconds)
    wall, cpu = (number if math.isfinite(number) and number >= 0 else 0.0 for number in seconds)
    return Usage(wall, cpu, finished.peak_memory_bytes)


def read_error(report: tasks_pb2.Report, peer: PeerId) -> HivemindError | None:
    """The error that a report tells of, naming the peer; None if it went well.

    Raises:
        ProtocolError: It tells of something other than the task.
    """
    if not report.error_code:
        return None
    message = f"on peer {peer}: {printable(report.error_message)}"
    error = errors.from_code(report.error_code[:64], message)
    if not isinstance(error, TaskError):
        raise ProtocolError(f"peer {peer} reported {printable(report.error_code[:64])!r} as a task's error")
    if isinstance(error, TaskFailedError):
        error.remote_traceback = printable(report.remote_traceback)
    return error


def printable(text: str) -> str:
    """A peer's text, its length bounded and without what could steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text[-MAX_TEXT:])
