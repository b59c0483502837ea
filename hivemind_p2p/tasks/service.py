"""The worker's side of tasks.

Participants: callers, which send tasks; this peer, which runs them through its executor and is paid by its earner.
Messages: `proto/tasks.proto`. A channel carries any number of tasks, one after the other.
Goals:
    - Refuse early and say why: unknown type, more than is lent, a full line, no payment.
    - Kill the work at once when its caller cancels or vanishes.
    - Bill for work that was done, also where the function raised; never more than the caller allowed, and nothing
      where the child died, which may be this machine's fault.
Non-goals: trusting the work (the executor's walls are for that); retries (the caller's business).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.defaults import REQUEST_DEADLINE
from hivemind_p2p.errors import (
    ProtocolError,
    SandboxError,
    StreamClosedError,
    TaskCrashedError,
    TaskRefusedError,
    VoucherError,
)
from hivemind_p2p.interfaces import Channel, Earner, Executor, Network
from hivemind_p2p.proto import tasks_pb2
from hivemind_p2p.tasks import registry, wire
from hivemind_p2p.tasks.admission import Admission
from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES, TaskSpec, cost_of
from hivemind_p2p.types import Credits, Outcome, PeerId, Prices, Work

MOST_CALLS: Final = 512
"""Channels open at once, most of them idle between two tasks of one caller."""

_GRACE: Final = 30.0
"""Seconds that an idle channel is kept beyond what callers keep it, so that the caller is the one to close it."""

_UNBILLED: Final = frozenset((TaskCrashedError.code(), SandboxError.code()))

_events = telemetry.source("tasks")


@dataclass(frozen=True, slots=True)
class TaskServiceStatistics:
    """What a worker has done since it started; `earned` in millionths of a credit, as billed and paid."""

    running: int = 0
    waiting: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    earned: int = 0
    unpaid: int = 0


class TaskService:
    """Runs tasks for others.

    Args:
        network: Where callers come from.
        executor: What runs the work.
        earner: The till; None where nobody pays.
        prices: What this peer asks.
        cpus: Cores lent.
        memory_bytes: Memory lent.
    """

    def __init__(
        self,
        network: Network,
        executor: Executor,
        earner: Earner | None,
        prices: Prices,
        *,
        cpus: float,
        memory_bytes: int,
    ) -> None:
        self.closed = ""
        """Why no more tasks are taken, as the end of a sentence; empty while they are."""
        self._executor = executor
        self._earner = earner
        self._prices = prices
        self._admission = Admission(cpus, memory_bytes)
        self._turns: dict[int, trio.Event] = {}
        self._tickets = itertools.count()
        self._running: set[int] = set()
        self._completed = self._failed = self._cancelled = self._earned = self._unpaid = 0
        network.serve(wire.PROTOCOL, self._converse, most_at_once=MOST_CALLS)

    def statistics(self) -> TaskServiceStatistics:
        """What was done so far."""
        return TaskServiceStatistics(
            running=len(self._running),
            waiting=self._admission.waiting,
            completed=self._completed,
            failed=self._failed,
            cancelled=self._cancelled,
            earned=self._earned,
            unpaid=self._unpaid,
        )

    async def _converse(self, channel: Channel) -> None:
        """Tasks one after the other, until the caller closes the channel or leaves it idle."""
        while True:
            with trio.move_on_after(wire.CHANNEL_IDLE + _GRACE) as idle:
                message, payload = await channel.receive(tasks_pb2.FromCaller, max_payload=MAX_PAYLOAD_BYTES)
            if idle.cancelled_caught:
                return
            if message.WhichOneof("message") == "cancel":
                continue  # it crossed the end of the task that it was meant for
            if message.WhichOneof("message") != "request":
                raise ProtocolError(f"peer {channel.remote} began a task with something else than a request")
            spec = wire.read_request(message.request, payload, channel.remote)
            del payload
            if not await self._serve(channel, spec, message.request.payment):
                return

    async def _serve(self, channel: Channel, spec: TaskSpec, payment: bytes) -> bool:
        """One task from the request to its payment; False if the caller gave it up."""
        if self.closed:
            raise TaskRefusedError(f"this peer takes no tasks now: {self.closed}")
        registry.task_type(spec.task_type)
        if self._earner is not None:
            self._check_limit(spec)
            await self._earner.admit(channel.remote, payment, limit=spec.max_cost)
        amount, receipt = Credits(0), b""
        try:
            outcome = await self._wait_and_run(channel, spec)
            if outcome is not None:
                amount, receipt = await self._bill(channel.remote, spec, outcome)
        finally:
            if self._earner is not None and not receipt:
                self._earner.dismiss(channel.remote, limit=spec.max_cost)
        if outcome is None:
            self._cancelled += 1
            _events.info("task_cancelled", task=spec.task_id, caller=channel.remote)
            return False
        self._completed += not outcome.error_code
        self._failed += bool(outcome.error_code)
        await self._deliver(channel, spec, outcome, receipt)
        if receipt and self._earner is not None:
            await self._collect(channel, self._earner, spec, amount)
        return True

    def _check_limit(self, spec: TaskSpec) -> None:
        """Refuses a task that allows less than its price: a limit of zero would need no hold, and cost nothing."""
        if spec.max_cost < self._prices.per_task:
            raise TaskRefusedError(
                f"it may cost {spec.max_cost} millionths of a credit, and this peer asks for {self._prices.per_task}"
            )

    # -- waiting and running -----------------------------------------------------------------------------------------

    async def _wait_and_run(self, channel: Channel, spec: TaskSpec) -> Outcome | None:
        """The outcome, or None if the caller gave the task up."""
        ticket = next(self._tickets)
        self._admission.submit(ticket, spec.needs)
        self._turns[ticket] = trio.Event()
        self._next_turns()
        outcome: Outcome | None = None
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            nursery.start_soon(self._watch_caller, channel, scope)
            nursery.start_soon(self._show_life, channel, scope)
            outcome = await self._run_in_turn(channel, spec, ticket)
            scope.cancel()
        return outcome

    async def _run_in_turn(self, channel: Channel, spec: TaskSpec, ticket: int) -> Outcome | None:
        turn = self._turns[ticket]
        try:
            await channel.send(tasks_pb2.FromWorker(accepted=tasks_pb2.Accepted()))
            await turn.wait()
            await channel.send(tasks_pb2.FromWorker(started=tasks_pb2.Started()))
            return await self._execute(channel.remote, spec)
        except StreamClosedError:
            return None
        finally:
            self._leave(ticket, turn, spec)

    def _leave(self, ticket: int, turn: trio.Event, spec: TaskSpec) -> None:
        self._turns.pop(ticket, None)
        self._admission.withdraw(ticket)
        if turn.is_set():
            self._admission.finish(spec.needs)
            self._running.discard(ticket)
        self._next_turns()

    async def _execute(self, caller: PeerId, spec: TaskSpec) -> Outcome:
        return await self._executor.run(Work(spec.task_id, caller, spec.task_type, spec.payload, spec.needs))

    def _next_turns(self) -> None:
        for ticket in self._admission.start():
            self._running.add(ticket)
            self._turns[ticket].set()

    async def _watch_caller(self, channel: Channel, scope: trio.CancelScope) -> None:
        """Ends the work as soon as its caller says so, closes the channel, or breaks the rules."""
        try:
            await channel.receive(tasks_pb2.FromCaller)
        except (StreamClosedError, ProtocolError):
            _events.debug("caller_gone", caller=channel.remote)
        scope.cancel()

    async def _show_life(self, channel: Channel, scope: trio.CancelScope) -> None:
        while True:
            await trio.sleep(wire.ALIVE_INTERVAL)
            try:
                with trio.fail_after(REQUEST_DEADLINE):
                    await channel.send(tasks_pb2.FromWorker(alive=tasks_pb2.Alive()))
            except (StreamClosedError, trio.TooSlowError):
                scope.cancel()
                return

    # -- result and payment ------------------------------------------------------------------------------------------

    async def _deliver(self, channel: Channel, spec: TaskSpec, outcome: Outcome, receipt: bytes) -> None:
        with trio.fail_after(wire.transfer_deadline(len(outcome.payload))):
            if len(outcome.payload) <= wire.INLINE_BYTES:
                await channel.send(wire.finished_message(outcome, receipt), outcome.payload)
            else:
                await channel.send(wire.finished_message(outcome, receipt, value_bytes=len(outcome.payload)))
                await channel.send(tasks_pb2.FromWorker(value=tasks_pb2.Value()), outcome.payload)
        _events.info("task_finished", task=spec.task_id, caller=channel.remote, error=outcome.error_code or None)

    async def _bill(self, caller: PeerId, spec: TaskSpec, outcome: Outcome) -> tuple[Credits, bytes]:
        if self._earner is None or outcome.error_code in _UNBILLED:
            return Credits(0), b""
        amount = cost_of(outcome.usage, self._prices, spec.max_cost)
        return amount, await self._earner.bill(caller, work_id=spec.task_id, amount=amount, what=spec.task_type)

    async def _collect(self, channel: Channel, earner: Earner, spec: TaskSpec, amount: Credits) -> None:
        try:
            with trio.fail_after(REQUEST_DEADLINE):
                message, _ = await channel.receive(tasks_pb2.FromCaller)
            if message.WhichOneof("message") != "settled":
                raise ProtocolError(f"peer {channel.remote} did not pay for task {spec.task_id}")
            await earner.collect(channel.remote, message.settled.payment)
        except (StreamClosedError, ProtocolError, VoucherError, trio.TooSlowError):
            self._unpaid += amount
            _events.warning("task_unpaid", task=spec.task_id, caller=channel.remote, amount=amount)
            raise
        self._earned += amount
