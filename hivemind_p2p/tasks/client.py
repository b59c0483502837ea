"""The caller's side of tasks.

Participants: this peer, which wants tasks done; the workers whose offers fit; this peer's purse.
Messages: `proto/task_channel.proto`, on one channel to each worker (`link`).
Goals:
    - Every task ends: in a value, or in an error that says which peer, what was tried, and what to do.
    - A task whose worker vanishes, is busy or refuses goes to another. So a task may be run more than once ("at
      least once"): what it does besides returning a value should bear repeating. One that may not (`idempotent` is
      false) is tried again only if it is known not to have begun.
    - Cancelling stops the work over there.
    - A value is decoded, never unpickled, and paid only once it has been decoded.
    - A small task costs little: there is no task of the loop, no timer and no message for each.
Non-goals: checking that the value is right (tasks may be given to several peers for that).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import trio

from hivemind_p2p import errors, telemetry
from hivemind_p2p.errors import (
    BusyError,
    CreditError,
    DiskFullError,
    HivemindError,
    NetworkError,
    PaymentRequiredError,
    ProtocolError,
    StreamClosedError,
    TaskError,
    TaskLostError,
    TaskTimeoutError,
    VoucherError,
)
from hivemind_p2p.interfaces import Content, Network, OfferBook, Payer, Reputation
from hivemind_p2p.tasks.course import Course
from hivemind_p2p.tasks.deadlines import Deadlines
from hivemind_p2p.tasks.demand import Demand
from hivemind_p2p.tasks.dispatch import Dispatcher
from hivemind_p2p.tasks.link import Link
from hivemind_p2p.tasks.linked_values import LinkedValues
from hivemind_p2p.tasks.spec import StateListener, TaskListener, TaskResult, TaskSpec, TaskState
from hivemind_p2p.types import Credits, Needs, Offer, PeerId

COOL_DOWN: Final = 2.0
"""Seconds that a peer which vanished or broke the rules gets no task, doubled each time that it does so again: a
restart takes twice or three times as long."""

MOST_COOL_DOWN: Final = 300.0
"""Seconds that even one that always fails is left alone at most: it may have been mended."""

BUSY_PAUSE: Final = 0.25
MOST_BUSY_PAUSE: Final = 5.0
"""Seconds that a busy peer is left alone, doubled each time up to this."""

MISTRUST: Final = 600.0
"""Seconds that a peer which sent a forged bill gets no task."""

MOST_DEMANDS: Final = 1024
"""Demands that are remembered as such."""

_events = telemetry.source("tasks")


class TaskClient:
    """Has tasks run by other peers.

    Args:
        network: How workers are reached.
        offers: Who lends what.
        payer: The purse; None where everything is free.
        nursery: Where the channels to workers live.
        content: The swarm, for results that are too large for a channel; None where none are taken.
        reputation: Where peers that were wrong are told of, and known; None for nowhere.
    """

    def __init__(
        self,
        network: Network,
        offers: OfferBook,
        payer: Payer | None,
        nursery: trio.Nursery,
        content: Content | None = None,
        reputation: Reputation | None = None,
    ) -> None:
        self._network = network
        self._payer = payer
        self._linked = LinkedValues(content) if content is not None else None
        self._nursery = nursery
        self._reputation = reputation
        self._dispatcher = Dispatcher(offers, nursery, self, reputation)
        self._links: dict[PeerId, Link] = {}
        self._demands: dict[tuple[str, Needs, Credits, bool, bool, int], Demand] = {}
        self._last_demand: tuple[TaskSpec, Demand] | None = None
        self._courses: set[Course] = set()
        self._deadlines = Deadlines(nursery, self._late)
        self._tickets = itertools.count()
        self._counts: Counter[str] = Counter()
        self._closed = trio.Event()

    def statistics(self) -> dict[str, int]:
        """Tasks by how they ended, and ``retried``."""
        return dict(self._counts)

    # -- for callers -------------------------------------------------------------------------------------------------

    def start(self, spec: TaskSpec, listener: TaskListener) -> Course:
        """Has a task run; the listener is told how it fares. `go_on` afterwards, once for many tasks."""
        course = Course(spec, listener, next(self._tickets), self._demand(spec), excluded=spec.excluded)
        self._courses.add(course)
        if spec.deadline is not None:
            self._deadlines.add(course, trio.current_time() + spec.deadline)
        course.move(TaskState.QUEUED)
        self._dispatcher.submit(course)
        return course

    def mistrust(self, peer: PeerId, task_id: str) -> None:
        """Gives a peer no tasks for a while, and tells the bootstrap: it was wrong about this, whatever it is."""
        self._counts["mistrusted"] += 1
        self._dispatcher.leave_alone(peer, MISTRUST)
        if self._reputation is not None:
            self._nursery.start_soon(self._complain, self._reputation, peer, task_id)

    async def _complain(self, reputation: Reputation, peer: PeerId, task_id: str) -> None:
        try:
            await reputation.complain(peer, task_id)
        except HivemindError as error:
            _events.info("complaint_not_taken", peer=peer, task=task_id, reason=error.message)

    def go_on(self) -> None:
        """Gives tasks that were started to peers."""
        self._dispatcher.decide()
        for link in self._links.values():
            link.ring()

    def cancel(self, course: Course) -> None:
        """Stops a task, wherever it is; its listener is told that it is cancelled."""
        if course not in self._courses:
            return
        self._withdraw(course)
        self._end(course, TaskState.CANCELLED)
        self.go_on()

    def abandon(self, course: Course) -> None:
        """Leaves a task that is kept to whom it was given; its listener hears no more of it."""
        if course not in self._courses:
            return
        self._courses.discard(course)
        self._dispatcher.withdraw(course)
        if course.peer is not None:
            if (link := self._links.get(course.peer)) is not None:
                link.abandon(course)
            self._release(course)

    def _withdraw(self, course: Course) -> None:
        self._dispatcher.withdraw(course)
        if course.peer is not None:
            link = self._links.get(course.peer)
            if link is not None:
                link.give_up(course)
            self._release(course)

    async def run(self, spec: TaskSpec, *, on_state: StateListener | None = None) -> TaskResult:
        """Runs a task somewhere, to the end. Cancelling the call stops the work.

        Args:
            spec: What to run, and what it needs.
            on_state: Told of every change of state.

        Raises:
            NoPeerError: No offer fits.
            TaskFailedError: The function raised; `remote_traceback` says where.
            TaskTimeoutError: It ran longer than it asked for.
            TaskMemoryError: It used more memory than it asked for.
            TaskCrashedError: The process that ran it died.
            UnsafeValueError: What it returned is no safe value.
            TaskRefusedError: The peers that might have run it refused.
            TaskLostError: It must not run twice, and its peer was lost when it might have begun.
            NetworkError: The peers that it was given to were lost, one after the other.
            CreditError: It could not be paid.
        """
        waiter = _Waiter(on_state)
        course = self.start(spec, waiter)
        self.go_on()
        try:
            await waiter.done.wait()
        finally:
            self.cancel(course)
        if waiter.error is not None:
            raise waiter.error
        assert waiter.result is not None
        return waiter.result

    async def close(self) -> None:
        """Cancels what is under way, pays what is owed, and closes the channels."""
        for course in list(self._courses):
            if course.spec.keep:
                self.abandon(course)
            else:
                self.cancel(course)
        for link in self._links.values():
            link.leave()
        while self._links:
            self._closed = trio.Event()
            await self._closed.wait()

    def _demand(self, spec: TaskSpec) -> Demand:
        if spec.excluded or spec.peers is not None:
            return self._demand_but(spec, spec.excluded)
        if self._last_demand is not None and _alike(self._last_demand[0], spec):
            return self._last_demand[1]
        copyable = _is_copyable(spec)
        key = spec.task_type, spec.needs, spec.max_cost, spec.idempotent, copyable, spec.priority
        demand = self._demands.get(key)
        if demand is None:
            if len(self._demands) > MOST_DEMANDS:
                self._demands.clear()
            demand = self._demands[key] = self._demand_but(spec, frozenset())
        self._last_demand = spec, demand
        return demand

    def _demand_but(self, spec: TaskSpec, excluded: frozenset[PeerId]) -> Demand:
        if spec.peers is not None:
            excluded |= self._dispatcher.peers - spec.peers
        return Demand(
            spec.task_type,
            spec.needs,
            spec.max_cost,
            excluded,
            idempotent=spec.idempotent,
            copyable=_is_copyable(spec),
            priority=spec.priority,
        )

    def _late(self, course: Course) -> None:
        """A task was not done by its deadline."""
        if course not in self._courses:
            return
        where = f" on peer {course.peer}" if course.peer is not None else ""
        self._withdraw(course)
        seconds = course.spec.deadline or 0.0
        hint = "Allow more time with deadline=..., or look why it waits."
        self.fail(course, TaskTimeoutError(f"it was {course.state}{where} at its deadline, {seconds:g} s", hint=hint))
        self.go_on()

    # -- placing -----------------------------------------------------------------------------------------------------

    def place(self, course: Course, offer: Offer) -> None:
        """Gives a task to a peer; for the dispatcher."""
        peer = offer.peer.peer_id
        if course.spec.peers is not None and peer not in course.spec.peers:
            course.peer = peer
            self._queue(course, exclude=peer)
            return
        link = self._links.get(peer)
        if link is None:
            link = self._links[peer] = Link(self._network, self._payer, offer, self, self._linked)
            self._nursery.start_soon(self._keep, link)
        course.peer = peer
        link.send(course)
        link.ring()

    def round_trip(self, peer: PeerId) -> float | None:
        """Seconds to a peer and back, where that was measured; for the dispatcher."""
        return self._network.round_trip(peer)

    def ask_back(self, course: Course) -> None:
        """Asks a task back from its peer, unless it has begun there; for the dispatcher."""
        link = self._links.get(course.peer) if course.peer is not None else None
        if link is not None:
            course.asked_back = True
            link.ask_back(course)

    def copy(self, course: Course) -> Course:
        """A second copy of a task that is late, to be placed; for the dispatcher."""
        original = course.original or course
        spec = replace(course.spec, stream_output=False)  # the original's prints are told, as far as they go
        copy = Course(spec, IGNORES, next(self._tickets), original.demand, original=original)
        original.copies.append(copy)
        self._courses.add(copy)
        copy.move(TaskState.QUEUED)
        self._counts["copies"] += 1
        return copy

    async def _keep(self, link: Link) -> None:
        try:
            await link.run()
        except Exception as error:  # one peer's channel must not end this one
            _events.error("link_broke", peer=link.peer, exc_info=error)

    def _release(self, course: Course, seconds: float | None = None) -> None:
        """Frees the place that a task had with a peer."""
        if course.peer is not None:
            self._dispatcher.released(course, seconds)
            course.peer = None
            course.number = 0

    def _end(self, course: Course, state: TaskState) -> None:
        self._courses.discard(course)
        course.move(state)
        self._counts[state.value] += 1
        for copy in course.copies:
            self._courses.discard(copy)
            self._withdraw(copy)
        course.copies.clear()

    def fail(self, course: Course, error: HivemindError) -> None:
        """Ends a task in an error."""
        if course.original is not None:
            self._end_copy(course, error)
            return
        state = TaskState.TIMED_OUT if isinstance(error, TaskTimeoutError) else TaskState.FAILED
        self._end(course, state)
        told = course.last if isinstance(error, errors.NoPeerError) and course.last is not None else error
        course.listener.failed(course.summary(told))

    # -- what links say ----------------------------------------------------------------------------------------------

    def link_result(self, course: Course, result: TaskResult) -> None:
        """A task gave a value."""
        self._release(course, result.usage.wall_seconds)
        if course.original is not None:
            course = self._copy_won(course, result.peer)
        self._end(course, TaskState.COMPLETED)
        course.listener.ended(result)

    def link_error(self, course: Course, error: HivemindError) -> None:
        """A task ended in an error of its own, which another peer would not change."""
        self._release(course)
        self.fail(course, error)

    def link_started(self, course: Course) -> None:
        """A peer says that it runs a task."""
        self._dispatcher.began(course)

    def link_returned(self, courses: Sequence[Course]) -> None:
        """A worker gave tasks back that it was asked for: they have not begun."""
        for course in courses:
            self._counts["returned"] += 1
            self._queue(course)

    def link_refused(self, courses: Sequence[Course], error: HivemindError) -> None:
        """A worker will not run tasks, and has not."""
        for number, course in enumerate(courses):
            if not number:
                self._note_failure(course, error)
            self._again(course, error)

    def link_unread(self, course: Course, error: HivemindError) -> None:
        """A task gave a value that could not be fetched or read: it runs elsewhere, if it may and if that can help."""
        if isinstance(error, DiskFullError):
            self._release(course)
            self.fail(course, error)
        elif not course.spec.idempotent:
            self._lose(course, error)
        else:
            self._note_failure(course, error)
            self._again(course, error)

    def link_mistrusted(self, link: Link) -> None:
        """A worker sent a bill that is wrong."""
        self._dispatcher.leave_alone(link.peer, MISTRUST)

    def link_turn(self) -> None:
        """A message has been dealt with."""
        self._dispatcher.decide()

    def link_ended(self, link: Link, lost: Sequence[Course], error: HivemindError) -> None:
        """A channel is gone. Tasks that had not ended go elsewhere, if they may."""
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
        self._closed.set()
        # A worker closes a channel that was idle for long; what was being sent at that moment was never read.
        blameless = isinstance(error, StreamClosedError) and link.used and not link.heard_since_sent
        if lost and not blameless:
            self._note_failure(lost[0], error)
        for course in lost:
            if isinstance(error, CreditError) and not isinstance(error, PaymentRequiredError | VoucherError):
                self._release(course)
                self.fail(course, error)
            elif course.number and not course.spec.idempotent and not isinstance(error, PaymentRequiredError):
                self._lose(course, error)
            elif blameless and not course.reopened:
                course.reopened = True
                self._queue(course)
            else:
                self._again(course, error)
        self.go_on()

    def _copy_won(self, copy: Course, peer: PeerId) -> Course:
        """A copy has ended before its original, which ends with it."""
        original = copy.original
        assert original is not None
        self._counts["copies_first"] += 1
        original.copies.remove(copy)
        self._courses.discard(copy)
        self._withdraw(original)
        original.move(TaskState.ASSIGNED, peer)
        original.move(TaskState.RUNNING, peer)
        return original

    def _end_copy(self, copy: Course, error: HivemindError) -> None:
        """A copy gave nothing: no harm, unless the original was lost meanwhile."""
        original = copy.original
        assert original is not None
        self._courses.discard(copy)
        if copy in original.copies:
            original.copies.remove(copy)
        if original.parked and not original.copies and original in self._courses:
            original.parked = False
            if isinstance(error, TaskError) and not isinstance(error, errors.TaskRefusedError):
                self.fail(original, error)  # it would have ended like this as well
            else:
                self._queue(original)

    def _lose(self, course: Course, error: HivemindError) -> None:
        self._release(course)
        self.fail(course, TaskLostError(f"it may have begun when its peer was lost: {error.message}"))

    def _note_failure(self, course: Course, error: HivemindError) -> None:
        """Decides whether and when this peer is tried again."""
        peer = course.peer
        if peer is None:
            return
        if isinstance(error, BusyError):
            self._dispatcher.leave_alone(peer, min(MOST_BUSY_PAUSE, BUSY_PAUSE * 2 ** min(course.busy, 10)))
        elif isinstance(error, NetworkError):
            streak = self._dispatcher.lost(peer)
            self._dispatcher.leave_alone(peer, min(MOST_COOL_DOWN, COOL_DOWN * 2 ** min(streak - 1, 20)))

    def _again(self, course: Course, error: HivemindError) -> None:
        """Decides whether this task is tried again."""
        peer = course.peer
        if course.original is not None:
            self._release(course)
            self._end_copy(course, error)
            return
        _events.info("task_lost", task=course.spec.task_id, peer=peer, error=error.code(), message=error.message)
        self._counts["retried"] += 1
        may_go_on = course.note(error)
        if course.copies:
            self._release(course)
            course.parked = True
            course.move(TaskState.QUEUED)
            return
        if not may_go_on:
            self._release(course)
            self.fail(course, error)
            return
        elsewhere = not isinstance(error, NetworkError | BusyError) or isinstance(error, ProtocolError)
        self._queue(course, exclude=peer if elsewhere else None)

    def _queue(self, course: Course, *, exclude: PeerId | None = None) -> None:
        self._release(course)
        course.asked_back = False
        if exclude is not None:
            course.excluded |= {exclude}
            course.demand = self._demand_but(course.spec, course.excluded)
        course.move(TaskState.QUEUED)
        self._dispatcher.submit(course)


def _is_copyable(spec: TaskSpec) -> bool:
    return spec.idempotent and not (spec.judged or spec.keep) and spec.peers is None


def _alike(one: TaskSpec, other: TaskSpec) -> bool:
    """Whether two tasks are of the same demand, as far as that is seen at a glance."""
    return (
        one.needs is other.needs
        and one.task_type == other.task_type
        and one.max_cost == other.max_cost
        and one.idempotent == other.idempotent
        and one.priority == other.priority
        and one.judged == other.judged
        and one.keep == other.keep
        and one.stream_output == other.stream_output
    )


class _Ignores:
    """The listener of a copy: its original's is told."""

    def moved(self, state: TaskState, peer: PeerId | None) -> None:
        """Of no interest."""

    def printed(self, data: bytes) -> None:
        """Of no interest."""

    def ended(self, result: TaskResult) -> None:
        """Never called."""

    def failed(self, error: BaseException) -> None:
        """Of no interest."""


IGNORES: Final = _Ignores()


class _Waiter:
    """Waits for one task; a `TaskListener`."""

    def __init__(self, on_state: StateListener | None) -> None:
        self._on_state = on_state
        self.done = trio.Event()
        self.result: TaskResult | None = None
        self.error: BaseException | None = None

    def moved(self, state: TaskState, peer: PeerId | None) -> None:
        """Passes it on."""
        if self._on_state is not None:
            self._on_state(state, peer)

    def printed(self, data: bytes) -> None:
        """Nobody asked for it."""

    def ended(self, result: TaskResult) -> None:
        """It gave a result."""
        self.result = result
        self.done.set()

    def failed(self, error: BaseException) -> None:
        """It did not."""
        self.error = error
        self.done.set()
