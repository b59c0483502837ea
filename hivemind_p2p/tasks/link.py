"""The caller's side of one channel: sends tasks to one worker, takes results, pays.

One task of the loop reads, one writes; what there is to send gathers while the writer is busy, and goes out in one
message. The channel is opened with the first task and closed when it has been idle for a while.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

import trio

from hivemind_p2p import errors, telemetry
from hivemind_p2p.errors import (
    CreditError,
    DeadlineExceededError,
    HivemindError,
    InsufficientCreditsError,
    ProtocolError,
    StreamClosedError,
)
from hivemind_p2p.interfaces import Buffer, Channel, Network, Payer
from hivemind_p2p.proto.task_channel_pb2 import Bill, FromCaller, FromWorker, Refused
from hivemind_p2p.tasks import columns, wire
from hivemind_p2p.tasks.columns import Piece, ResultRow, SubmitWriter
from hivemind_p2p.tasks.course import Course
from hivemind_p2p.tasks.linked_values import LinkedValues, fetch_deadline
from hivemind_p2p.tasks.reading import decode
from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES, TaskResult, TaskState, most_result_bytes
from hivemind_p2p.tasks.tab import CallerTab
from hivemind_p2p.tasks.values import ENCODED_NONE
from hivemind_p2p.types import Credits, Input, Offer, PeerId, SharedPart

GRACE: Final = 10.0
"""Seconds beyond the task's own that a worker has to stop it and say so."""

LONGEST_WAIT: Final = 3600.0
"""Seconds that a task may lie in a worker's line, the worker showing life all the time."""

LOOK_INTERVAL: Final = 1.0
"""Seconds between two looks at what has taken too long."""

TAKE_BACK_AFTER: Final = 5.0
"""Seconds without work after which what was set aside for the worker is freed."""

FAREWELL: Final = 2.0
"""Seconds for paying the last bill when the caller leaves."""

LAST_WORDS: Final = 1.0
"""Seconds for reading what a worker said before it hung up."""

MOST_GATHERING: Final = 512 << 20
"""Bytes of values that may come in pieces at a time."""

MOST_GIVEN_UP: Final = 4096
"""Cancelled tasks whose bill is expected: those that had ended when the worker heard of it."""

_THREAD_BYTES: Final = 1 << 20
"""Bytes of a value from which it is decoded in a thread: a smaller one takes a few milliseconds at most."""

_NONE: Final = memoryview(ENCODED_NONE)
_events = telemetry.source("tasks")


class LinkOwner(Protocol):
    """Who is told what comes of tasks; `tasks.client.TaskClient` is it."""

    def link_result(self, course: Course, result: TaskResult) -> None:
        """A task gave a value."""

    def link_error(self, course: Course, error: HivemindError) -> None:
        """A task ended in an error of its own."""

    def link_started(self, course: Course) -> None:
        """The worker says that it runs a task."""

    def link_returned(self, courses: Sequence[Course]) -> None:
        """The worker gave tasks back that it was asked for, and has not begun them."""

    def link_refused(self, courses: Sequence[Course], error: HivemindError) -> None:
        """The worker will not run tasks, and has not."""

    def link_unread(self, course: Course, error: HivemindError) -> None:
        """A task gave a value that could not be fetched or read."""

    def link_ended(self, link: Link, lost: Sequence[Course], error: HivemindError) -> None:
        """The channel is gone, with tasks that had not ended."""

    def link_mistrusted(self, link: Link) -> None:
        """The worker sent a bill that is wrong."""

    def link_turn(self) -> None:
        """A message has been dealt with."""


class Link:
    """One worker as its caller sees it.

    Args:
        network: How it is reached.
        payer: The purse; None where everything is free.
        offer: What it lends.
        owner: Who is told.
        linked: Fetches values that lie in the swarm; None where none are taken.
    """

    def __init__(
        self,
        network: Network,
        payer: Payer | None,
        offer: Offer,
        owner: LinkOwner,
        linked: LinkedValues | None = None,
    ) -> None:
        self.offer = offer
        self.peer: PeerId = offer.peer.peer_id
        self._network = network
        self._payer = payer
        self._owner = owner
        self._unsent: deque[Course] = deque()
        self._open: dict[int, Course] = {}
        self._running: dict[int, float] = {}
        self._cancelled: list[int] = []
        self._asked_back: list[int] = []
        self._wanted: list[int] = []
        self._parts: dict[int, SharedPart] = {}
        self._pieces: deque[Piece] = deque()
        self._bills: deque[Bill] = deque()
        self._writer = SubmitWriter(takes_links=linked is not None)
        self._linked = linked
        self._fetches: dict[int, trio.CancelScope] = {}
        self._nursery: trio.Nursery
        self._tab = CallerTab()
        self._values: dict[int, bytearray] = {}
        self._given_up: OrderedDict[int, int] = OrderedDict()
        self._accepted: list[int] = []
        self._rejected: list[int] = []
        self._unjudged: set[int] = set()
        self._bell = trio.Event()
        self._heard = self._busy_until = trio.current_time()
        self._first_id = ""
        self._leaving = self._took_back = False
        self.heard_since_sent = True
        self.used = False
        self.closed = False

    @property
    def busy(self) -> bool:
        """Whether tasks are with it."""
        return bool(self._unsent or self._open)

    # -- for the client ----------------------------------------------------------------------------------------------

    def send(self, course: Course) -> None:
        """Sends a task soon; `ring` afterwards."""
        self._unsent.append(course)

    def ring(self) -> None:
        """There is something to send."""
        self._bell.set()

    def ask_back(self, course: Course) -> None:
        """Asks the worker to give a task back, unless it has begun."""
        if course.number in self._open:
            self._asked_back.append(course.number)
            self._bell.set()
        elif course in self._unsent:
            self._unsent.remove(course)
            self._owner.link_returned([course])

    def give_up(self, course: Course) -> None:
        """Stops a task, wherever it is."""
        if self._open.pop(course.number, None) is not None:
            self._running.pop(course.number, None)
            self._values.pop(course.number, None)
            if (fetch := self._fetches.pop(course.number, None)) is not None:
                fetch.cancel()
            # It may have ended by now, and is billed then.
            self._given_up[course.number] = course.spec.max_cost
            if len(self._given_up) > MOST_GIVEN_UP:
                self._given_up.popitem(last=False)
            self._cancelled.append(course.number)
            self._bell.set()
        elif course in self._unsent:
            self._unsent.remove(course)

    def abandon(self, course: Course) -> None:
        """Leaves a task that is kept to its worker."""
        if self._open.pop(course.number, None) is not None:
            self._running.pop(course.number, None)
            self._values.pop(course.number, None)
            self._given_up[course.number] = course.spec.max_cost
        elif course in self._unsent:
            self._unsent.remove(course)

    def leave(self) -> None:
        """Pays what is owed, and closes."""
        self._leaving = True
        self._bell.set()

    async def run(self) -> None:
        """Until it is idle for long, or lost, or told to leave."""
        error: HivemindError = StreamClosedError(f"the channel with peer {self.peer} was closed")
        try:
            self._network.learn(self.offer.peer)
            channel = await self._network.open(self.peer, wire.PROTOCOL)
            try:
                await self._converse(channel)
            finally:
                with trio.CancelScope(shield=True):
                    await channel.aclose()
        except HivemindError as failed:
            error = failed
        finally:
            self._end(error)

    async def _converse(self, channel: Channel) -> None:
        failures: list[HivemindError] = []
        async with trio.open_nursery() as nursery:
            self._nursery = nursery

            async def read() -> None:
                try:
                    await self._read(channel)
                except HivemindError as error:
                    failures.insert(0, error)
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            try:
                await self._write(channel)
            except StreamClosedError as error:
                failures.append(error)
                await trio.sleep(LAST_WORDS)  # why it has closed may still lie there to be read
            except HivemindError as error:
                failures.insert(0, error)
            nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]

    def _end(self, error: HivemindError) -> None:
        self.closed = True
        if self._payer is not None:
            for limit in self._tab.take_back():
                self._payer.release(self.peer, Credits(limit))
        lost = [*self._open.values(), *self._unsent]
        self._open.clear()
        self._unsent.clear()
        self._unjudged.clear()
        self._owner.link_ended(self, lost, error)

    # -- writing -----------------------------------------------------------------------------------------------------

    async def _write(self, channel: Channel) -> None:
        while True:
            if not self._has_news and await self._wait(channel):
                return
            self._bell = trio.Event()
            while self._bills:
                await self._pay(channel, self._bills.popleft())
            message = FromCaller()
            parts: list[Buffer] = []
            if self._unsent:
                await self._allow(message)
                parts = self._submit(message)
            if self._wanted:
                self._pieces += self._writer.share_again(self._wanted, self._parts, message)
                self._wanted.clear()
            message.cancelled.extend(self._cancelled)
            self._cancelled.clear()
            message.wanted_back.extend(self._asked_back)
            self._asked_back.clear()
            message.accepted.extend(self._accepted)
            message.rejected.extend(self._rejected)
            self._accepted.clear()
            self._rejected.clear()
            if message.ByteSize():
                await self._send(channel, message, parts)
            if self._pieces:
                await self._send_piece(channel)

    @property
    def _has_news(self) -> bool:
        words = self._cancelled or self._asked_back or self._accepted or self._rejected or self._wanted
        return bool(self._unsent or words or self._pieces or self._bills)

    async def _wait(self, channel: Channel) -> bool:
        """Until there is something to send; True where the channel is to be closed."""
        if self._leaving and not self.busy:
            await self._say_goodbye(channel)
            return True
        with trio.move_on_after(LOOK_INTERVAL) as quiet:
            await self._bell.wait()
        if not quiet.cancelled_caught:
            return False
        now = trio.current_time()
        if self.busy:
            self._check_deadlines(now)
            return False
        if self._unjudged:
            self._busy_until = now
            return False
        if now - self._busy_until > TAKE_BACK_AFTER and not self._took_back:
            await self._take_back(channel)
        return now - self._busy_until > wire.CHANNEL_IDLE

    def _check_deadlines(self, now: float) -> None:
        if self._open and now - self._heard > wire.SILENCE_DEADLINE:  # before it has any it had no reason to speak
            raise DeadlineExceededError(
                f"peer {self.peer} did not show life within {wire.SILENCE_DEADLINE:g} s while it had tasks"
            )
        for number, until in self._running.items():
            if now > until:
                seconds = self._open[number].spec.needs.seconds + GRACE
                raise DeadlineExceededError(f"peer {self.peer} did not end a task within {seconds:g} s")
        oldest = next(iter(self._open.values()), None)
        if oldest is not None and oldest.number not in self._running and now - oldest.sent_at > LONGEST_WAIT:
            raise DeadlineExceededError(f"peer {self.peer} did not start a task within {LONGEST_WAIT:g} s")

    def _submit(self, message: FromCaller) -> list[Buffer]:
        courses: list[Course] = []
        size, now = 0, trio.current_time()
        unsent = self._unsent
        while unsent and len(courses) < columns.MOST_IN_FRAME:
            spec = unsent[0].spec
            length = len(spec.payload) if len(spec.payload) <= columns.INLINE_BYTES else 0
            length += sum(2 * len(each.link) for each in spec.inputs)
            if spec.shared is not None and len(spec.shared.data) <= columns.INLINE_BYTES:
                length += 0 if self._writer.number_of(spec.shared) else len(spec.shared.data)
            if courses and size + length > columns.FRAME_BYTES:
                break
            size += length
            courses.append(unsent.popleft())
        if not self._open:
            self._heard = now  # until now it had no reason to say anything
        self._first_id = self._first_id or courses[0].spec.task_id
        numbers, parts, pieces = self._writer.add([course.spec for course in courses], message)
        self._pieces += pieces
        self.heard_since_sent = False
        for number, course in zip(numbers, courses, strict=True):
            course.number, course.sent_at = number, now
            self._open[number] = course
            shared = course.spec.shared
            if shared is not None:
                self._parts[self._writer.number_of(shared)] = shared
            course.move(TaskState.ASSIGNED, self.peer)
        return parts

    async def _send_piece(self, channel: Channel) -> None:
        piece = self._pieces.popleft()
        if not piece.of_shared and piece.number not in self._open:
            return  # given up meanwhile
        message = FromCaller()
        message.piece.number, message.piece.of_shared = piece.number, piece.of_shared
        await self._send(channel, message, [piece.next()])
        if piece.left:
            self._pieces.append(piece)

    async def _send(self, channel: Channel, message: FromCaller, parts: list[Buffer]) -> None:
        deadline = wire.transfer_deadline(columns.FRAME_BYTES)
        with trio.move_on_after(deadline) as slow:
            await channel.send(message, parts)
        if slow.cancelled_caught:
            raise DeadlineExceededError(f"peer {self.peer} did not take a message within {deadline:g} s")

    # -- payment -----------------------------------------------------------------------------------------------------

    async def _allow(self, message: FromCaller) -> None:
        """Sets aside what the tasks that wait may cost, where not enough is."""
        payer = self._payer
        if payer is None:
            return
        now = trio.current_time()
        for limit in self._tab.expire(now):
            payer.release(self.peer, Credits(limit))
        max_cost = max(course.spec.max_cost for course in self._unsent)
        at_once = min(max(1, int(self.offer.cpus)), len(self._unsent) + len(self._open))
        while limit := self._tab.wanted(max_cost=max_cost, at_once=at_once, now=now):
            try:
                payment = await payer.authorise(self.peer, Credits(limit))
            except InsufficientCreditsError:
                if self._tab.covers(max_cost, now):
                    break  # fewer at a time, then
                if at_once == 1:
                    raise
                at_once = 1
                continue
            message.allowances.add(limit=limit, payment=payment)
            self._tab.allow(limit, now)
            self._took_back = False

    async def _pay(self, channel: Channel, bill: Bill) -> None:
        """Pays a bill, and allows as much again where there is more to do."""
        payer = self._payer
        if payer is None:
            return
        try:
            most = self._tab.billed(bill.bill, bill.limit)
            amount, payment = await payer.pay(
                self.peer,
                bill.receipt,
                work_id=f"{self._first_id}+{bill.bill}",
                limit=Credits(bill.limit),
                most=Credits(most),
            )
        except CreditError as error:
            _events.warning("bill_refused", peer=self.peer, error=error.message)
            self._owner.link_mistrusted(self)
            raise
        self._tab.paid(amount)
        message = FromCaller()
        message.settled.bill, message.settled.payment = bill.bill, payment
        if self._unsent or self._open:
            await self._allow_again(message)
        await self._send(channel, message, [])

    async def _allow_again(self, message: FromCaller) -> None:
        payer, now = self._payer, trio.current_time()
        courses = self._unsent or self._open.values()
        max_cost = max(course.spec.max_cost for course in courses)
        at_once = min(max(1, int(self.offer.cpus)), len(self._unsent) + len(self._open))
        limit = self._tab.wanted(max_cost=max_cost, at_once=at_once, now=now)
        if payer is None or not limit:
            return
        try:
            payment = await payer.authorise(self.peer, Credits(limit))
        except CreditError as error:
            _events.info("no_more_set_aside", peer=self.peer, error=error.message)
            return
        message.allowances.add(limit=limit, payment=payment)
        self._tab.allow(limit, now)

    async def _take_back(self, channel: Channel) -> None:
        self._took_back = True
        limits = self._tab.take_back()
        if self._payer is None or not limits or self._tab.owed:
            for limit in limits:
                self._tab.allow(limit, trio.current_time())
            return
        for limit in limits:
            self._payer.release(self.peer, Credits(limit))
        await self._send(channel, FromCaller(take_back=True), [])

    async def _say_goodbye(self, channel: Channel) -> None:
        """Lets the worker bill what it has done, and pays it."""
        if self._payer is None or not self._tab.owed:
            return
        with trio.move_on_after(FAREWELL):
            await self._send(channel, FromCaller(leaving=True), [])
            while self._tab.owed:
                while not self._bills:
                    self._bell = trio.Event()
                    await self._bell.wait()
                await self._pay(channel, self._bills.popleft())

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _read(self, channel: Channel) -> None:
        while True:
            message, payload = await channel.receive(FromWorker, max_payload=columns.FRAME_BYTES)
            self._heard = trio.current_time()
            self.heard_since_sent = self.used = True
            await self._take(message, payload)
            if not self.busy:
                self._busy_until = self._heard
            self._owner.link_turn()

    async def _take(self, message: FromWorker, payload: memoryview) -> None:
        if message.HasField("piece"):
            self._piece(message, payload)
        elif message.HasField("printed"):
            self._printed(message, payload)
        elif message.HasField("results"):
            for row in columns.read_results(message.results, payload, self.peer):
                await self._result(row)
        elif payload:
            raise ProtocolError(f"peer {self.peer} sent bytes that belong to nothing")
        for number in message.started:
            self._started(number)
        for refused in message.refused:
            self._refused(refused)
        if message.wanted_shared:
            self._wanted += message.wanted_shared
            self._bell.set()
        if message.HasField("bill"):
            self._bills.append(message.bill)
            self._bell.set()

    def _piece(self, message: FromWorker, payload: memoryview) -> None:
        number = message.piece.number
        if number not in self._open:
            return  # given up meanwhile
        value = self._values.setdefault(number, bytearray())
        value += payload
        if len(value) > MAX_PAYLOAD_BYTES or sum(map(len, self._values.values())) > MOST_GATHERING:
            raise ProtocolError(f"peer {self.peer} sent more bytes of a value than a task can have")

    def _printed(self, message: FromWorker, payload: memoryview) -> None:
        printed, at = message.printed, 0
        if len(printed.numbers) != len(printed.sizes) or sum(printed.sizes) != len(payload):
            raise ProtocolError(f"peer {self.peer} sent output in columns of different lengths")
        for number, size in zip(printed.numbers, printed.sizes, strict=True):
            course = self._open.get(number)
            if course is not None:
                self._started(number)
                course.listener.printed(bytes(payload[at : at + size]))
            at += size

    def _refused(self, refused: Refused) -> None:
        courses = [course for number in refused.numbers if (course := self._open.pop(number, None)) is not None]
        returned = [course for course in courses if course.asked_back]
        others = [course for course in courses if not course.asked_back]
        if returned:
            self._owner.link_returned(returned)
        if others:
            self._owner.link_refused(others, columns.read_refusal(refused, self.peer))

    def _started(self, number: int) -> None:
        course = self._open.get(number)
        if course is not None and number not in self._running:
            self._running[number] = trio.current_time() + course.spec.needs.seconds + GRACE
            course.move(TaskState.RUNNING, self.peer)
            self._owner.link_started(course)

    async def _result(self, row: ResultRow) -> None:
        course = self._open.get(row.number)
        if course is None:
            self._tab.took(row.cost, self._given_up.pop(row.number, 0))
            return
        error = wire.read_error(row.report, self.peer) if row.report is not None else None
        if error is None and row.output is not None:
            self._begin_fetch(course, row, row.output)
            return
        value: Any = None
        if error is None:
            payload = row.payload if row.payload is not None else memoryview(self._whole(row))
            if payload != _NONE:
                value = await _decode(payload)
        self._ended(course, row, value, error)

    def _ended(self, course: Course, row: ResultRow, value: Any, error: HivemindError | None) -> None:
        del self._open[row.number]
        self._running.pop(row.number, None)
        course.move(TaskState.RUNNING, self.peer)
        cost = self._cost_of(course, row)
        if error is not None:
            self._owner.link_error(course, error)
            return
        output = wire.printable(row.report.output) if row.report is not None else ""
        self._owner.link_result(course, TaskResult(value, Credits(cost), self.peer, row.usage, output))

    def _begin_fetch(self, course: Course, row: ResultRow, output: Input) -> None:
        if self._linked is None or output.length > most_result_bytes(course.spec.needs.memory_bytes):
            raise ProtocolError(f"peer {self.peer} announced a value of {output.length:,} bytes")
        if row.number in self._fetches:
            raise ProtocolError(f"peer {self.peer} sent a result twice")
        scope = self._fetches[row.number] = trio.CancelScope()
        course.move(TaskState.RUNNING, self.peer)
        # Those before it may take as long.
        self._running[row.number] = trio.current_time() + len(self._fetches) * fetch_deadline(output.length) + GRACE
        self._nursery.start_soon(self._fetch, course, row, output, scope)

    async def _fetch(self, course: Course, row: ResultRow, output: Input, scope: trio.CancelScope) -> None:
        assert self._linked is not None
        try:
            with scope:
                value = await self._linked.get(output)
        except HivemindError as error:
            if self._open.get(row.number) is course:
                self._unread(course, row, error)
            return
        finally:
            self._fetches.pop(row.number, None)
        if not scope.cancelled_caught and self._open.get(row.number) is course:
            self._ended(course, row, value, None)
            if not course.spec.judged:
                self._accepted.append(row.number)
                self._bell.set()

    def _unread(self, course: Course, row: ResultRow, error: HivemindError) -> None:
        """A result could not be fetched, or is none."""
        del self._open[row.number]
        self._running.pop(row.number, None)
        self._rejected.append(row.number)
        self._bell.set()
        told = f"the result of peer {self.peer} could not be read: {error.message}"
        self._owner.link_unread(course, errors.from_code(error.code(), told, error.hint))
        self._owner.link_turn()

    def _cost_of(self, course: Course, row: ResultRow) -> int:
        number, max_cost = row.number, course.spec.max_cost
        if course.spec.judged:
            self._unjudged.add(number)
            course.judge = lambda accepted: self._judge(number, row.cost, max_cost, accepted)
            return min(row.cost, max_cost) if self._payer is not None else 0
        return self._tab.took(row.cost, max_cost) if self._payer is not None else 0

    def _judge(self, number: int, cost: int, max_cost: int, accepted: bool) -> None:
        if self.closed or number not in self._unjudged:
            return
        self._unjudged.discard(number)
        if accepted and self._payer is not None:
            self._tab.took(cost, max_cost)
        (self._accepted if accepted else self._rejected).append(number)
        self._bell.set()

    def _whole(self, row: ResultRow) -> bytearray:
        whole = self._values.pop(row.number, bytearray())
        if len(whole) != row.size:
            raise ProtocolError(f"peer {self.peer} sent something else than the value it announced")
        return whole


async def _decode(payload: Buffer) -> Any:
    if len(payload) < _THREAD_BYTES:
        return decode(payload)
    return await trio.to_thread.run_sync(decode, payload)
