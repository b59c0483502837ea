"""Jobs on the disk: what was to be run, who has it, and what came of it, so that a program that was killed finds them.

A job has up to three files in the folder, named after its id: ``.task`` (written before it is sent), ``.peer`` (who has
it) and ``.end`` (its result or error). Each is written aside and put in its place in one step. Their content is that of
safe values: reading a file that is damaged, or was made by somebody else, runs nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hivemind_p2p import errors
from hivemind_p2p.errors import ConfigurationError, HivemindError, ProtocolError, UnknownJobError
from hivemind_p2p.tasks.raised import failed
from hivemind_p2p.tasks.reading import decode
from hivemind_p2p.tasks.spec import MOST_LINKED_BYTES, TaskResult, TaskSpec
from hivemind_p2p.tasks.values import encode
from hivemind_p2p.types import Credits, Input, Link, Needs, PeerId, SharedPart, Usage

KEEP_SECONDS: Final = 30 * 24 * 3600.0
"""How long a job that has ended is kept."""

LARGEST_FILE: Final = MOST_LINKED_BYTES + (256 << 20)
"""Bytes: the largest result, or a task of 64 MiB with its shared part, and some more."""

_ID: Final = re.compile(r"[0-9a-f]{8,64}")
_PLAIN: Final = ("task_type", "idempotent", "priority", "stream_output", "max_retries", "deadline", "keep")


@dataclass(frozen=True, slots=True)
class KeptJob:
    """A job as the book has it.

    Attributes:
        spec: What is to be run.
        name: What it is called.
        peer: Who had it last; None if nobody.
        result: What it gave, if it did.
        error: What became of it instead.
    """

    spec: TaskSpec
    name: str
    peer: PeerId | None = None
    result: TaskResult | None = None
    error: HivemindError | None = None

    @property
    def state(self) -> str:
        """``COMPLETED``, ``FAILED``, or ``RUNNING`` where nothing is known of its end."""
        if self.result is not None:
            return "COMPLETED"
        return "FAILED" if self.error is not None else "RUNNING"


class JobBook:
    """The jobs of one peer.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, spec: TaskSpec, name: str) -> None:
        """A job is about to be sent for the first time."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        row: dict[str, Any] = {each: getattr(spec, each) for each in _PLAIN}
        row |= {
            "name": name,
            "payload": spec.payload,
            "shared": spec.shared.data if spec.shared is not None else None,
            "needs": asdict(spec.needs),
            "max_cost": int(spec.max_cost),
            "inputs": [[str(each.link), each.length] for each in spec.inputs],
        }
        self._write(spec.task_id, "task", row)

    def assigned(self, job_id: str, peer: PeerId) -> None:
        """Somebody has it now."""
        self._write(job_id, "peer", {"peer": str(peer)})

    def ended(self, job_id: str, result: TaskResult) -> None:
        """It gave a result."""
        row = {
            "value": result.value,
            "cost": int(result.cost),
            "peer": str(result.peer),
            "output": result.output,
            "seconds": [result.usage.wall_seconds, result.usage.cpu_seconds],
        }
        self._write(job_id, "end", row)

    def failed(self, job_id: str, error: HivemindError) -> None:
        """It did not."""
        row = {"code": error.code(), "message": error.message, "hint": error.hint}
        row |= {"kind": type(error).__name__, "traceback": getattr(error, "remote_traceback", "")}
        self._write(job_id, "end", row)

    def read(self, job_id: str) -> KeptJob:
        """A job.

        Raises:
            UnknownJobError: It is not in the book, or its files are damaged.
        """
        row = self._read(job_id, "task")
        if row is None:
            raise UnknownJobError(f"there is no job {job_id!r}")
        peer, end = self._read(job_id, "peer"), self._read(job_id, "end")
        try:
            spec = _spec(job_id, row)
            result, error = _end(end) if end is not None else (None, None)
            return KeptJob(spec, str(row["name"]), PeerId(peer["peer"]) if peer else None, result, error)
        except (KeyError, TypeError, ValueError, ConfigurationError) as wrong:
            raise UnknownJobError(f"what was kept of the job {job_id!r} is damaged: {wrong!r}") from wrong

    def ids(self) -> list[str]:
        """All jobs, the newest last."""
        return [path.stem for path in sorted(self._tasks(), key=lambda path: path.stat().st_mtime)]

    def forget(self, job_id: str) -> None:
        """Removes a job."""
        for kind in ("task", "peer", "end"):  # in this order: without the first, the others count for nothing
            self._path(job_id, kind).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Removes jobs that have ended long ago."""
        oldest = time.time() - KEEP_SECONDS
        for path in list(self._folder.glob("*.end")):
            if path.stat().st_mtime < oldest:
                self.forget(path.stem)

    def _tasks(self) -> Iterator[Path]:
        return self._folder.glob("*.task")

    def _path(self, job_id: str, kind: str) -> Path:
        if not _ID.fullmatch(job_id):
            raise UnknownJobError(f"not the id of a job: {job_id[:100]!r}")
        return self._folder / f"{job_id}.{kind}"

    def _write(self, job_id: str, kind: str, row: dict[str, Any]) -> None:
        path = self._path(job_id, kind)
        aside = path.with_suffix(f".{kind}-new")
        aside.write_bytes(encode(row, max_bytes=LARGEST_FILE))
        aside.replace(path)

    def _read(self, job_id: str, kind: str) -> dict[str, Any] | None:
        try:
            data = self._path(job_id, kind).read_bytes()
        except FileNotFoundError:
            return None
        try:
            row = decode(data, max_bytes=LARGEST_FILE)
        except ProtocolError as error:
            raise UnknownJobError(f"what was kept of the job {job_id!r} is damaged: {error.message}") from error
        if not isinstance(row, dict):
            raise UnknownJobError(f"what was kept of the job {job_id!r} is damaged")
        return row


def _spec(job_id: str, row: dict[str, Any]) -> TaskSpec:
    shared = row["shared"]
    return TaskSpec(
        task_id=job_id,
        payload=row["payload"],
        needs=Needs(**row["needs"]),
        max_cost=Credits(row["max_cost"]),
        shared=SharedPart(shared) if shared is not None else None,
        inputs=tuple(Input(Link(link), length) for link, length in row["inputs"]),
        **{each: row[each] for each in _PLAIN},
    )


def _end(row: dict[str, Any]) -> tuple[TaskResult | None, HivemindError | None]:
    if "code" not in row:
        usage = Usage(*row["seconds"])
        return TaskResult(row["value"], Credits(row["cost"]), PeerId(row["peer"]), usage, row["output"]), None
    if row["code"] == errors.TaskFailedError.code():
        return None, failed(row["message"], row["kind"], row["traceback"])
    return None, errors.from_code(row["code"], row["message"], row["hint"])
