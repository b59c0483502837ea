"""Whatever a worker sends back, its caller lives, takes bounded memory, and gets the result from another."""

import contextlib
import math
import tracemalloc

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.proto import tasks_pb2
from hivemind_p2p.proto.task_channel_pb2 import FromCaller, FromWorker
from hivemind_p2p.proto.tasks_pb2 import Structure
from hivemind_p2p.tasks import columns, values, wire
from hivemind_p2p.tasks.reading import decode
from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES
from hivemind_p2p.tasks.values import encode
from tests.tasks.test_verification import answers

MIB = 1 << 20
NONSENSE = {"wall_seconds": [math.nan], "cpu_seconds": [-1.0], "peak_memory_bytes": [1 << 63]}


def built(data=b"", **structure):
    """A value as nobody's encoder makes it."""
    packed = Structure(**structure).SerializeToString()
    start = values.data_offset(len(packed))
    head = len(packed).to_bytes(4, "big") + packed
    return head + bytes(start - len(head)) + data


def elements(shape, element=tasks_pb2.F64, kind=values.ARRAY):
    return built(kinds=bytes([kind]), sizes=[len(shape), *shape], element_types=[element])


MALICIOUS = {
    "nothing": b"",
    "a length beyond its end": b"\xff\xff\xff\xff" + bytes(100),
    "no structure": bytes(64),
    "a pickle that runs": b"cos\nsystem\n(S'true'\ntR.",
    "as deep as memory": built(kinds=bytes([values.LIST]) * 900_000 + b"N", sizes=[1] * 900_000),
    "a list of very many": built(kinds=bytes([values.LIST]), sizes=[1 << 60]),
    "a dict of very many": built(kinds=bytes([values.DICT]), sizes=[1 << 60]),
    "more parts than there may be": built(kinds=b"N" * (values.MAX_NODES + 1)),
    "a text of very many": built(kinds=bytes([values.TEXT]), sizes=[1 << 62]),
    "an integer of very many": built(kinds=bytes([values.LARGE]), sizes=[1 << 40]),
    "an array without its elements": elements([1 << 20, 1 << 20]),
    "an array whose size wraps around": elements([1 << 32, 1 << 32, 1 << 3]),
    "an array of no elements and a huge side": elements([0, 1 << 63]),
    "an array of very many sides": elements([1] * 100_000),
    "an array of no known kind": elements([1], element=99),
    "a tensor without its elements": elements([1 << 40], kind=values.TENSOR),
    "a list as a key": built(kinds=bytes([values.DICT, values.LIST, values.NONE]), sizes=[1, 0]),
    "a part of no known kind": built(kinds=b"!"),
    "no UTF-8": built(b"\xff\xff", kinds=bytes([values.TEXT]), sizes=[2]),
    "something left over": encode(1) + b"more",
    "keys that collide": built(
        kinds=bytes([values.SET]) + bytes([values.LARGE]) * 5_000,
        sizes=[5_000] + [20] * 5_000,
        data=b"".join((number * ((1 << 61) - 1)).to_bytes(20, "little", signed=True) for number in range(5_000)),
    ),
}


@pytest.mark.parametrize("what", MALICIOUS)
def test_it_is_refused_in_bounded_memory(what):
    data = MALICIOUS[what]
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB + 10 * len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("what", [name for name, data in MALICIOUS.items() if data])
async def test_the_caller_lives_and_another_peer_gives_the_result(nursery, make_hive, autojump_clock, what):
    hive = make_hive(nursery, 2, paid=True)
    bad, good = sorted(hive.workers, key=lambda worker: worker.peer_id)
    answers(bad, MALICIOUS[what])
    result = await hive.run("hello")
    assert (result.value, result.peer) == ("hello", good.peer_id)
    assert bad.till.collected == []
    assert (await hive.run("again", "t2")).value == "again"


@pytest.mark.parametrize(
    "change",
    [
        lambda results: results.sizes.append(1),
        lambda results: results.sizes.__setitem__(0, MAX_PAYLOAD_BYTES + 1),
        lambda results: results.sizes.__setitem__(0, columns.INLINE_BYTES + 1),
        lambda results: results.report_rows.append(5),
        lambda results: results.cpu_seconds.pop(),
        lambda results: results.numbers.extend(range(5_000)),
    ],
)
async def test_results_whose_columns_lie_end_the_channel_and_nothing_else(
    nursery, make_hive, autojump_clock, monkeypatch, change
):
    hive = make_hive(nursery, 2)
    good = max(hive.workers, key=lambda worker: worker.peer_id)
    honest = columns.add_results

    def add_results(message, ended):
        parts = honest(message, ended)
        if wrong:
            change(message.results)
        return parts

    wrong = [True]
    monkeypatch.setattr(columns, "add_results", add_results)
    good_reply = good.executor._run

    async def reply(work):
        wrong.clear()
        return await good_reply(work)

    good.executor._run = reply
    assert (await hive.run("hello")).peer == good.peer_id


@pytest.mark.parametrize(
    "message",
    [
        FromWorker(started=[1, 2, 999]),
        FromWorker(wanted_shared=[7]),
        FromWorker(bill={"bill": 1, "limit": 1 << 62, "receipt": b"forged"}),
        FromWorker(refused=[{"numbers": [1], "code": "x" * 10_000, "message": "\x1b[2J" * 5_000}]),
        FromWorker(refused=[{"numbers": [1] * 1_000, "code": "no_peer"}]),
        FromWorker(printed={"numbers": [1], "sizes": [1 << 60]}),
        FromWorker(piece={"number": 1}),
        FromWorker(results={"numbers": [9], "sizes": [0], "wall_seconds": [math.nan], "cpu_seconds": [-1.0]}),
        FromWorker(results={"numbers": [9], "sizes": [0], **NONSENSE}),
    ],
)
async def test_other_lies_on_the_channel(nursery, make_hive, autojump_clock, message):
    hive = make_hive(nursery, 2, paid=True)
    bad, good = sorted(hive.workers, key=lambda worker: worker.peer_id)

    async def lie(channel):
        await channel.receive(FromCaller, max_payload=columns.FRAME_BYTES)
        await channel.send(message)
        await trio.sleep(60)

    bad.router.serve(wire.PROTOCOL, lie)
    result = await hive.run("hello")
    assert (result.value, result.peer) == ("hello", good.peer_id)


@given(st.binary(max_size=200), st.lists(st.integers(0, 1 << 62), max_size=6), st.binary(max_size=20))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_structure_says(kinds, sizes, data):
    with contextlib.suppress(ProtocolError):
        decode(built(data, kinds=kinds, sizes=sizes, element_types=[tasks_pb2.U8, tasks_pb2.BOOL]))
