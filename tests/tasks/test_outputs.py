"""Results that travel through the swarm: fetched, checked, paid once they are here, and let go of."""

import pytest
import trio

from hivemind_p2p.errors import NoSourceError, ProtocolError, TaskCrashedError, TaskLostError, UnsafeValueError
from hivemind_p2p.proto.task_channel_pb2 import FromCaller, FromWorker
from hivemind_p2p.tasks import outputs, wire
from hivemind_p2p.tasks.columns import INLINE_BYTES, SubmitReader, SubmitWriter, read_results
from hivemind_p2p.tasks.linked_values import LinkedValues
from hivemind_p2p.tasks.outputs import CallersOutputs, Outputs
from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES, TaskSpec, most_result_bytes
from hivemind_p2p.tasks.values import encode
from hivemind_p2p.types import Credits, Input, Link, Needs, Outcome, PeerId, Usage
from tests.tasks.test_service_client import Listener


def files(swarm):
    return sorted(path.name for path in swarm.folder.iterdir())


async def test_a_large_result_comes_by_link_is_paid_and_goes(nursery, make_hive, swarm, autojump_clock):
    hive = make_hive(nursery, paid=True, swarm=swarm)
    result = await hive.run("file 1000000")
    assert (result.value, result.cost) == (b"x" * 1_000_000, 2100)
    await trio.sleep(10)
    assert hive.purse.paid == {"t+1": 2100}
    assert (files(swarm), swarm.shared) == ([], {})
    assert swarm.removed == [("caller", "magnet:result-t"), ("worker", "magnet:result-t")]
    hive.assert_nothing_is_set_aside()


async def test_other_tasks_go_on_while_it_is_fetched_and_the_worker_stays_alive(
    nursery, make_hive, swarm, autojump_clock
):
    hive = make_hive(nursery, swarm=swarm)
    swarm.seconds = 4 * wire.SILENCE_DEADLINE
    listener = Listener()
    hive.start("file 1000", listener, task_id="large")
    await trio.sleep(1)
    assert (await hive.run("small", "small")).value == "small"
    assert listener.told == []
    await trio.sleep(5 * wire.SILENCE_DEADLINE)
    assert listener.told[0].value == b"x" * 1000
    assert hive.client.statistics() == {"completed": 2}


async def test_cancelling_while_it_is_fetched_lets_go_of_it_unpaid(nursery, make_hive, swarm, autojump_clock):
    hive = make_hive(nursery, paid=True, swarm=swarm)
    swarm.seconds = 50.0
    course = hive.start("file 1000", Listener())
    await trio.sleep(5)
    assert files(swarm) == ["result-t"]
    hive.client.cancel(course)
    await trio.sleep(5)
    assert (files(swarm), swarm.fetched, hive.purse.paid) == ([], set(), {})
    await trio.sleep(30)
    hive.assert_nothing_is_set_aside()


async def test_a_caller_that_vanishes_leaves_nothing_behind(nursery, make_hive, swarm, autojump_clock):
    hive = make_hive(nursery, swarm=swarm)
    swarm.seconds = 500.0
    hive.start("file 1000", Listener())
    await trio.sleep(5)
    hive.network.kill(hive.router.peer_id)
    await trio.sleep(60)
    assert (files(swarm), swarm.shared) == ([], {})


async def test_one_that_never_fetches_is_not_waited_for_for_ever(nursery, make_hive, swarm, autojump_clock):
    hive = make_hive(nursery, swarm=swarm)
    channel = await hive.router.open(hive.workers[0].peer_id, wire.PROTOCOL)
    message = FromCaller()
    spec = TaskSpec("t", "function/1", b"file 1000", Needs(seconds=60), Credits(0))
    _, parts, _ = SubmitWriter(takes_links=True).add([spec], message)
    await channel.send(message, parts)

    async def stay_alive():
        while True:
            await channel.receive(FromWorker, max_payload=1000)

    nursery.start_soon(stay_alive)
    await trio.sleep(60)
    assert files(swarm) == ["result-t"]
    await trio.sleep(200)
    assert files(swarm) == []


async def test_a_result_that_cannot_be_fetched_is_made_elsewhere_unless_it_must_not(
    nursery, make_hive, swarm, autojump_clock
):
    hive = make_hive(nursery, 2, swarm=swarm)
    swarm.lies["length"] = 5
    with pytest.raises(ProtocolError, match="earlier attempts"):
        await hive.run("file 1000")
    assert sum(len(worker.executor.ran) for worker in hive.workers) == 2
    once = Listener()
    hive.start("file 1000", once, task_id="once", idempotent=False)
    await trio.sleep(700)
    assert isinstance(once.told[0], TaskLostError)
    await trio.sleep(10)
    assert files(swarm) == []


async def test_a_file_that_holds_no_safe_value_is_not_taken_nor_paid(nursery, make_hive, swarm, autojump_clock):
    hive = make_hive(nursery, paid=True, swarm=swarm)
    hive.workers[0].executor.encoded = b"\xff" * 5000
    with pytest.raises(ProtocolError, match="could not be read"):
        await hive.run("file 0")
    await trio.sleep(30)
    assert (hive.purse.paid, hive.workers[0].service.statistics().rejected) == ({}, 1)
    hive.assert_nothing_is_set_aside()


async def test_a_caller_without_a_swarm_is_told_why_it_gets_none(nursery, make_hive, swarm, autojump_clock):
    hive = make_hive(nursery, swarm=swarm)
    hive.client._linked = None
    with pytest.raises(UnsafeValueError, match="its caller fetches none"):
        await hive.run("file 1000")
    assert files(swarm) == []


async def test_a_result_that_cannot_be_shared_is_the_workers_fault(
    nursery, make_hive, swarm, autojump_clock, monkeypatch
):
    hive = make_hive(nursery, paid=True, swarm=swarm)

    async def share(path):
        raise NoSourceError("the disk is full")

    monkeypatch.setattr(hive.workers[0].service.outputs._content, "share", share, raising=False)
    with pytest.raises(TaskCrashedError, match="could not be shared"):
        await hive.run("file 1000")
    await trio.sleep(30)
    assert (files(swarm), hive.purse.paid) == ([], {})
    hive.assert_nothing_is_set_aside()


async def test_a_value_larger_than_its_task_could_hold_is_a_broken_rule(nursery, make_hive, swarm, autojump_clock):
    hive = make_hive(nursery, swarm=swarm)
    needs = Needs(memory=1 << 20, seconds=60)
    executor = hive.workers[0].executor
    original = executor._run

    async def claim(work):
        outcome = await original(work)
        return Outcome(outcome.usage, path=outcome.path, length=MAX_PAYLOAD_BYTES + 1)

    executor._run = claim
    with pytest.raises(ProtocolError, match=f"announced a value of {MAX_PAYLOAD_BYTES + 1:,} bytes"):
        await hive.run("file 1000", needs=needs)


async def test_a_content_of_ones_own_is_no_result_and_stays(nursery, make_hive, swarm, autojump_clock):
    hive = make_hive(nursery, swarm=swarm)
    swarm.own.add(Link("magnet:result-t"))
    with pytest.raises(ProtocolError, match="here before"):
        await hive.run("file 1000")
    await trio.sleep(10)
    assert swarm.removed == [("worker", "magnet:result-t")]


def test_what_a_result_may_have_follows_from_the_memory_of_its_task():
    assert most_result_bytes(1) == MAX_PAYLOAD_BYTES
    assert most_result_bytes(1 << 30) == 1 << 30
    assert most_result_bytes(1 << 50) == 16 << 30


@pytest.mark.parametrize(
    "change",
    [
        lambda output: setattr(output, "number", 9),
        lambda output: setattr(output, "link", ""),
        lambda output: setattr(output, "link", "x" * 3000),
        lambda output: setattr(output, "bytes", 0),
    ],
)
def test_outputs_of_no_result_are_refused(change):
    message = FromWorker()
    results = message.results
    results.numbers.append(1)
    for column in (results.sizes, results.wall_seconds, results.cpu_seconds, results.peak_memory_bytes):
        column.append(0)
    results.outputs.add(number=1, link="magnet:?", bytes=5)
    assert next(read_results(results, memoryview(b""), PeerId("w"))).output == Input(Link("magnet:?"), 5)
    change(results.outputs[0])
    with pytest.raises(ProtocolError):
        list(read_results(results, memoryview(b""), PeerId("w")))


def test_a_value_inline_and_by_link_is_refused():
    message = FromWorker()
    results = message.results
    results.numbers.append(1)
    results.sizes.append(5)
    for column in (results.wall_seconds, results.cpu_seconds, results.peak_memory_bytes):
        column.append(0)
    results.outputs.add(number=1, link="magnet:?", bytes=INLINE_BYTES)
    with pytest.raises(ProtocolError):
        list(read_results(results, memoryview(b"12345"), PeerId("w")))


def test_the_kind_says_whether_links_are_taken():
    for takes_links in (True, False):
        message = FromCaller()
        spec = TaskSpec("t", "function/1", b"x")
        _, parts, _ = SubmitWriter(takes_links=takes_links).add([spec], message)
        _, tasks = SubmitReader(PeerId("c")).read(message.submit, memoryview(b"".join(parts)))
        assert tasks[0].kind.takes_links is takes_links


async def test_of_very_many_the_oldest_makes_room(swarm, monkeypatch, autojump_clock):
    monkeypatch.setattr(outputs, "MOST_WAITING", 2)
    mine = CallersOutputs(Outputs(swarm.of("worker")))
    for number in range(3):
        path = swarm.folder / f"result-{number}"
        path.write_bytes(b"x")
        mine.add(number, Outcome(Usage(), path=str(path), length=1), 0.0, None)
    assert files(swarm) == ["result-1", "result-2"]
    assert (await mine.share(0) if 0 in mine else None) is None


async def test_values_are_read_from_where_they_lie_and_removed(swarm, autojump_clock):
    path = swarm.folder / "value"
    path.write_bytes(encode({"a": [1, 2.5, "x"]}))
    link = await swarm.of("worker").share(path)
    output = Input(link, path.stat().st_size)
    assert await LinkedValues(swarm.of("caller")).get(output) == {"a": [1, 2.5, "x"]}
    with pytest.raises(ProtocolError):
        await LinkedValues(swarm.of("caller")).get(Input(link, 5))
    assert swarm.removed == [("caller", "magnet:value")] * 2
