"""One task on several peers of different accounts, until enough of them agree; `quorum` decides, this does.

Participants: the caller's `TaskClient`; the workers; the bootstrap, which says whose each of them is.
Goals:
    - A wrong result of one account, however many peers it runs, is not taken.
    - Who agreed is paid; who did not is not, gets no more work for a while, and the bootstrap is told, which tells
      others. Before the verdict nobody is paid.
Non-goals: finding out who is right where nobody agrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import DisagreementError, HivemindError, NoPeerError, TaskFailedError, TaskTimeoutError
from hivemind_p2p.interfaces import AccountBook, OfferBook
from hivemind_p2p.tasks.client import TaskClient
from hivemind_p2p.tasks.course import Course
from hivemind_p2p.tasks.quorum import Agreed, Answer, Ask, Disagreed, Quorum, Vote, group_sizes
from hivemind_p2p.tasks.spec import TaskListener, TaskResult, TaskSpec, TaskState
from hivemind_p2p.types import Credits, PeerId

_events: Final = telemetry.source("tasks")


@dataclass(eq=False)
class _Copy:
    """One of the same task; a `TaskListener`."""

    vote: VerifiedTask
    course: Course | None = None
    peer: PeerId | None = None
    result: TaskResult | None = None
    done: bool = False

    def moved(self, state: TaskState, peer: PeerId | None) -> None:
        """Notes with whom it is."""
        self.peer = peer or self.peer
        self.vote.copy_moved(state, peer)

    def printed(self, data: bytes) -> None:
        """What the first copy prints is told; all print the same, or should."""
        self.vote.copy_printed(self, data)

    def ended(self, result: TaskResult) -> None:
        """It gave a result."""
        self.result = result
        self.vote.copy_ended(self, None)

    def failed(self, error: BaseException) -> None:
        """It did not."""
        self.vote.copy_ended(self, error)


class VerifiedTask:
    """A task that several peers do.

    Args:
        client: What runs the copies.
        offers: Who could.
        accounts: Whose they are.
        spec: The task.
        quorum: Who has to agree.
        listener: Who is told.
    """

    def __init__(
        self,
        client: TaskClient,
        offers: OfferBook,
        accounts: AccountBook,
        spec: TaskSpec,
        quorum: Quorum,
        listener: TaskListener,
    ) -> None:
        self._client = client
        self._offers = offers
        self._accounts = accounts
        self._spec = spec
        self._listener = listener
        self._vote = Vote(quorum)
        self._copies: list[_Copy] = []
        self._wanted = 0
        self._owners: dict[PeerId, str] = {}
        self._avoided: set[str] = set()
        self._last_error: BaseException | None = None
        self._failures: dict[PeerId, TaskFailedError] = {}
        self._state = TaskState.PENDING
        self._news = trio.Event()
        self._scope = trio.CancelScope()
        self._over = False

    async def run(self) -> None:
        """To the end; the listener is told of it."""
        try:
            with self._scope, trio.move_on_after(self._spec.deadline or math.inf) as late:
                await self._run()
            if late.cancelled_caught:
                self._fail(TaskTimeoutError(f"the quorum did not agree within {self._spec.deadline:g} s"))
        except HivemindError as error:
            self._fail(error)
        finally:
            for copy in self._copies:
                if copy.course is not None and not copy.done:
                    self._client.cancel(copy.course)

    def cancel(self) -> None:
        """Ends all copies."""
        if not self._over:
            self._over = True
            self._move(TaskState.CANCELLED, None)
        self._scope.cancel()

    # -- asking ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        self._move(TaskState.QUEUED, None)
        self._wanted = self._vote.begin().copies
        while self._vote.verdict is None and not self._over:
            if self._wanted and not self._placing:
                await self._start_one()
                continue
            self._news = trio.Event()
            await self._news.wait()

    @property
    def _placing(self) -> bool:
        """Whether a copy has no peer yet: the next one must not go to the same account."""
        return any(not copy.done and (copy.course is None or copy.course.peer is None) for copy in self._copies)

    async def _start_one(self) -> None:
        offers = await self._offers.offers()
        self._owners.update(await self._accounts.accounts_of([offer.peer.peer_id for offer in offers]))
        used = self._vote.accounts | self._avoided
        used |= {self._owners.get(copy.peer, "") for copy in self._copies if not copy.done and copy.peer is not None}
        fitting = {peer for peer, owner in self._owners.items() if owner and owner not in used}
        self._wanted -= 1
        copy = _Copy(self)
        self._copies.append(copy)
        spec = replace(
            self._spec,
            task_id=f"{self._spec.task_id}-{len(self._copies)}",
            judged=True,
            deadline=None,
            peers=frozenset(fitting),
        )
        copy.course = self._client.start(spec, copy)
        self._client.go_on()

    # -- what comes back ---------------------------------------------------------------------------------------------

    def copy_moved(self, state: TaskState, peer: PeerId | None) -> None:
        """One has gone on."""
        if state in (TaskState.ASSIGNED, TaskState.RUNNING):
            self._move(state, peer)
        self._news.set()

    def copy_printed(self, copy: _Copy, data: bytes) -> None:
        """One has printed something."""
        if copy is self._copies[0] and not self._over:
            self._listener.printed(data)

    def copy_ended(self, copy: _Copy, error: BaseException | None) -> None:
        """One has ended."""
        copy.done = True
        self._news.set()
        if self._over or self._vote.verdict is not None:
            return
        answer = self._answer_of(copy, error)
        if answer is not None:
            self._follow(self._vote.answered(answer))
            return
        self._note_loss(copy, error)
        if self._vote.verdict is None:
            self._follow(self._vote.lost())

    def _answer_of(self, copy: _Copy, error: BaseException | None) -> Answer | None:
        peer = copy.result.peer if copy.result is not None else copy.peer
        owner = self._owners.get(peer, "") if peer is not None else ""
        if peer is None or not owner:
            return None
        if copy.result is not None:
            return Answer(peer, owner, copy.result.value)
        if isinstance(error, TaskFailedError):
            self._failures[peer] = error
            return Answer(peer, owner, error=error.message.removeprefix(f"on peer {peer}: "))
        return None

    def _note_loss(self, copy: _Copy, error: BaseException | None) -> None:
        """A peer that could not run it is not asked again, nor is any other of its account."""
        self._last_error = error or self._last_error
        if copy.peer is not None and (owner := self._owners.get(copy.peer)):
            self._avoided.add(owner)
        lost = sum(copy.done and copy.result is None for copy in self._copies)
        if isinstance(error, NoPeerError) or lost > self._vote.quorum.of:
            self._follow(self._vote.give_up())

    def _follow(self, decision: Ask | Agreed | Disagreed | None) -> None:
        if isinstance(decision, Ask):
            self._wanted += decision.copies
        elif isinstance(decision, Agreed):
            self._agree(decision)
        elif isinstance(decision, Disagreed):
            self._disagree(decision)

    def _agree(self, verdict: Agreed) -> None:
        right = {answer.peer for answer in verdict.majority}
        for copy in self._copies:
            self._judge(copy, accepted=copy.peer in right)
        for answer in verdict.minority:
            self._client.mistrust(answer.peer, self._spec.task_id)
            _events.warning("answer_outvoted", task=self._spec.task_id, peer=answer.peer)
        if verdict.answer.error:
            self._fail(self._failures[verdict.answer.peer])
            return
        results = [copy.result for copy in self._copies if copy.result is not None and copy.peer in right]
        cost = Credits(sum(result.cost for result in results))
        first = next(result for result in results if result.peer == verdict.answer.peer)
        self._over = True
        self._move(TaskState.COMPLETED, None)
        self._listener.ended(replace(first, cost=cost, verdict=verdict))

    def _disagree(self, verdict: Disagreed) -> None:
        for copy in self._copies:
            self._judge(copy, accepted=True)  # nobody is known to be wrong
        if not verdict.answers and isinstance(self._last_error, HivemindError):
            self._fail(self._last_error)
            return
        quorum = self._vote.quorum
        message = f"{quorum.agree} answers of at most {quorum.of} have to agree, and {group_sizes(verdict.groups)} did"
        if isinstance(self._last_error, HivemindError):
            message += f"; then: {self._last_error.message}"
        self._fail(DisagreementError(message))

    def _judge(self, copy: _Copy, *, accepted: bool) -> None:
        if copy.course is not None and copy.course.judge is not None:
            copy.course.judge(accepted)

    def _fail(self, error: HivemindError) -> None:
        if not self._over:
            self._over = True
            self._move(TaskState.TIMED_OUT if isinstance(error, TaskTimeoutError) else TaskState.FAILED, None)
            self._listener.failed(error)
        self._news.set()

    def _move(self, state: TaskState, peer: PeerId | None) -> None:
        if state is not self._state and self._state.may_become(state):
            self._state = state
            self._listener.moved(state, peer)
