"""Tasks as protobuf and back, with every field that a peer sends checked before it is used."""

from __future__ import annotations

from typing import Final

from hivemind_p2p import errors
from hivemind_p2p.defaults import REQUEST_DEADLINE
from hivemind_p2p.errors import HivemindError, ProtocolError, TaskError, TaskFailedError
from hivemind_p2p.proto import tasks_pb2
from hivemind_p2p.tasks.raised import failed
from hivemind_p2p.types import PeerId

PROTOCOL: Final = "/hivemind/tasks/2"

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


def transfer_deadline(length: int) -> float:
    """Seconds that a message with this many bytes behind it may take."""
    return REQUEST_DEADLINE + length / SLOWEST


def read_error(report: tasks_pb2.Report, peer: PeerId) -> HivemindError | None:
    """The error that a report tells of, naming the peer; None if it went well.

    Raises:
        ProtocolError: It tells of something other than the task.
    """
    if not report.error_code:
        return None
    message = f"on peer {peer}: {printable(report.error_message)}"
    if report.error_code == TaskFailedError.code():
        return failed(message, report.exception[:64], printable(report.remote_traceback))
    error = errors.from_code(report.error_code[:64], message)
    if not isinstance(error, TaskError):
        raise ProtocolError(f"peer {peer} reported {printable(report.error_code[:64])!r} as a task's error")
    return error


def printable(text: str) -> str:
    """A peer's text, its length bounded and without what could steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text[-MAX_TEXT:])
