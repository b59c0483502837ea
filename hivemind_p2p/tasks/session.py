"""The worker's side of one channel: takes one caller's tasks, tells how they fare, writes bills for them.

One task of the loop reads, one writes; the executor tells what becomes of the work between the two. What there is to
say gathers while the writer is busy, and goes out in one message.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.defaults import REQUEST_DEADLINE
from hivemind_p2p.errors import (
    BusyError,
    HivemindError,
    PaymentRequiredError,
    ProtocolError,
    SandboxError,
    StreamClosedError,
    TaskCrashedError,
    TaskError,
    TaskLostError,
    TaskRefusedError,
    UnsafeValueError,
    VoucherError,
)
from hivemind_p2p.interfaces import Buffer, Channel
from hivemind_p2p.proto.task_channel_pb2 import Allowance, Bill, FromCaller, FromWorker, Settled, Submit
from hivemind_p2p.tasks import columns, wire
from hivemind_p2p.tasks.columns import Ended, Gathering, KindKey, Piece, Received, SubmitReader
from hivemind_p2p.tasks.kept_work import KeptWork
from hivemind_p2p.tasks.outputs import CallersOutputs
from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES, cost_of
from hivemind_p2p.tasks.tab import WorkerTab
from hivemind_p2p.types import Credits, Outcome, SharedPart, Usage, Work

if TYPE_CHECKING:
    from hivemind_p2p.tasks.service import TaskService

MOST_SHARED: Final = 64
MOST_SHARED_BYTES: Final = 64 << 20
"""Shared parts that are kept for one caller; it sends again what was dropped."""

MOST_PRINTED: Final = 1 << 20
"""Bytes of output that wait for a slow caller; what is printed meanwhile is left out, but for its end."""

MOST_UNJUDGED: Final = 4096
"""Results that one caller may have without saying whether it accepts them."""

MOST_GATHERING: Final = 256 << 20
"""Bytes of payloads that one caller may have under way in pieces."""

UNBILLED: Final = frozenset((TaskCrashedError.code(), SandboxError.code()))
"""Ends that may be this machine's fault."""

LAST_SENTENCE: Final = 1.0
"""Seconds that a session which ends waits for the message that it is sending."""

IDLE_GRACE: Final = 30.0
"""Seconds that an idle channel is kept beyond what callers keep it, so that the caller is the one to close it."""

_events = telemetry.source("tasks")


@dataclass(slots=True, eq=False)
class _Held:
    """A task that was taken and has not ended."""

    number: int
    kind: KindKey
    work: Work
    bytes: int
    handed: bool = False
    fetching: bool = False
    kept: KeptWork | None = None


@dataclass(slots=True)
class _News:
    """What the caller is to be told."""

    ended: deque[Ended] = field(default_factory=deque)
    started: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    refused: list[tuple[list[int], HivemindError]] = field(default_factory=list)
    printed: deque[tuple[int, bytearray]] = field(default_factory=deque)
    printed_bytes: int = 0
    pieces: deque[Piece] = field(default_factory=deque)
    large: dict[int, Ended] = field(default_factory=dict)

    def print(self, number: int, data: bytes) -> None:
        """Adds what a task has printed."""
        if self.printed_bytes + len(data) > MOST_PRINTED:
            return
        self.printed_bytes += len(data)
        if self.printed and self.printed[-1][0] == number and len(self.printed[-1][1]) < columns.INLINE_BYTES // 2:
            self.printed[-1][1].extend(data)
        else:
            self.printed.append((number, bytearray(data)))

    def __bool__(self) -> bool:
        return bool(self.ended or self.started or self.wanted or self.refused or self.printed or self.pieces)


class Session:
    """One channel with one caller; a `WorkListener`."""

    def __init__(self, service: TaskService, channel: Channel) -> None:
        self._service = service
        self._channel = channel
        self._caller = channel.remote
        self._reader = SubmitReader(self._caller)
        self._gathering = Gathering(self._caller, MOST_GATHERING)
        self._tab = WorkerTab(service.slots)
        self._held: dict[int, _Held] = {}
        self._of_work: dict[Work, _Held] = {}
        self._shared: OrderedDict[int, SharedPart] = OrderedDict()
        self._shared_bytes = 0
        self._without_shared: dict[int, list[tuple[Received, bytes]]] = {}
        self._without_payload: dict[int, Received] = {}
        self._ready: deque[_Held] = deque()
        self._handed = 0
        self._news = _News()
        self._outputs = CallersOutputs(service.outputs)
        self._bell = trio.Event()
        self._ever_allowed = self._leaving = False
        self._bill_prefix = ""
        self._settle_by: dict[int, float] = {}
        self._speaking = trio.Lock()
        self._silent = False
        self._unjudged: OrderedDict[int, tuple[Credits, str]] = OrderedDict()
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Until the caller closes the channel, leaves it idle, or breaks the rules."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._write)
                nursery.start_soon(self._service.learn_account, self._caller)
                try:
                    await self._read()
                finally:
                    await self._finish_sentence()
                nursery.cancel_scope.cancel()
        finally:
            self._give_up()

    async def _finish_sentence(self) -> None:
        """Lets a message that is being sent go out whole: why the session ends can be said behind a whole one only."""
        with trio.move_on_after(LAST_SENTENCE):
            async with self._speaking:
                self._silent = True

    def _give_up(self) -> None:
        """The caller is gone: so is what it wanted."""
        now = trio.current_time()
        self._outputs.give_up()
        for held in list(self._held.values()):
            if held.kept is not None:
                self._service.kept.left(held.kept, now)
                self._forget(held)
                continue
            self._service.cancelled += 1
            self._drop(held)
        self._service.tidy(now)
        for size in [received.size for received in self._without_payload.values()]:
            self._service.admission.leave(size, self._caller)
        for rows in self._without_shared.values():
            for received, _ in rows:
                self._service.admission.leave(received.size, self._caller)
        self._service.executor.go_on()
        self._service.admission.forget(self._caller)
        earner = self._service.earner
        if earner is not None:
            for limit in self._tab.take_back():
                earner.dismiss(self._caller, limit=Credits(limit))
            self._service.unpaid += self._tab.unbilled + sum(self._tab.open_bills.values())

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            with trio.move_on_after(wire.CHANNEL_IDLE + IDLE_GRACE) as idle:
                message, payload = await self._channel.receive(FromCaller, max_payload=columns.FRAME_BYTES)
            if idle.cancelled_caught:
                if self._outputs or self._held or self._without_payload or self._without_shared:
                    continue
                return
            await self._take(message, payload)
            if self._leaving and not self._tab.unbilled and not self._tab.open_bills:
                return

    async def _take(self, message: FromCaller, payload: memoryview) -> None:
        for allowance in message.allowances:
            await self._allow(allowance)
        if message.HasField("settled"):
            await self._settled(message.settled)
        if message.HasField("piece"):
            piece = message.piece
            whole = self._gathering.add(piece.number, piece.of_shared, payload)
            if whole is not None:
                self._gathered(piece.number, piece.of_shared, whole)
        elif message.HasField("submit"):
            self._submit(message.submit, payload)
        elif payload:
            raise ProtocolError(f"peer {self._caller} sent bytes that belong to nothing")
        self._stop(message)
        self._judge(message.accepted, message.rejected)
        if message.take_back:
            self._take_back()
        self._leaving = self._leaving or message.leaving
        self._hand_out()
        if self._leaving or message.take_back:
            self._bell.set()

    def _stop(self, message: FromCaller) -> None:
        for number in message.cancelled:
            self._cancel(number)
        if message.wanted_back:
            self.hand_back(message.wanted_back, "its caller asked for it")

    def _submit(self, submit: Submit, payload: memoryview) -> None:
        shared, tasks = self._reader.read(submit, payload)
        for number, size, data in shared:
            if data is None:
                self._gathering.expect(number, True, size)
            else:
                self._keep_shared(number, data)
        service = self._service
        if tasks and service.earner is not None and not self._ever_allowed:
            raise PaymentRequiredError(f"{self._caller} asks for work and has set nothing aside for it")
        refusals: dict[str, tuple[list[int], HivemindError]] = {}
        for received in tasks:
            try:
                service.check(received, self._caller)
            except (TaskError, BusyError) as error:
                refusals.setdefault(error.message, ([], error))[0].append(received.number)
                continue
            service.admission.enter(received.size, self._caller)
            if not self._bill_prefix:
                self._bill_prefix = received.task_id
            if received.payload is None:
                self._gathering.expect(received.number, False, received.size)
                self._without_payload[received.number] = received
            else:
                self._arrived(received, received.payload)
        if refusals:
            self._news.refused += refusals.values()
            self._bell.set()

    def _gathered(self, number: int, of_shared: bool, whole: bytes) -> None:
        if of_shared:
            self._keep_shared(number, whole)
        elif (received := self._without_payload.pop(number, None)) is not None:
            self._arrived(received, whole)

    def _keep_shared(self, number: int, data: bytes) -> None:
        if number in self._shared:
            self._shared_bytes -= len(self._shared.pop(number).data)
        self._shared[number] = SharedPart(data)
        self._shared_bytes += len(data)
        while len(self._shared) > MOST_SHARED or (self._shared_bytes > MOST_SHARED_BYTES and len(self._shared) > 1):
            self._shared_bytes -= len(self._shared.popitem(last=False)[1].data)
        for received, payload in self._without_shared.pop(number, []):
            self._arrived(received, payload)

    def _arrived(self, received: Received, payload: bytes) -> None:
        """All of a task is there, except perhaps for its shared part."""
        part = None
        if received.shared:
            part = self._shared.get(received.shared)
            if part is None:
                if received.shared not in self._without_shared:
                    self._news.wanted.append(received.shared)
                    self._bell.set()
                self._without_shared.setdefault(received.shared, []).append((received, payload))
                return
        kind = received.kind
        if kind.keep and self._took_up(received):
            return
        work = Work(
            received.task_id,
            self._caller,
            kind.task_type,
            payload,
            kind.needs,
            part,
            kind.priority,
            kind.stream_output,
            received.inputs,
        )
        held = _Held(received.number, kind, work, received.size)
        self._held[held.number] = held
        self._of_work[work] = held
        if received.inputs:
            held.fetching = True
            self._nursery.start_soon(self._fetch_inputs, held)
        else:
            self._ready.append(held)

    def _took_up(self, received: Received) -> bool:
        """Goes on with a task that was begun for this caller before, or says that it is lost."""
        kept = self._service.kept.find(self._caller, received.task_id)
        if kept is None and received.again and received.kind.at_most_once:
            lost = "it may have begun, and this peer knows nothing of it any more"
            self._service.admission.leave(received.size, self._caller)
            outcome = Outcome(Usage(), error_code=TaskLostError.code(), error_message=lost)
            self._news.ended.append(Ended(received.number, outcome))
            self._bell.set()
            return True
        if kept is None or kept.work in self._of_work:
            return False
        held = _Held(received.number, received.kind, kept.work, received.size, handed=True, kept=kept)
        self._held[held.number] = held
        self._of_work[held.work] = held
        self._handed += 1
        kept.session = self
        if kept.outcome is not None:
            self.ended(kept.work, kept.outcome)
        return True

    async def _fetch_inputs(self, held: _Held) -> None:
        inputs = self._service.inputs
        try:
            if inputs is None:
                raise TaskRefusedError("this peer fetches nothing for tasks")
            paths = [await inputs.get(each) for each in held.work.inputs]
        except TaskRefusedError as error:
            if self._held.get(held.number) is held:
                self._forget(held)
                self._news.refused.append(([held.number], error))
                self._bell.set()
            return
        if self._held.get(held.number) is not held:
            return  # given up meanwhile
        found = zip(held.work.inputs, paths, strict=True)
        del self._of_work[held.work]
        held.work = replace(held.work, inputs=tuple(replace(each, path=str(path)) for each, path in found))
        self._of_work[held.work] = held
        held.fetching = False
        self._ready.append(held)
        self._hand_out()

    def _hand_out(self) -> None:
        """Gives the executor what the caller's allowances cover."""
        ready, executor = self._ready, self._service.executor
        before = self._handed
        while ready:
            held = ready[0]
            if self._service.earner is not None and not self._tab.covers(self._handed, held.kind.max_cost):
                self._bell.set()  # a bill may make room
                break
            ready.popleft()
            held.handed = True
            self._handed += 1
            if held.kind.keep:
                held.kept = self._service.kept.begin(held.work, self)
            executor.submit(held.work, held.kept or self)
        if self._handed != before:
            executor.go_on()

    def _cancel(self, number: int) -> None:
        held = self._held.get(number)
        if held is not None:
            _events.info("task_cancelled", task=held.work.task_id, caller=self._caller)
            self._service.cancelled += 1
            self._drop(held)
            self._service.executor.go_on()
        elif number in self._outputs:
            self._judge((), (number,))
        elif (received := self._without_payload.pop(number, None)) is not None:
            self._gathering.forget(number, False)
            self._service.admission.leave(received.size, self._caller)

    def hand_back(self, numbers: Iterable[int] | None = None, reason: str = "it is about to end") -> None:
        """Gives back tasks that have not begun: these, or all. The caller has them run elsewhere, at no cost."""
        returned = []
        for number in list(self._held) if numbers is None else numbers:
            held = self._held.get(number)
            if held is not None and self._withdraw(held):
                self._forget(held)
                returned.append(number)
        if returned:
            self._news.refused.append((returned, BusyError(f"it gave back what had not begun: {reason}")))
            self._bell.set()
            self._hand_out()
        self._service.executor.go_on()

    def _withdraw(self, held: _Held) -> bool:
        if not held.handed:
            if not held.fetching:
                self._ready.remove(held)
            return True
        if self._service.executor.withdraw(held.work):
            self._handed -= 1
            return True
        return False

    def _drop(self, held: _Held) -> None:
        if held.handed:
            self._service.executor.cancel(held.work)
            self._service.kept.drop(held.work)
            self._handed -= 1
        elif not held.fetching:
            self._ready.remove(held)
        self._forget(held)

    def _forget(self, held: _Held) -> None:
        del self._held[held.number]
        del self._of_work[held.work]
        self._service.admission.leave(held.bytes, self._caller)

    # -- what the executor says --------------------------------------------------------------------------------------

    def started(self, work: Work) -> None:
        """It runs."""
        held = self._of_work.get(work)
        if held is not None:
            self._news.started.append(held.number)
            self._bell.set()

    def printed(self, work: Work, data: bytes) -> None:
        """It has printed something."""
        held = self._of_work.get(work)
        if held is not None:
            self._news.print(held.number, data)
            self._bell.set()

    def ended(self, work: Work, outcome: Outcome) -> None:
        """It has ended."""
        held = self._of_work.get(work)
        if held is None:
            self._service.outputs.let_go(outcome)
            return
        outcome = self._checked(held, outcome) if outcome.path else outcome
        self._forget(held)
        self._handed -= 1
        service = self._service
        service.completed += not outcome.error_code
        service.failed += bool(outcome.error_code)
        cost = Credits(0)
        paid_before = held.kept is not None and held.kept.charged
        if service.earner is not None and outcome.error_code not in UNBILLED and not paid_before:
            cost = cost_of(outcome.usage, service.prices, held.kind.max_cost)
            self._charge(held, cost, judged=held.kind.judged or bool(outcome.path))
        ended = Ended(held.number, outcome, cost)
        if outcome.path:
            drop = partial(service.kept.drop, held.work) if held.kept is not None else None
            self._outputs.add(held.number, outcome, trio.current_time(), drop)
            self._nursery.start_soon(self._share_output, ended)
        elif len(outcome.payload) > columns.INLINE_BYTES:
            self._news.pieces.append(Piece(held.number, False, memoryview(outcome.payload)))
            self._news.large[held.number] = ended
        else:
            self._news.ended.append(ended)
        if self._ready:
            self._hand_out()
        self._bell.set()

    def _checked(self, held: _Held, outcome: Outcome) -> Outcome:
        """An outcome with a file; without, where its caller takes none."""
        if not outcome.error_code and held.kind.takes_links:
            return outcome
        self._service.outputs.let_go(outcome)
        if outcome.error_code:
            return replace(outcome, path="")
        most = f"it has {outcome.length:,} bytes, and its caller fetches none of more than {MAX_PAYLOAD_BYTES:,}"
        return Outcome(outcome.usage, error_code=UnsafeValueError.code(), error_message=most, output=outcome.output)

    async def _share_output(self, ended: Ended) -> None:
        """Tells of a result that is too large for the channel once it can be fetched."""
        try:
            ended.link = await self._outputs.share(ended.number)
            if ended.link is None:
                return
        except HivemindError as error:
            self._judge((), (ended.number,))
            lost = f"its result of {ended.outcome.length:,} bytes could not be shared: {error.message}"
            ended.outcome = Outcome(ended.outcome.usage, error_code=TaskCrashedError.code(), error_message=lost)
            ended.cost = 0
        self._news.ended.append(ended)
        self._bell.set()

    # -- writing -----------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while True:
                if not self._news:
                    await self._wait()
                self._bell = trio.Event()
                await self._write_bill()
                await self._write_news()
        except StreamClosedError:
            _events.debug("caller_gone", caller=self._caller)

    async def _wait(self) -> None:
        """Until there is something to say; says a word by itself where the caller might begin to wonder."""
        now = trio.current_time()
        pause = wire.ALIVE_INTERVAL
        due_at = self._tab.due_at(quiet=not self._held)
        if due_at is not None:
            pause = min(pause, max(0.0, due_at - now))
        with trio.move_on_after(pause) as quiet:
            await self._bell.wait()
        if quiet.cancelled_caught and pause == wire.ALIVE_INTERVAL:
            self._check_settled()
            self._outputs.tidy(trio.current_time())
            if self._outputs or self._held or self._without_payload or self._without_shared:
                await self._send(FromWorker(), [])

    async def _write_news(self) -> None:
        news = self._news
        while news:
            if news.pieces:
                await self._write_piece(news.pieces[0])
            message = FromWorker()
            # What a task printed goes before its result: its caller listens no longer than that.
            parts = self._printed(message) or self._results(message)
            message.started.extend(news.started)
            message.wanted_shared.extend(news.wanted)
            for numbers, error in news.refused:
                columns.add_refusal(message, numbers, error)
            news.started, news.wanted, news.refused = [], [], []
            if message.ByteSize():
                await self._send(message, parts)

    def _results(self, message: FromWorker) -> list[Buffer]:
        """As many results as one message holds."""
        taken: list[Ended] = []
        size = 0
        while self._news.ended and len(taken) < columns.MOST_IN_FRAME:
            length = len(self._news.ended[0].outcome.payload)
            size += length if length <= columns.INLINE_BYTES else 0
            if size > columns.FRAME_BYTES:
                break
            taken.append(self._news.ended.popleft())
        return columns.add_results(message, taken) if taken else []

    def _printed(self, message: FromWorker) -> list[Buffer]:
        parts: list[Buffer] = []
        size = 0
        while self._news.printed and size < columns.INLINE_BYTES:
            number, data = self._news.printed.popleft()
            self._news.printed_bytes -= len(data)
            message.printed.numbers.append(number)
            message.printed.sizes.append(len(data))
            parts.append(data)
            size += len(data)
        return parts

    async def _write_piece(self, piece: Piece) -> None:
        message = FromWorker()
        message.piece.number = piece.number
        await self._send(message, [piece.next()])
        self._news.pieces.popleft()
        if piece.left:
            self._news.pieces.append(piece)
        else:
            self._news.ended.append(self._news.large.pop(piece.number))

    async def _send(self, message: FromWorker, parts: list[Buffer]) -> None:
        async with self._speaking:
            if self._silent:
                await trio.sleep_forever()  # until the session has ended
            with trio.fail_after(wire.transfer_deadline(columns.FRAME_BYTES)):
                await self._channel.send(message, parts)

    # -- payment -----------------------------------------------------------------------------------------------------

    async def _allow(self, allowance: Allowance) -> None:
        earner = self._service.earner
        if earner is None:
            return
        limit = Credits(allowance.limit)
        await earner.admit(self._caller, allowance.payment, limit=limit)
        self._ever_allowed = True
        self._tab.allow(limit, trio.current_time())

    def _charge(self, held: _Held, cost: Credits, *, judged: bool) -> None:
        """Notes what a task costs: at once, or once its caller has accepted what came of it."""
        if held.kept is not None:
            held.kept.charged = True
        if not judged:
            self._tab.done(cost, held.kind.task_type, trio.current_time())
            return
        self._unjudged[held.number] = cost, held.kind.task_type
        if len(self._unjudged) > MOST_UNJUDGED:
            self._service.unpaid += self._unjudged.popitem(last=False)[1][0]

    def _judge(self, accepted: Iterable[int], rejected: Iterable[int]) -> None:
        for number in accepted:
            self._outputs.let_go(number)
            if (unjudged := self._unjudged.pop(number, None)) is not None:
                self._tab.done(*unjudged, trio.current_time())
                self._bell.set()
        for number in rejected:
            self._outputs.let_go(number)
            if self._unjudged.pop(number, None) is not None:
                self._service.rejected += 1
                _events.warning("result_rejected", caller=self._caller)

    def _take_back(self) -> None:
        """The caller has nothing under way; what was set aside for more is free again."""
        earner = self._service.earner
        if earner is not None and not self._held:
            for limit in self._tab.take_back():
                earner.dismiss(self._caller, limit=Credits(limit))

    async def _write_bill(self) -> None:
        earner, now = self._service.earner, trio.current_time()
        if earner is None:
            return
        for limit in self._tab.expire(now):
            earner.dismiss(self._caller, limit=Credits(limit))
        due_at = self._tab.due_at(quiet=not self._held)
        blocked = bool(self._ready) and not self._handed
        if due_at is None or not (self._leaving or blocked or due_at <= now):
            return
        draft = self._tab.bill()
        if draft is None:
            return
        work_id = f"{self._bill_prefix}+{draft.number}"
        receipt = await earner.bill(self._caller, work_id=work_id, amount=draft.amount, what=draft.what)
        self._settle_by[draft.number] = now + 2 * REQUEST_DEADLINE
        # What it is for goes first: the caller pays what it has been told of.
        await self._write_news()
        await self._send(FromWorker(bill=Bill(bill=draft.number, limit=draft.limit, receipt=receipt)), [])

    async def _settled(self, settled: Settled) -> None:
        earner = self._service.earner
        if earner is None:
            return
        await earner.collect(self._caller, settled.payment)
        self._service.earned += self._tab.settled(settled.bill)
        self._settle_by.pop(settled.bill, None)

    def _check_settled(self) -> None:
        """Ends the session with a caller that does not pay."""
        now = trio.current_time()
        late = [bill for bill, until in self._settle_by.items() if until < now]
        if late:
            amount = sum(self._tab.open_bills.values())
            _events.warning("task_unpaid", caller=self._caller, bills=len(late), amount=amount)
            raise VoucherError(f"{self._caller} has not paid bill {late[0]}")
