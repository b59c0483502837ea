"""Many tasks in one message, and many results: there and back, and what liars make of it."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.proto.task_channel_pb2 import FromCaller, FromWorker, Results, Submit
from hivemind_p2p.tasks.columns import (
    INLINE_BYTES,
    Ended,
    Gathering,
    SubmitReader,
    SubmitWriter,
    add_results,
    read_results,
)
from hivemind_p2p.tasks.spec import TaskSpec
from hivemind_p2p.types import Credits, Needs, Outcome, PeerId, SharedPart, Usage

PEER = PeerId("p")
PARTS = [SharedPart(b"one"), SharedPart(b""), SharedPart(b"x" * (INLINE_BYTES + 1))]

specs = st.builds(
    TaskSpec,
    task_id=st.text("abc123", min_size=1, max_size=64),
    task_type=st.sampled_from(["function/1", "command/1"]),
    payload=st.one_of(st.binary(max_size=50), st.just(b"y" * (INLINE_BYTES + 5))),
    needs=st.sampled_from([Needs(), Needs(cpus=2.0, memory=1 << 20, seconds=0.5, network=True)]),
    max_cost=st.sampled_from([Credits(0), Credits(1_000_000)]),
    shared=st.sampled_from([None, *PARTS]),
    idempotent=st.booleans(),
    priority=st.integers(-3, 3),
    stream_output=st.booleans(),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(specs, min_size=1, max_size=8), max_size=4))
def test_tasks_arrive_as_they_were_sent(frames):
    writer, reader = SubmitWriter(), SubmitReader(PEER)
    gathering, shared = Gathering(PEER, 1 << 30), {}
    for tasks in frames:
        message = FromCaller()
        numbers, parts, pieces = writer.add(tasks, message)
        new, received = reader.read(message.submit, memoryview(b"".join(parts)))
        for number, size, data in new:
            if data is None:
                gathering.expect(number, True, size)
            else:
                shared[number] = data
        payloads = {each.number: each.payload for each in received}
        for each in received:
            if each.payload is None:
                gathering.expect(each.number, False, each.size)
        for piece in pieces:
            while piece.left:
                whole = gathering.add(piece.number, piece.of_shared, piece.next())
            (shared if piece.of_shared else payloads)[piece.number] = whole
        assert gathering.held == 0
        for number, task, each in zip(numbers, tasks, received, strict=True):
            assert (each.number, each.task_id, payloads[number]) == (number, task.task_id, task.payload)
            kind = each.kind
            assert (kind.task_type, kind.needs, kind.max_cost) == (task.task_type, task.needs, task.max_cost)
            assert kind.at_most_once is not task.idempotent
            assert (kind.priority, kind.stream_output) == (task.priority, task.stream_output)
            assert (shared[each.shared] if each.shared else None) == (task.shared.data if task.shared else None)


outcomes = st.builds(
    Outcome,
    usage=st.builds(Usage, st.floats(0, 100, width=32), st.floats(0, 100, width=32), st.integers(0, 1 << 40)),
    payload=st.binary(max_size=50),
    error_code=st.sampled_from(["", "task_failed"]),
    output=st.sampled_from(["", "printed"]),
)


@given(st.lists(st.builds(Ended, st.integers(1, 1 << 40), outcomes, st.integers(0, 1000)), max_size=10))
def test_results_arrive_as_they_were_sent(ended):
    message = FromWorker()
    payload = memoryview(b"".join(add_results(message, ended)))
    rows = list(read_results(message.results, payload, PEER))
    assert [(row.number, row.cost, row.usage) for row in rows] == [
        (each.number, each.cost, each.outcome.usage) for each in ended
    ]
    for row, each in zip(rows, ended, strict=True):
        assert row.payload == each.outcome.payload
        told = (row.report.error_code, row.report.output) if row.report is not None else ("", "")
        assert told == (each.outcome.error_code, each.outcome.output)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.binary(max_size=50))
def test_garbage_is_refused(header, payload):
    for kind, read in ((Submit, lambda m: SubmitReader(PEER).read(m, memoryview(payload))), (Results, _read_all)):
        try:
            message = kind.FromString(header)
        except DecodeError:
            continue
        try:
            read(message)
        except ProtocolError:
            continue


def _read_all(message):
    return list(read_results(message, memoryview(b""), PEER))


def test_pieces_are_bounded():
    gathering = Gathering(PEER, 100)
    gathering.expect(1, False, 1000)
    gathering.add(1, False, memoryview(bytes(60)))
    with pytest.raises(ProtocolError, match="more than 100 bytes"):
        gathering.add(1, False, memoryview(bytes(60)))
    gathering.forget(1, False)
    assert gathering.held == 0
    assert gathering.add(1, False, memoryview(b"late")) is None
    gathering.expect(2, True, 3)
    with pytest.raises(ProtocolError, match="too long"):
        gathering.add(2, True, memoryview(b"four"))
