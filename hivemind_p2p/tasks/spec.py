"""What a task is: what to run, what it needs, what it may cost, and the states it goes through."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from hivemind_p2p.types import CREDIT, Credits, Input, Needs, PeerId, Prices, SharedPart, Usage

if TYPE_CHECKING:
    from hivemind_p2p.tasks.quorum import Agreed

MAX_PAYLOAD_BYTES: Final = 64 << 20
"""Bytes of a packed task or of its result: what fits a stream. Larger data travels through the swarm."""

MOST_LINKED_BYTES: Final = 16 << 30
"""Bytes of a result that travels through the swarm, whatever memory its task may have."""

MAX_TASK_ID: Final = 64
"""Characters of a task's id."""


class TaskState(enum.StrEnum):
    """Where a task is on its way."""

    PENDING = "pending"
    """Made, not yet looked at."""
    QUEUED = "queued"
    """Waiting for a peer that has room."""
    ASSIGNED = "assigned"
    """Sent to a peer."""
    RUNNING = "running"
    """The peer has started it."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return not _NEXT[self]

    def may_become(self, other: TaskState) -> bool:
        """Whether `other` may follow. A task whose peer was lost goes back to QUEUED."""
        return other in _NEXT[self]


_ENDS: Final = frozenset((TaskState.FAILED, TaskState.CANCELLED))
_NEXT: Final[dict[TaskState, frozenset[TaskState]]] = {
    TaskState.PENDING: _ENDS | {TaskState.QUEUED, TaskState.TIMED_OUT},
    TaskState.QUEUED: _ENDS | {TaskState.ASSIGNED, TaskState.TIMED_OUT},
    TaskState.ASSIGNED: _ENDS | {TaskState.QUEUED, TaskState.RUNNING, TaskState.TIMED_OUT},
    TaskState.RUNNING: _ENDS | {TaskState.QUEUED, TaskState.COMPLETED, TaskState.TIMED_OUT},
    TaskState.COMPLETED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.CANCELLED: frozenset(),
    TaskState.TIMED_OUT: frozenset(),
}

StateListener = Callable[[TaskState, PeerId | None], None]
"""Told of every change of state, and of the peer that has the task, if one has. Must not raise or wait."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A unit of work.

    Attributes:
        task_id: Unique among the caller's tasks; at most 64 characters.
        task_type: The name of the plug-in that runs it, for example ``function/1``.
        payload: What the plug-in is given: at most 64 MiB.
        needs: What it needs of the machine.
        max_cost: The most that it may cost, in millionths of a credit.
        shared: The part of it that other tasks have in common with it, sent to each peer only once.
        idempotent: Whether it may run more than once; if not, one that may have begun is never begun again.
        priority: Higher ones go first among the caller's own.
        stream_output: Whether what it prints comes while it runs.
        max_retries: Times that it is given to another peer after one lost or refused it.
        deadline: Seconds from its start here after which it is given up; None for never.
        judged: Whether it is paid only once its result was accepted (`Course.judge`).
        keep: Whether a worker goes on with it, and keeps its result for a while, when the caller is lost.
        peers: The only ones that may run it; None for all.
        excluded: Those that may not.
        inputs: Files in the swarm that it reads.
        again: Whether it may have begun before, with a peer that keeps it.
    """

    task_id: str
    task_type: str
    payload: bytes
    needs: Needs = field(default_factory=Needs)
    max_cost: Credits = CREDIT
    shared: SharedPart | None = None
    idempotent: bool = True
    priority: int = 0
    stream_output: bool = False
    max_retries: int = 3
    deadline: float | None = None
    judged: bool = False
    keep: bool = False
    peers: frozenset[PeerId] | None = None
    excluded: frozenset[PeerId] = frozenset()
    inputs: tuple[Input, ...] = ()
    again: bool = False


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What came back.

    Attributes:
        value: The decoded safe value.
        cost: What was paid, in millionths of a credit.
        peer: Who ran it.
        usage: What it took there, as the peer says.
        output: The end of what it printed.
        verdict: Who agreed about it, where several peers were asked.
    """

    value: Any
    cost: Credits
    peer: PeerId
    usage: Usage
    output: str = ""
    verdict: Agreed | None = None


class TaskListener(Protocol):
    """Is told how a task fares. Must not raise, and not wait."""

    def moved(self, state: TaskState, peer: PeerId | None) -> None:
        """Its state has changed."""

    def printed(self, data: bytes) -> None:
        """What it printed, where that was asked for."""

    def ended(self, result: TaskResult) -> None:
        """It gave a result."""

    def failed(self, error: BaseException) -> None:
        """It did not."""


def most_result_bytes(memory_bytes: int) -> int:
    """Bytes that the result of a task may have which asked for so much memory: it must fit there, packed."""
    return max(MAX_PAYLOAD_BYTES, min(memory_bytes, MOST_LINKED_BYTES))


def cost_of(usage: Usage, prices: Prices, max_cost: Credits) -> Credits:
    """What a task costs: a flat part and its CPU time, rounded up, never above what the caller allowed."""
    asked = prices.per_task + math.ceil(usage.cpu_seconds * prices.per_cpu_second)
    return Credits(min(max_cost, asked))
