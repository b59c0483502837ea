"""One lane as it really is: a child, the tasks in its socket, what it has answered, and what that took.

Usage is measured from outside for all of a child's tasks together; how much of it was each one's the child says, and
it is never believed to more than what was measured.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from hivemind_p2p.errors import (
    ArchiveError,
    TaskCrashedError,
    TaskError,
    TaskFailedError,
    TaskMemoryError,
    UnknownTaskTypeError,
    UnsafeValueError,
)
from hivemind_p2p.interfaces import WorkListener
from hivemind_p2p.proto.tasks_pb2 import Report
from hivemind_p2p.types import Outcome, SharedPart, Usage, Work
from hivemind_p2p.worker import packets
from hivemind_p2p.worker.gpus import Gpu
from hivemind_p2p.worker.lanes import Key
from hivemind_p2p.worker.packets import MAX_MESSAGE, Reply
from hivemind_p2p.worker.reporter import TaskReport

FROM_CHILD: Final = frozenset(
    kind.code() for kind in (TaskFailedError, TaskMemoryError, UnsafeValueError, UnknownTaskTypeError, ArchiveError)
)
"""What a child may report; anything else did not come from our program in it."""

_CHILD_GOES_ON: Final = frozenset((TaskFailedError.code(), UnsafeValueError.code(), UnknownTaskTypeError.code()))


class Child(Protocol):
    """What a lane needs of a child process; `worker.process.ChildProcess` is it."""

    slots: dict[SharedPart, int]
    inputs: dict[str, None]

    def send_now(self, packet: bytes) -> bool:
        """Sends a packet if the socket has room for it."""

    def recall(self) -> list[bytes]:
        """Takes back every packet that the child has not taken."""

    def cpu_seconds(self) -> float:
        """Processor time of the child so far."""


@dataclass(slots=True, eq=False)
class Run:
    """A task in the executor.

    Attributes:
        ticket: Its number here.
        listener: Who is told what becomes of it.
        lane: Where it was given to; 0 while it waits.
        told: Whether the listener was told that it has started.
    """

    ticket: int
    work: Work
    key: Key
    listener: WorkListener
    lane: int = 0
    told: bool = False

    @property
    def flags(self) -> int:
        """For the child."""
        return packets.STREAM_OUTPUT if self.work.stream_output else 0


@dataclass(slots=True, eq=False)
class Workplace:
    """A child at work for one caller.

    Attributes:
        lane: Its number.
        key: What its tasks have in common.
        child: None until there is one.
        given: Tasks that are not in the child's socket yet.
        inside: Tasks that are: the first one runs, or has ended and nobody has looked yet.
        since: When the first one began, as far as is known.
        peak: The most memory seen so far.
        gpus: Those that are the child's own.
    """

    lane: int
    key: Key
    child: Child | None = None
    given: deque[Run] = field(default_factory=deque)
    inside: deque[Run] = field(default_factory=deque)
    since: float = 0.0
    peak: int = 0
    gpus: tuple[Gpu, ...] = ()
    _cpu_seen: float = 0.0
    _cpu_left: float = 0.0
    _crowded: bool = False

    @property
    def tasks(self) -> int:
        """All that it holds."""
        return len(self.given) + len(self.inside)

    def report(self, now: float) -> TaskReport:
        """What it is at, for people to look at."""
        assert self.child is not None
        work = self.inside[0].work
        return TaskReport(
            task_id=work.task_id,
            caller=work.caller,
            task_type=work.task_type,
            seconds=max(0.0, now - self.since),
            cpu_seconds=self.child.cpu_seconds(),
            memory_bytes=self.peak,
            ready=len(self.inside) - 1,
        )

    def begin(self, child: Child) -> None:
        """The child is there."""
        self.child = child
        self._cpu_seen = child.cpu_seconds()

    def feed(self, now: float) -> list[bytes]:
        """Puts tasks into the child's socket, as many as it takes.

        Returns:
            Packets of one task that is too large for that; they are sent one after the other, and nothing else until
            that task has ended.
        """
        if self.child is None or self._crowded:
            return []
        while self.given:
            run = self.given[0]
            if self._is_large(run):
                return [] if self.inside else self._begin_large(run, now)
            if not self._send(run):
                break
            self.given.popleft()
            self._put_inside(run, now)
        return []

    def _put_inside(self, run: Run, now: float) -> None:
        if not self.inside:
            self.since = now
        self.inside.append(run)

    def _is_large(self, run: Run) -> bool:
        shared = run.work.shared
        assert self.child is not None
        large_part = shared is not None and len(shared.data) > packets.WHOLE_PACKET and shared not in self.child.slots
        return large_part or len(run.work.payload) > packets.WHOLE_PACKET

    def _begin_large(self, run: Run, now: float) -> list[bytes]:
        self._crowded = True
        self.given.popleft()
        self._put_inside(run, now)
        return list(self._packets(run))

    def _send(self, run: Run) -> bool:
        assert self.child is not None
        for packet in self._packets(run):
            if not self.child.send_now(packet):
                self._forget_sent(packet)
                return False
        return True

    def _packets(self, run: Run) -> Iterator[bytes]:
        work, slot = run.work, 0
        assert self.child is not None
        if work.shared is not None:
            slots = self.child.slots
            slot = slots.get(work.shared, 0)
            if not slot:
                slot = len(slots) + 1
                if slot >= packets.SLOTS:  # the one that was put there first makes room
                    oldest = next(iter(slots))
                    slot = slots.pop(oldest)
                slots[work.shared] = slot
                yield from packets.shared_packets(slot, work.shared.data)
        if work.inputs:
            yield from self._input_packets(work)
        yield from packets.task_packets(
            run.ticket,
            work.task_type.encode(),
            work.payload,
            slot=slot,
            flags=run.flags,
            memory_bytes=run.key.memory_bytes,
        )

    def _input_packets(self, work: Work) -> Iterator[bytes]:
        assert self.child is not None
        known = self.child.inputs
        for each in work.inputs:
            known.pop(each.link, None)  # at the end again: a task's own files never make room for each other
            if len(known) >= packets.INPUTS:
                del known[next(iter(known))]
            known[each.link] = None
            yield packets.input_packet(each.link, each.path)

    def _forget_sent(self, packet: bytes) -> None:
        """A packet has not reached the child."""
        assert self.child is not None
        slot, link = packets.slot_of(packet), packets.link_of(packet)
        if slot is not None:
            self._forget_slot(slot)
        elif link is not None:
            self.child.inputs.pop(link, None)

    def _forget_slot(self, slot: int) -> None:
        assert self.child is not None
        for shared, used in list(self.child.slots.items()):
            if used == slot:
                # Its place stays taken, by nothing: numbers are given in order.
                del self.child.slots[shared]
                self.child.slots[SharedPart(b"")] = slot

    # -- back --------------------------------------------------------------------------------------------------------

    def take_back(self) -> list[Run]:
        """Everything that has not been started, in order. What is left inside was."""
        back = [*self.given]
        self.given.clear()
        if self.child is None or self._crowded:
            return back
        recalled = set()
        for packet in self.child.recall():
            ticket = packets.ticket_of(packet)
            if ticket is not None:
                recalled.add(ticket)
            else:
                self._forget_sent(packet)
        fetched = [run for run in self.inside if run.ticket in recalled]
        self.inside = deque(run for run in self.inside if run.ticket not in recalled)
        return [*fetched, *back]

    def match(self, reply: Reply) -> Run | None:
        """The task that a reply is about; None where there is no such."""
        if not self.inside or self.inside[0].ticket != reply.ticket:
            return None
        return self.inside[0]

    def results(self, replies: list[Reply], now: float) -> list[tuple[Run, Outcome]]:
        """Takes tasks out that have ended; `match` has found each reply's task to be the next one."""
        self._measure()
        claimed = sum(_believable(reply.cpu_seconds) for reply in replies)
        all_of_it = len(replies) == len(self.inside)
        elapsed = max(0.0, now - self.since)
        ended = []
        for reply in replies:
            run = self.inside.popleft()
            claim = _believable(reply.cpu_seconds)
            share = claim / claimed if claimed else 1 / len(replies)
            cpu = self._cpu_left * share if all_of_it or claimed > self._cpu_left else claim
            usage = Usage(min(_believable(reply.wall_seconds), elapsed), cpu, self._peak(reply))
            ended.append((run, outcome_of(usage, reply)))
        self._cpu_left = 0.0 if all_of_it else max(0.0, self._cpu_left - claimed)
        self._crowded = False
        self.since = now
        return ended

    def usage_of_head(self, now: float) -> Usage:
        """What the first task has used so far, where no reply will come."""
        self._measure()
        return Usage(max(0.0, now - self.since), self._cpu_left, self.peak)

    def add_cpu(self, seconds: float) -> None:
        """Notes processor time that only a look at the child's own children has shown."""
        self._cpu_left += seconds

    def _measure(self) -> None:
        assert self.child is not None
        seconds = self.child.cpu_seconds()
        self._cpu_left += max(0.0, seconds - self._cpu_seen)
        self._cpu_seen = max(seconds, self._cpu_seen)

    def _peak(self, reply: Reply) -> int:
        return max(self.peak, min(reply.peak_bytes, self.key.memory_bytes))


def outcome_of(usage: Usage, reply: Reply) -> Outcome:
    """How a task ended, by what the child says."""
    if reply.lost:
        return failure(usage, TaskFailedError, reply.lost)
    if not reply.report:
        return Outcome(usage, payload=reply.payload, path=reply.path, length=reply.length)
    try:
        report = Report.FromString(reply.report)
    except DecodeError:
        return failure(usage, TaskCrashedError, "the child wrote something that is no report")
    if report.error_code and report.error_code not in FROM_CHILD:
        return failure(usage, TaskCrashedError, "the child reported something that no child reports")
    return Outcome(
        usage,
        payload=b"" if report.error_code else reply.payload,
        error_code=report.error_code,
        error_message=report.error_message[:MAX_MESSAGE],
        remote_traceback=report.remote_traceback,
        output=report.output,
        exception=report.exception[:64],
        path=reply.path,
        length=reply.length,
    )


def child_goes_on(outcome: Outcome) -> bool:
    """Whether the child may run another task after one that ended like this."""
    return not outcome.error_code or outcome.error_code in _CHILD_GOES_ON


def failure(usage: Usage, kind: type[TaskError], reason: str) -> Outcome:
    """The outcome of a task that gave none."""
    return Outcome(usage, error_code=kind.code(), error_message=reason)


def _believable(seconds: float) -> float:
    """A time as a child claims it; nonsense counts as nothing."""
    return seconds if 0.0 <= seconds < math.inf else 0.0
