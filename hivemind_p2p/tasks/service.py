"""The worker's side of tasks.

Participants: callers, which send tasks; this peer, which runs them through its executor and is paid by its earner.
Messages: `proto/task_channel.proto`. A caller has one channel, on which any number of tasks are under way.
Goals:
    - Refuse early and say why: unknown type, more than is lent, a full line, no payment.
    - Kill the work at once when its caller cancels or vanishes.
    - Bill for work that was done, also where the function raised; never more than the caller allowed, and nothing
      where the child died, which may be this machine's fault.
    - A small task costs little: many share a message, a signature, a wake-up of the loop.
Non-goals: trusting the work (the executor's walls are for that); retries (the caller's business).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hivemind_p2p import telemetry
from hivemind_p2p.errors import BusyError, HivemindError, TaskRefusedError
from hivemind_p2p.interfaces import AccountBook, Channel, Content, Earner, Executor, Network
from hivemind_p2p.tasks import registry, wire
from hivemind_p2p.tasks.admission import Admission, Lent
from hivemind_p2p.tasks.columns import Received
from hivemind_p2p.tasks.inputs import Inputs
from hivemind_p2p.tasks.kept_work import KeptWorks
from hivemind_p2p.tasks.outputs import Outputs
from hivemind_p2p.tasks.session import Session
from hivemind_p2p.types import PeerId, Prices, Work

_events = telemetry.source("tasks")

MOST_CALLS: Final = 512
"""Channels open at once, one for each caller as a rule, most of them idle."""


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
    rejected: int = 0


class TaskService:
    """Runs tasks for others.

    Args:
        network: Where callers come from.
        executor: What runs the work.
        earner: The till; None where nobody pays.
        prices: What this peer asks.
        lent: What tasks may have.
        content: The swarm, for what tasks read; None where nothing is fetched for them.
        accounts: Says whose callers are, who share this peer by account; None where all count as one.
    """

    def __init__(
        self,
        network: Network,
        executor: Executor,
        earner: Earner | None,
        prices: Prices,
        lent: Lent,
        content: Content | None = None,
        accounts: AccountBook | None = None,
    ) -> None:
        self.closed = ""
        """Why no more tasks are taken, as the end of a sentence; empty while they are."""
        self.executor = executor
        self.earner = earner
        self.prices = prices
        self.slots = max(1, int(lent.cpus))
        self.admission = Admission(lent)
        self.inputs = Inputs(content) if content is not None else None
        self.outputs = Outputs(content)
        self.kept = KeptWorks(self.outputs.let_go)
        self._accounts = accounts
        self._sessions: set[Session] = set()
        self.completed = self.failed = self.cancelled = self.earned = self.unpaid = self.rejected = 0
        network.serve(wire.PROTOCOL, self._converse, most_at_once=MOST_CALLS)

    def statistics(self) -> TaskServiceStatistics:
        """What was done so far."""
        running = min(self.executor.running, self.admission.waiting)
        return TaskServiceStatistics(
            running=running,
            waiting=self.admission.waiting - running,
            completed=self.completed,
            failed=self.failed,
            cancelled=self.cancelled,
            earned=self.earned,
            unpaid=self.unpaid,
            rejected=self.rejected,
        )

    async def _converse(self, channel: Channel) -> None:
        session = Session(self, channel)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)

    async def learn_account(self, caller: PeerId) -> None:
        """Asks whose a caller is; until that is known, and where it cannot be known, it counts as nobody's."""
        if self._accounts is None:
            return
        try:
            account = (await self._accounts.accounts_of([caller])).get(caller, "")
        except HivemindError as error:
            _events.info("account_unknown", caller=caller, reason=error.message)
            return
        self.admission.belongs(caller, account)
        self.executor.belongs(caller, account)

    def hand_back(self) -> None:
        """Gives back to their callers all tasks that have not begun; they go elsewhere."""
        for session in self._sessions:
            session.hand_back()

    def tidy(self, now: float) -> None:
        """Stops and forgets what was kept too long for callers that did not come back."""
        for work in self.kept.tidy(now):
            self.executor.cancel(work)

    def check(self, task: Received, caller: PeerId) -> None:
        """Whether a task is taken.

        Raises:
            TaskRefusedError: It asks for more than is lent, or allows less than is asked for.
            UnknownTaskTypeError: Nobody here knows how to run it.
            BusyError: The line is full, or no tasks are taken for a while.
        """
        kind = task.kind
        if self.closed:
            raise BusyError(f"it takes no tasks now: {self.closed}")
        registry.task_type(kind.task_type)
        # A limit of zero would need no hold, and cost nothing.
        if self.earner is not None and kind.max_cost < self.prices.per_task:
            raise TaskRefusedError(
                f"it may cost {kind.max_cost} millionths of a credit, and this peer asks for {self.prices.per_task}"
            )
        sample = Work("", caller, kind.task_type, b"", kind.needs)
        self.admission.check(kind.needs, task.size, self.executor.seconds(sample), caller)
