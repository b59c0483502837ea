"""Idle workers help busy ones: over the memory network, with the client's and the worker's real services."""

from pathlib import Path

import pytest
import trio

from hivemind_p2p.errors import NoPeerError
from hivemind_p2p.tasks.dispatch import PATIENCE
from hivemind_p2p.types import Input, Link


class Listener:
    def __init__(self):
        self.results, self.errors, self.states = [], [], []

    def moved(self, state, peer):
        self.states.append(state.value)

    def printed(self, data):
        pass

    def ended(self, result):
        self.results.append(result)

    def failed(self, error):
        self.errors.append(error)


class Fetched:
    """Inputs that are there as soon as they are asked for."""

    async def get(self, wanted):
        return Path("/nowhere")


async def practise(hive, count=8):
    """Some tasks by which the caller learns who is slow."""
    listeners = [Listener() for _ in range(count)]
    for number, listener in enumerate(listeners):
        hive.start("sleep 1", listener, task_id=f"p{number}")
    await trio.sleep(3 * count)
    assert all(listener.results for listener in listeners)


@pytest.mark.parametrize("stream_output", [False, True])
async def test_a_late_task_gets_a_copy_and_the_first_result_counts(nursery, make_hive, autojump_clock, stream_output):
    hive = make_hive(nursery, 2, paid=True)
    await practise(hive)
    for worker in hive.workers:
        worker.executor.slowness = 1.0
    stuck = hive.workers[0].executor
    other = hive.workers[1].executor
    stuck.slowness = other.slowness = 50.0
    listener = Listener()
    hive.start("sleep 1", listener, task_id="late", stream_output=stream_output)
    await trio.sleep(0.5)
    holder, helper = (stuck, other) if stuck.tasks[-1].task_id == "late" else (other, stuck)
    helper.slowness = 1.0
    await trio.sleep(10)
    assert [result.value for result in listener.results] == ["1"]
    assert listener.errors == []
    assert listener.states[-1] == "completed"
    assert helper.ran[-1] == "late"
    assert "late" in holder.killed, "the slower one was stopped"
    counts = hive.client.statistics()
    assert (counts["copies"], counts["copies_first"]) == (1, 1)
    assert counts["completed"] == 9
    await trio.sleep(30)
    hive.assert_nothing_is_set_aside()
    assert sum(name == "late" for worker in hive.workers for name in worker.executor.ran) == 1


async def test_one_that_must_not_run_twice_is_waited_for(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    await practise(hive)
    for worker in hive.workers:
        worker.executor.slowness = 20.0
    listener = Listener()
    hive.start("sleep 1", listener, task_id="once", idempotent=False)
    await trio.sleep(40)
    assert len(listener.results) == 1
    assert sum(work.task_id == "once" for worker in hive.workers for work in worker.executor.tasks) == 1


async def test_a_lost_original_goes_on_as_its_copy(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    await practise(hive)
    for worker in hive.workers:
        worker.executor.slowness = 20.0
    listener = Listener()
    hive.start("sleep 1", listener, task_id="late")
    await trio.sleep(4)
    first = next(worker for worker in hive.workers if [w.task_id for w in worker.executor.tasks][-1:] == ["late"])
    both = [worker for worker in hive.workers if any(work.task_id == "late" for work in worker.executor.tasks)]
    assert len(both) == 2, "the copy is under way"
    hive.network.kill(first.peer_id)
    await trio.sleep(60)
    assert [result.value for result in listener.results] == ["1"]
    (survivor,) = [worker for worker in hive.workers if worker is not first]
    assert survivor.executor.ran.count("late") == 1, "it was not begun a third time"


async def test_cancelling_stops_the_copy_as_well(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    await practise(hive)
    for worker in hive.workers:
        worker.executor.slowness = 100.0
    listener = Listener()
    course = hive.start("sleep 1", listener, task_id="late")
    await trio.sleep(5)
    hive.client.cancel(course)
    await trio.sleep(1)
    assert [worker.executor.killed for worker in hive.workers] == [["late"], ["late"]]
    assert (listener.results, listener.errors) == ([], [])
    assert listener.states[-1] == "cancelled"


async def test_what_has_not_begun_at_a_slow_worker_is_asked_back(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    await practise(hive)
    slow, fast = hive.workers
    slow.executor.slowness = 30.0
    hive.client._dispatcher.leave_alone(fast.peer_id, 5.0)
    listeners = [Listener() for _ in range(2)]
    for number, listener in enumerate(listeners):
        hive.start("sleep 1", listener, task_id=f"t{number}", idempotent=False)
    await trio.sleep(3)
    assert [work.task_id for work in slow.executor.tasks][-1] == "t0"
    await trio.sleep(10)
    assert listeners[1].results[0].peer == fast.peer_id
    assert listeners[1].errors == listeners[0].results == []
    assert hive.client.statistics()["returned"] == 1
    await trio.sleep(30)
    assert listeners[0].results[0].peer == slow.peer_id
    assert "t1" not in [work.task_id for work in slow.executor.tasks]


@pytest.mark.parametrize("back_after", [PATIENCE / 2, PATIENCE * 3])
async def test_the_only_worker_is_waited_for_a_while(nursery, make_hive, autojump_clock, back_after):
    hive = make_hive(nursery, 1)
    (worker,) = hive.workers
    worker.service.closed = "it rests"
    listener = Listener()
    hive.start("sleep 1", listener)
    await trio.sleep(1)
    hive.book.all = []
    await trio.sleep(back_after)
    worker.service.closed = ""
    hive.book.all = [worker.offer]
    await trio.sleep(20)
    if back_after < PATIENCE:
        assert len(listener.results) == 1
    else:
        (error,) = listener.errors
        assert "it rests" in error.message, "the reason is kept"


async def test_without_any_worker_nobody_is_waited_for(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 0)
    start = trio.current_time()
    with pytest.raises(NoPeerError):
        await hive.run("hello")
    assert trio.current_time() - start < 1


async def test_one_that_comes_when_the_last_worker_has_just_gone_waits_for_the_next(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 1)
    assert (await hive.run("hello")).value == "hello"
    (worker,) = hive.workers
    hive.book.all = []
    hive.client._dispatcher._matching.offers_changed([])
    listener = Listener()
    hive.start("sleep 1", listener)
    await trio.sleep(PATIENCE / 2)
    assert (listener.results, listener.errors) == ([], [])
    hive.book.all = [worker.offer]
    await trio.sleep(10)
    assert len(listener.results) == 1


async def test_tasks_that_read_the_same_file_go_to_where_it_was_fetched(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 3)
    await practise(hive, 12)
    for worker in hive.workers:
        worker.service.inputs = Fetched()
    file = (Input(Link("magnet:?xt=urn:btmh:1220" + "ab" * 32), 1 << 30),)
    peers = []
    for number in range(6):
        listener = Listener()
        hive.start("sleep 1", listener, task_id=f"f{number}", inputs=file)
        await trio.sleep(30)
        peers += [result.peer for result in listener.results]
    assert len(peers) == 6
    assert len(set(peers)) == 1
