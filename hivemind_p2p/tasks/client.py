"""The caller's side of tasks.

Participants: this peer, which wants tasks done; the workers whose offers fit; this peer's purse.
Messages: `proto/tasks.proto`.
Goals:
    - Every task ends: in a value, or in an error that says which peer, what was tried, and what to do.
    - A task whose worker vanishes, is busy or refuses goes to another. So a task may be run more than once ("at
      least once"): what it does besides returning a value should bear repeating.
    - Cancelling the call stops the work over there.
    - A value is decoded, never unpickled, and paid only once it has been decoded.
Non-goals: checking that the value is right (tasks may be given to several peers for that).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from hivemind_p2p import errors, telemetry
from hivemind_p2p.errors import (
    BusyError,
    CreditError,
    HivemindError,
    NetworkError,
    NoPeerError,
    TaskTimeoutError,
)
from hivemind_p2p.interfaces import Channel, Network, OfferBook, Payer
from hivemind_p2p.proto import tasks_pb2
from hivemind_p2p.tasks import wire
from hivemind_p2p.tasks.channels import ChannelPool
from hivemind_p2p.tasks.conversation import Conversation
from hivemind_p2p.tasks.dispatch import Dispatcher
from hivemind_p2p.tasks.matching import Demand
from hivemind_p2p.tasks.reading import decode
from hivemind_p2p.tasks.spec import StateListener, TaskResult, TaskSpec, TaskState
from hivemind_p2p.types import Credits, Offer, PeerId

MOST_RETRIES: Final = 3
"""Times that a task is given to another peer after one lost or refused it."""

MOST_BUSY: Final = 50
"""Times that peers may be too busy for a task before it fails: with the pauses between, several minutes."""

COOL_DOWN: Final = 5.0
"""Seconds that a peer which vanished or broke the rules gets no task: a restart takes about that long."""

BUSY_PAUSE: Final = 0.25
"""Seconds that a busy peer is left alone, doubled each time up to `COOL_DOWN`."""

MISTRUST: Final = 600.0
"""Seconds that a peer which sent a forged bill gets no task."""

_THREAD_BYTES: Final = 1 << 20
"""Bytes of a value from which it is decoded in a thread: a smaller one takes a few milliseconds at most."""

_events = telemetry.source("tasks")


@dataclass
class _Course:
    """How one task has fared so far."""

    spec: TaskSpec
    listener: StateListener | None
    paid: bool = False
    state: TaskState = TaskState.PENDING
    excluded: set[PeerId] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    busy: int = 0

    def move(self, state: TaskState, peer: PeerId | None = None) -> None:
        if state is self.state or not self.state.may_become(state):
            return
        self.state = state
        if self.listener is not None:
            self.listener(state, peer)

    def summary(self, last: HivemindError) -> HivemindError:
        """The last error, with those before it."""
        earlier = self.failures[:-1] if self.failures[-1:] == [last.message] else self.failures
        if not earlier:
            return last
        message = f"{last.message} (after {len(earlier)} earlier attempts: {'; '.join(earlier)})"
        return errors.from_code(last.code(), message, last.hint)


class TaskClient:
    """Has tasks run by other peers.

    Args:
        network: How workers are reached.
        offers: Who lends what.
        payer: The purse; None where everything is free.
    """

    def __init__(self, network: Network, offers: OfferBook, payer: Payer | None) -> None:
        self._network = network
        self._payer = payer
        self._dispatcher = Dispatcher(offers)
        self._channels = ChannelPool(network)
        self._counts: Counter[str] = Counter()

    def statistics(self) -> dict[str, int]:
        """Tasks by how they ended, and ``retried``."""
        return dict(self._counts)

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
            NetworkError: The peers that it was given to were lost, one after the other.
            CreditError: It could not be paid.
        """
        course = _Course(spec, on_state)
        try:
            result = await self._run(course)
        except TaskTimeoutError:
            course.move(TaskState.TIMED_OUT)
            raise
        except trio.Cancelled:
            course.move(TaskState.CANCELLED)
            raise
        except BaseException:
            course.move(TaskState.FAILED)
            raise
        finally:
            if course.state.ended:
                self._counts[course.state.value] += 1
        course.move(TaskState.COMPLETED)
        self._counts[course.state.value] += 1
        return result

    async def _run(self, course: _Course) -> TaskResult:
        """Attempt after attempt, until one ends the task or no peer is left."""
        spec = course.spec
        last: HivemindError | None = None
        while True:
            course.move(TaskState.QUEUED)
            demand = Demand.of(spec.task_type, spec.needs, spec.max_cost, course.excluded)
            try:
                offer = await self._dispatcher.place(demand)
            except NoPeerError as error:
                raise (course.summary(last) if last is not None else error) from last
            try:
                payment = await self._authorise(offer, spec)
                try:
                    return await self._attempt(course, offer, payment)
                finally:
                    self._take_back(course, offer)
            except _LostError as lost:
                last = lost.error
                await self._after_failure(course, offer.peer.peer_id, last)
            finally:
                self._dispatcher.release(offer.peer.peer_id, demand)

    async def _authorise(self, offer: Offer, spec: TaskSpec) -> bytes:
        if self._payer is None:
            return b""
        return await self._payer.authorise(offer.peer.peer_id, spec.max_cost)

    def _take_back(self, course: _Course, offer: Offer) -> None:
        """Frees what was set aside for an attempt that will not be billed."""
        if self._payer is not None and not course.paid:
            self._payer.release(offer.peer.peer_id, course.spec.max_cost)
        course.paid = False

    async def _after_failure(self, course: _Course, peer: PeerId, error: HivemindError) -> None:
        """Decides whether and when this peer, and this task, are tried again."""
        _events.info("task_lost", task=course.spec.task_id, peer=peer, error=error.code(), message=error.message)
        self._counts["retried"] += 1
        if isinstance(error, BusyError):
            pause = min(COOL_DOWN, BUSY_PAUSE * 2 ** min(course.busy, 10))
            self._dispatcher.leave_alone(peer, pause)
            course.busy += 1
            if course.busy > MOST_BUSY:
                raise course.summary(error) from error
            return
        course.failures.append(error.message)
        if isinstance(error, NetworkError):
            self._dispatcher.leave_alone(peer, COOL_DOWN)
            await self._channels.forget(peer)
        else:
            course.excluded.add(peer)
        if len(course.failures) > MOST_RETRIES:
            raise course.summary(error) from error

    # -- one attempt -------------------------------------------------------------------------------------------------

    async def _attempt(self, course: _Course, offer: Offer, payment: bytes) -> TaskResult:
        """One try on one peer. A used channel that fails at once, closed while idle, is replaced by a new one."""
        peer = offer.peer.peer_id
        self._network.learn(offer.peer)
        try:
            channel, used = await self._channels.take(peer)
        except NetworkError as error:
            raise _LostError(error) from error
        conversation = self._conversation(course, channel)
        course.move(TaskState.ASSIGNED, peer)
        try:
            return await self._converse(course, channel, conversation, payment)
        except _LostError as lost:
            if not used or conversation.accepted or isinstance(lost.error, BusyError):
                raise
        await self._channels.forget(peer)
        try:
            channel = await self._channels.open(peer)
        except NetworkError as error:
            raise _LostError(error) from error
        return await self._converse(course, channel, self._conversation(course, channel), payment)

    def _conversation(self, course: _Course, channel: Channel) -> Conversation:
        peer = channel.remote
        return Conversation(channel, course.spec, lambda: course.move(TaskState.RUNNING, peer))

    async def _converse(
        self, course: _Course, channel: Channel, conversation: Conversation, payment: bytes
    ) -> TaskResult:
        """From the request to the payment. The channel is kept where all of it went well, else closed."""
        in_order = False
        try:
            try:
                finished, payload = await conversation.run(payment)
                error = wire.read_error(finished.report, channel.remote)
                value = None if error is not None else await _decode(payload)
            except HivemindError as error:
                # Whatever one worker says or suffers, another need not.
                raise _LostError(error) from error
            cost = await self._settle(course, channel, finished)
            in_order = cost is not None
        finally:
            if in_order:
                await self._channels.give_back(channel.remote, channel)
            else:
                await conversation.cancel()
        if error is not None:
            raise error
        usage, output = wire.read_usage(finished), wire.printable(finished.report.output)
        return TaskResult(value, cost or Credits(0), channel.remote, usage, output)

    async def _settle(self, course: _Course, channel: Channel, finished: tasks_pb2.Finished) -> Credits | None:
        """Pays a bill. A wrong one is not paid (None), and its sender gets no tasks for a while; the value stays."""
        if self._payer is None or not finished.receipt:
            return Credits(0)
        spec, peer = course.spec, channel.remote
        try:
            cost, payment = await self._payer.pay(peer, finished.receipt, work_id=spec.task_id, limit=spec.max_cost)
        except CreditError as error:
            _events.warning("bill_refused", task=spec.task_id, peer=peer, error=error.message)
            self._dispatcher.leave_alone(peer, MISTRUST)
            return None
        course.paid = True
        try:
            with trio.move_on_after(wire.SILENCE_DEADLINE):
                await channel.send(tasks_pb2.FromCaller(settled=tasks_pb2.Settled(payment=payment)))
        except NetworkError as error:
            _events.warning("payment_unheard", task=spec.task_id, peer=peer, error=error.message)
        return cost


class _LostError(Exception):
    """An attempt came to nothing on one peer, and another may be tried."""

    def __init__(self, error: HivemindError) -> None:
        super().__init__(error.message)
        self.error = error


async def _decode(payload: memoryview) -> Any:
    if len(payload) < _THREAD_BYTES:
        return decode(payload)
    return await trio.to_thread.run_sync(decode, payload)
