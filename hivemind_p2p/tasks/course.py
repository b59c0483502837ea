"""How one task fares, as its caller sees it: its states, its failures, and whether it is tried again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hivemind_p2p import errors
from hivemind_p2p.errors import BusyError, HivemindError, PeerUnreachableError
from hivemind_p2p.tasks.spec import TaskListener, TaskSpec, TaskState
from hivemind_p2p.types import PeerId

if TYPE_CHECKING:
    from hivemind_p2p.tasks.demand import Demand

MOST_BUSY: Final = 50
"""Times that peers may be too busy for a task before it fails: with the pauses between, several minutes."""

MOST_UNREACHED: Final = 10
"""Times that a task may have been given to peers that are gone: their offers live on for a while."""


@dataclass(slots=True, eq=False)
class Course:
    """One task from its beginning to its end.

    Attributes:
        spec: What to run.
        listener: Who is told how it fares.
        ticket: Its number with this caller.
        demand: What matters when a peer is chosen for it.
        peer: Who has it now.
        number: Its number on the channel to that peer; 0 before it is sent.
        excluded: Peers that refused or lost it.
        failures: What went wrong so far.
        busy: How often peers were too busy for it.
        unreached: How often its peer was gone before it was sent.
        reopened: Whether it has been sent again because an idle channel had been closed.
        sent_at: When it was sent.
        asked_back: Whether its peer was asked to give it back unless it has begun.
        patient_until: Until when it waits for a peer, where there was one before; 0 while that is not the question.
        original: What it is a copy of; None if it is none.
        copies: Copies of it that are under way.
        parked: Whether it was lost and goes on as its copies only.
        judge: Says whether its result is accepted, and so paid; there once a task has ended that is `judged`.
    """

    spec: TaskSpec
    listener: TaskListener
    ticket: int
    demand: Demand
    state: TaskState = TaskState.PENDING
    peer: PeerId | None = None
    number: int = 0
    excluded: frozenset[PeerId] = frozenset()
    failures: list[str] = field(default_factory=list)
    last: HivemindError | None = None
    busy: int = 0
    unreached: int = 0
    reopened: bool = False
    asked_fresh: bool = False
    sent_at: float = 0.0
    asked_back: bool = False
    patient_until: float = 0.0
    original: Course | None = None
    copies: list[Course] = field(default_factory=list)
    parked: bool = False
    judge: Callable[[bool], None] | None = None

    def move(self, state: TaskState, peer: PeerId | None = None) -> None:
        """Goes to another state, if that may follow, and says so."""
        if state is self.state or not self.state.may_become(state):
            return
        self.state = state
        self.listener.moved(state, peer)

    def note(self, error: HivemindError) -> bool:
        """Notes a failure; whether the task may be tried again."""
        self.last = error
        if isinstance(error, BusyError):
            self.busy += 1
            return self.busy <= MOST_BUSY
        self.failures.append(error.message)
        # A peer that was gone before anything was sent had no part in this task; but there is an end to everything.
        self.unreached += isinstance(error, PeerUnreachableError) and not self.number
        tried = len(self.failures) - self.unreached
        return self.unreached <= MOST_UNREACHED and tried <= self.spec.max_retries

    def summary(self, last: HivemindError) -> HivemindError:
        """The last error, with those before it."""
        earlier = self.failures[:-1] if self.failures[-1:] == [last.message] else self.failures
        if not earlier:
            return last
        message = f"{last.message} (after {len(earlier)} earlier attempts: {'; '.join(earlier)})"
        return errors.from_code(last.code(), message, last.hint)
