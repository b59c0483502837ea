"""Tasks and results in columns: many in one message, and back. Every field that a peer sends is checked before use.

What is larger than `INLINE_BYTES` travels in pieces, so that nothing else waits long behind it, and no side has to
take memory for more than one piece before it has come.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from hivemind_p2p import errors
from hivemind_p2p.errors import ConfigurationError, HivemindError, ProtocolError
from hivemind_p2p.interfaces import Buffer
from hivemind_p2p.proto.task_channel_pb2 import FromCaller, FromWorker, Kind, Refused, Results, Submit
from hivemind_p2p.proto.tasks_pb2 import Needs as NeedsMessage
from hivemind_p2p.proto.tasks_pb2 import Report
from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES, MAX_TASK_ID, TaskSpec
from hivemind_p2p.types import Credits, Input, Link, Needs, Outcome, PeerId, SharedPart, Usage

INLINE_BYTES: Final = 256 << 10
"""Bytes of a payload, a shared part or a value that travel in the message that speaks of them."""

FRAME_BYTES: Final = 1 << 20
"""Bytes behind one header at the most: a second or two on a slow home line."""

MOST_IN_FRAME: Final = 1024
"""Tasks or results that one message speaks of."""

MOST_KINDS: Final = 4096
"""Kinds that a channel knows at a time."""

MOST_INPUTS: Final = 64
"""Files that one task may read from the swarm: a child keeps as many open."""

LONGEST_LINK: Final = 2048
"""Characters of a link."""

_LONGEST_SECONDS: Final = 30 * 24 * 3600.0
_LARGEST_MEMORY: Final = 1 << 50
_MOST_PRIORITY: Final = 1000


class KindKey(NamedTuple):
    """What makes a kind."""

    task_type: str
    needs: Needs
    max_cost: Credits
    at_most_once: bool
    stream_output: bool
    priority: int
    judged: bool = False
    keep: bool = False
    takes_links: bool = False


@dataclass(slots=True)
class Received:
    """A new task as a worker received it.

    Attributes:
        shared: The number of its shared part; 0 for none.
        size: Bytes of its payload.
        payload: None where it comes in pieces.
        inputs: Files in the swarm that it reads.
        again: Whether it may have begun here before.
    """

    number: int
    task_id: str
    kind: KindKey
    shared: int
    size: int
    payload: bytes | None
    inputs: tuple[Input, ...] = ()
    again: bool = False


class SubmitWriter:
    """Puts a caller's tasks into messages, for one channel.

    Args:
        takes_links: Whether the caller fetches results that lie in the swarm.
    """

    def __init__(self, *, takes_links: bool = False) -> None:
        self._takes_links = takes_links
        self._kinds: dict[KindKey, int] = {}
        self._shared: dict[SharedPart, int] = {}
        self._next_number = 1
        self._next_shared = 1
        self._last: tuple[KindKey, int] | None = None

    def add(self, tasks: Sequence[TaskSpec], message: FromCaller) -> tuple[range, list[Buffer], list[Piece]]:
        """Adds new tasks to a message.

        Returns:
            Their numbers, the bytes behind the header, and what follows in pieces.
        """
        first = self._next_number
        numbers = range(first, first + len(tasks))
        self._next_number = numbers.stop
        submit = message.submit
        parts: list[Buffer] = []
        pieces: list[Piece] = []
        task_shared = [self._share(task.shared, submit, parts, pieces) if task.shared else 0 for task in tasks]
        submit.numbers.extend(numbers)
        submit.task_ids.extend([task.task_id for task in tasks])
        submit.task_kinds.extend([self._kind(task, submit) for task in tasks])
        submit.task_shared.extend(task_shared)
        submit.task_sizes.extend([len(task.payload) for task in tasks])
        for number, task in zip(numbers, tasks, strict=True):
            if task.again:
                submit.again.append(number)
            for each in task.inputs:
                submit.inputs.add(number=number, link=each.link, bytes=each.length)
            if len(task.payload) <= INLINE_BYTES:
                parts.append(task.payload)
            else:
                pieces.append(Piece(number, False, memoryview(task.payload)))
        return numbers, parts, pieces

    def share_again(self, wanted: Sequence[int], parts_of: dict[int, SharedPart], message: FromCaller) -> list[Piece]:
        """Sends shared parts that the worker has dropped, in pieces."""
        pieces = []
        for number in wanted:
            part = parts_of.get(number)
            if part is not None:
                message.submit.shared.append(number)
                message.submit.shared_sizes.append(len(part.data))
                pieces.append(Piece(number, True, memoryview(part.data)))
        return pieces

    def number_of(self, shared: SharedPart) -> int:
        """The number that a shared part has; 0 if it has none."""
        return self._shared.get(shared, 0)

    def _kind(self, task: TaskSpec, submit: Submit) -> int:
        once, streamed = not task.idempotent, task.stream_output
        key = KindKey(task.task_type, task.needs, task.max_cost, once, streamed, task.priority, task.judged, task.keep)
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        number = self._kinds.get(key)
        if number is None:
            if len(self._kinds) >= MOST_KINDS:
                self._kinds.clear()
            number = self._kinds[key] = len(self._kinds)
            submit.kinds.append(_kind_message(number, key, self._takes_links))
        self._last = key, number
        return number

    def _share(self, part: SharedPart, submit: Submit, parts: list[Buffer], pieces: list[Piece]) -> int:
        number = self._shared.get(part)
        if number is None:
            number = self._shared[part] = self._next_shared
            self._next_shared += 1
            if len(self._shared) > MOST_KINDS:
                del self._shared[next(iter(self._shared))]
            submit.shared.append(number)
            submit.shared_sizes.append(len(part.data))
            if len(part.data) <= INLINE_BYTES:
                parts.append(part.data)
            else:
                pieces.append(Piece(number, True, memoryview(part.data)))
        return number


def _kind_message(number: int, key: KindKey, takes_links: bool) -> Kind:
    needs = NeedsMessage(
        cpus=key.needs.cpus,
        memory_bytes=key.needs.memory_bytes,
        seconds=float(key.needs.seconds),
        network=key.needs.network,
        gpus=key.needs.gpus,
        gpu_memory_bytes=key.needs.gpu_memory_bytes,
        disk_bytes=key.needs.disk_bytes,
    )
    return Kind(
        kind=number,
        task_type=key.task_type,
        needs=needs,
        max_cost=key.max_cost,
        at_most_once=key.at_most_once,
        stream_output=key.stream_output,
        priority=key.priority,
        judged=key.judged,
        keep=key.keep,
        takes_links=takes_links,
    )


@dataclass(slots=True)
class Piece:
    """What is left to send of something large."""

    number: int
    of_shared: bool
    left: memoryview

    def next(self) -> memoryview:
        """The next piece of it."""
        piece, self.left = self.left[:INLINE_BYTES], self.left[INLINE_BYTES:]
        return piece


class SubmitReader:
    """Takes a caller's messages apart, for one channel.

    Args:
        caller: Whose they are, for errors.
    """

    def __init__(self, caller: PeerId) -> None:
        self._caller = caller
        self._kinds: dict[int, KindKey] = {}
        self._last_number = 0

    def read(self, submit: Submit, payload: memoryview) -> tuple[list[tuple[int, int, bytes | None]], list[Received]]:
        """Shared parts (number, bytes in all, the bytes or None where they come in pieces), and new tasks.

        Raises:
            ProtocolError: A field is missing or out of bounds.
        """
        for kind in submit.kinds:
            self._learn_kind(kind)
        numbers = list(submit.numbers)
        columns = (submit.task_ids, submit.task_kinds, submit.task_shared, submit.task_sizes)
        if any(len(column) != len(numbers) for column in columns) or len(numbers) > MOST_IN_FRAME:
            raise self._malformed("columns of different lengths, or too long")
        if len(submit.shared) != len(submit.shared_sizes):
            raise self._malformed("columns of different lengths")
        cut = _Cutter(payload, self._caller)
        sizes = zip(submit.shared, submit.shared_sizes, strict=True)
        shared = [(number, size, cut.next(size)) for number, size in sizes]
        rows = zip(numbers, *columns, strict=True)
        tasks = [self._task(cut, *row) for row in rows]
        cut.check_end()
        if submit.inputs or submit.again:
            by_number = {task.number: task for task in tasks}
            self._read_inputs(submit, by_number)
            for number in submit.again:
                if number in by_number:
                    by_number[number].again = True
        return shared, tasks

    def _read_inputs(self, submit: Submit, tasks: dict[int, Received]) -> None:
        for each in submit.inputs:
            task = tasks.get(each.number)
            if task is None or len(task.inputs) >= MOST_INPUTS or not 0 < len(each.link) <= LONGEST_LINK:
                raise self._malformed("an input of no task, or more than a task may have")
            task.inputs += (Input(Link(each.link), each.bytes),)

    def _task(self, cut: _Cutter, number: int, task_id: str, kind: int, shared: int, size: int) -> Received:
        known = self._kinds.get(kind)
        if known is None:
            raise self._malformed(f"a task of the unknown kind {kind}")
        if number <= self._last_number:
            raise self._malformed("a task's number twice")
        if not 0 < len(task_id) <= MAX_TASK_ID or not task_id.isprintable():
            raise self._malformed("a task without a proper id")
        self._last_number = number
        return Received(number, task_id, known, shared, size, cut.next(size))

    def _learn_kind(self, kind: Kind) -> None:
        if kind.kind >= MOST_KINDS:
            raise self._malformed(f"a kind with the number {kind.kind}")
        needs = kind.needs
        if not (math.isfinite(needs.cpus) and math.isfinite(needs.seconds)) or needs.seconds > _LONGEST_SECONDS:
            raise self._malformed(f"a need of {needs.cpus:g} cpus and {needs.seconds:g} seconds")
        sizes = needs.memory_bytes, needs.gpu_memory_bytes, needs.disk_bytes
        if max(sizes) > _LARGEST_MEMORY or kind.max_cost >= 1 << 63 or abs(kind.priority) > _MOST_PRIORITY:
            raise self._malformed(f"a need of {needs.memory_bytes} bytes at a cost of {kind.max_cost}")
        try:
            read = Needs(
                cpus=needs.cpus,
                memory=needs.memory_bytes,
                seconds=needs.seconds,
                network=needs.network,
                gpus=needs.gpus,
                gpu_memory=needs.gpu_memory_bytes,
                disk=needs.disk_bytes,
            )
        except ConfigurationError as error:
            raise self._malformed(f"needs that make no sense: {error.message}") from error
        self._kinds[kind.kind] = KindKey(
            kind.task_type,
            read,
            Credits(kind.max_cost),
            kind.at_most_once,
            kind.stream_output,
            kind.priority,
            kind.judged,
            kind.keep,
            kind.takes_links,
        )

    def _malformed(self, what: str) -> ProtocolError:
        return ProtocolError(f"peer {self._caller} sent {what}")


class _Cutter:
    """Takes the bytes behind a header apart."""

    def __init__(self, payload: memoryview, peer: PeerId) -> None:
        self._payload = payload
        self._peer = peer
        self._at = 0

    def next(self, size: int) -> bytes | None:
        """The next part; None where a part of this size comes in pieces."""
        if size > INLINE_BYTES:
            if size > MAX_PAYLOAD_BYTES:
                raise ProtocolError(f"peer {self._peer} announced {size:,} bytes, more than a task can have")
            return None
        stop = self._at + size
        if stop > len(self._payload):
            raise ProtocolError(f"peer {self._peer} sent fewer bytes than it said")
        part = bytes(self._payload[self._at : stop])
        self._at = stop
        return part

    def check_end(self) -> None:
        """Raises `ProtocolError` if bytes are left over."""
        if self._at != len(self._payload):
            raise ProtocolError(f"peer {self._peer} sent more bytes than it said")


class Gathering:
    """Puts large things together from their pieces.

    Args:
        peer: Whose they are, for errors.
        most_bytes: Bytes of all that are under way.
    """

    def __init__(self, peer: PeerId, most_bytes: int) -> None:
        self._peer = peer
        self._most = most_bytes
        self._sizes: dict[tuple[int, bool], int] = {}
        self._parts: dict[tuple[int, bool], bytearray] = {}
        self.held = 0

    def expect(self, number: int, of_shared: bool, size: int) -> None:
        """Something of this size will come in pieces.

        Raises:
            ProtocolError: Too much is under way.
        """
        self._sizes[number, of_shared] = size
        self._parts[number, of_shared] = bytearray()

    def add(self, number: int, of_shared: bool, piece: memoryview) -> bytes | None:
        """A piece has come; the whole if it was the last.

        Raises:
            ProtocolError: Nobody expects it, or there is too much of it.
        """
        key = number, of_shared
        part = self._parts.get(key)
        if part is None:
            return None  # given up meanwhile
        if not piece or len(part) + len(piece) > self._sizes[key]:
            raise ProtocolError(f"peer {self._peer} sent a piece that is empty or too long")
        if self.held + len(piece) > self._most:
            raise ProtocolError(f"peer {self._peer} sent more than {self._most:,} bytes in pieces at a time")
        self.held += len(piece)
        part += piece
        if len(part) < self._sizes[key]:
            return None
        self.forget(number, of_shared)
        return bytes(part)

    def forget(self, number: int, of_shared: bool) -> None:
        """Nobody waits for it any more."""
        part = self._parts.pop((number, of_shared), None)
        self._sizes.pop((number, of_shared), None)
        self.held -= len(part) if part is not None else 0


# -- results -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ResultRow:
    """How one task ended, as a caller received it.

    Attributes:
        payload: The encoded value; None where it has come in pieces.
        report: What there is to say.
        output: The file in the swarm that it lies in instead.
    """

    number: int
    size: int
    payload: memoryview | None
    usage: Usage
    cost: int
    report: Report | None
    output: Input | None = None


@dataclass(slots=True)
class Ended:
    """How one task ended, on its way to the caller."""

    number: int
    outcome: Outcome
    cost: int = 0
    link: Link | None = None


def add_results(message: FromWorker, ended: Sequence[Ended]) -> list[Buffer]:
    """Adds results to a message; the bytes behind its header. Values that are too large must have gone before."""
    results = message.results
    results.numbers.extend([each.number for each in ended])
    results.sizes.extend([len(each.outcome.payload) for each in ended])
    results.wall_seconds.extend([each.outcome.usage.wall_seconds for each in ended])
    results.cpu_seconds.extend([each.outcome.usage.cpu_seconds for each in ended])
    results.peak_memory_bytes.extend([each.outcome.usage.peak_memory_bytes for each in ended])
    if any(each.cost for each in ended):
        results.costs.extend([each.cost for each in ended])
    for row, each in enumerate(ended):
        outcome = each.outcome
        if each.link is not None:
            results.outputs.add(number=each.number, link=each.link, bytes=outcome.length)
        if outcome.error_code or outcome.output:
            results.report_rows.append(row)
            results.reports.add(
                error_code=outcome.error_code,
                error_message=outcome.error_message,
                remote_traceback=outcome.remote_traceback,
                output=outcome.output,
                exception=outcome.exception,
            )
    return [each.outcome.payload for each in ended if 0 < len(each.outcome.payload) <= INLINE_BYTES]


def read_results(results: Results, payload: memoryview, worker: PeerId) -> Iterator[ResultRow]:
    """The rows of a message.

    Raises:
        ProtocolError: Its columns do not fit each other, or the bytes behind it.
    """
    numbers, sizes = list(results.numbers), list(results.sizes)
    walls, cpus, peaks = list(results.wall_seconds), list(results.cpu_seconds), list(results.peak_memory_bytes)
    costs = list(results.costs) or [0] * len(numbers)
    if (
        any(len(column) != len(numbers) for column in (sizes, costs, walls, cpus, peaks))
        or len(numbers) > MOST_IN_FRAME
    ):
        raise ProtocolError(f"peer {worker} sent results in columns of different lengths, or too long")
    if sum(size for size in sizes if size <= INLINE_BYTES) != len(payload):
        raise ProtocolError(f"peer {worker} sent fewer or more bytes than it said")
    if len(results.report_rows) != len(results.reports) or any(row >= len(numbers) for row in results.report_rows):
        raise ProtocolError(f"peer {worker} sent reports on no results")
    outputs = _outputs(results, worker) if results.outputs else {}
    reports = dict(zip(results.report_rows, results.reports, strict=True)) if results.report_rows else {}
    at = 0
    rows = zip(numbers, sizes, walls, cpus, peaks, costs, strict=True)
    for row, (number, size, wall, cpu, peak, cost) in enumerate(rows):
        value = None
        if size <= INLINE_BYTES:
            value = payload[at : at + size]
            at += size
        elif size > MAX_PAYLOAD_BYTES:
            raise ProtocolError(f"peer {worker} announced a value of {size:,} bytes")
        usage = Usage(_finite(wall), _finite(cpu), peak)
        yield ResultRow(number, size, value, usage, cost, reports.get(row), outputs.get(number))


def _outputs(results: Results, worker: PeerId) -> dict[int, Input]:
    numbers = {number for number, size in zip(results.numbers, results.sizes, strict=True) if not size}
    for each in results.outputs:
        if each.number not in numbers or not 0 < len(each.link) <= LONGEST_LINK or not each.bytes:
            raise ProtocolError(f"peer {worker} sent an output of no result")
    return {each.number: Input(Link(each.link), each.bytes) for each in results.outputs}


def _finite(number: float) -> float:
    return number if 0.0 <= number < math.inf else 0.0


def add_refusal(message: FromWorker, numbers: Sequence[int], error: HivemindError) -> None:
    """Says that tasks will not be run, and why."""
    message.refused.append(Refused(numbers=numbers, code=error.code(), message=error.message, hint=error.hint))


def read_refusal(refused: Refused, worker: PeerId) -> HivemindError:
    """Why tasks were refused."""
    from hivemind_p2p.tasks.wire import printable

    message = f"peer {worker} answered: {printable(refused.message[:4096])}"
    return errors.from_code(refused.code[:64], message, printable(refused.hint[:4096]) or None)
