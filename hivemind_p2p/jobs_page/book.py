"""The jobs that the page shows, the newest of them, as plain data. An ended one is remembered without its result."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from dataclasses import asdict, dataclass
from typing import Any, Final

from hivemind_p2p.job import Change, Job
from hivemind_p2p.types import format_credits

MOST_JOBS: Final = 500
"""Jobs that are shown; of more the newest, though all are counted."""

MOST_OUTPUT: Final = 64 << 10
"""Characters of what a job printed: the end of it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One job at one moment.

    Attributes:
        began: When it was made, in seconds since the epoch.
        seconds: How long it has been under way, or was.
        cost: In credits.
        error: What it ended in, if that was an error.
    """

    id: str
    name: str
    state: str
    peer: str
    began: float
    seconds: float
    cost: str
    error: str


@dataclass(frozen=True, slots=True)
class Details:
    """The same with all that has happened to it, and what it printed."""

    row: Row
    history: tuple[Change, ...]
    output: str

    def as_json(self) -> dict[str, Any]:
        """For the page."""
        changes = [{"state": change.state, "peer": change.peer or "", "time": change.time} for change in self.history]
        return {**asdict(self.row), "history": changes, "output": self.output}


class JobsBook:
    """The jobs of one hive. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job[Any] | Details] = OrderedDict()
        self._forgotten: Counter[str] = Counter()

    def add(self, job: Job[Any]) -> None:
        """A job was made."""
        with self._lock:
            self._jobs[job.id] = job
            while len(self._jobs) > MOST_JOBS:
                self._forgotten[details_of(self._jobs.popitem(last=False)[1], time.time()).row.state] += 1
        job.add_done_callback(self._ended)

    def _ended(self, job: Any) -> None:
        """Lets go of its result."""
        with self._lock:
            if job.id in self._jobs:
                self._jobs[job.id] = details_of(job, time.time())

    def look(self) -> dict[str, Any]:
        """All of them, the newest first, for the page."""
        now = time.time()
        with self._lock:
            rows = [details_of(job, now).row for job in reversed(self._jobs.values())]
            counts = self._forgotten + Counter(row.state for row in rows)
        return {"counts": dict(counts), "jobs": [asdict(row) for row in rows], "now": now}

    def details(self, job_id: str) -> Details | None:
        """One of them."""
        with self._lock:
            job = self._jobs.get(job_id)
            return details_of(job, time.time()) if job is not None else None


def details_of(job: Job[Any] | Details, now: float) -> Details:
    """What there is to tell of a job."""
    if isinstance(job, Details):
        return job
    history = job.history
    if job.cancelled() and history[-1:] and history[-1].state != "CANCELLED":
        history += (Change("CANCELLED", None, now),)  # a job that is cancelled says so to itself last
    began = history[0].time if history else now
    until = history[-1].time if job.done() and history else now
    error = "" if job.cancelled() or not job.done() else str(job.exception() or "")
    cost = format_credits(job.cost_in_millionths)
    row = Row(job.id, job.name, job.state, job.peer or "", began, max(0.0, until - began), cost, error[:MOST_OUTPUT])
    return Details(row, history, job.output[-MOST_OUTPUT:])
