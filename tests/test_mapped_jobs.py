"""Maps over very many items: in chunks, with a job for each that asks for one; errors stay with their item."""

import asyncio
import concurrent.futures
from collections import deque

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import ProtocolError, TaskCrashedError, TaskFailedError, UnsafeValueError
from hivemind_p2p.mapped_jobs import MOST_SINGLE, MappedJobs
from hivemind_p2p.task_methods import TaskMethods
from hivemind_p2p.tasks import reading, values
from hivemind_p2p.tasks.library import mapping
from hivemind_p2p.types import Credits, PeerId

ADA = PeerId("12D3KooWAda")
DEADLINE = 10.0
MANY = 20_000


class Hive(TaskMethods):
    """Runs chunks when it is told to, in this process, as the only peer there is."""

    def __init__(self, seconds=1e-6):
        self.seconds, self.chunks, self.waiting, self.crashes = seconds, [], deque(), set()
        self._task = mapping.MapTask()

    def launch(self, job, spec, options):
        self.waiting.append((job, spec))

    def run_one(self):
        job, spec = self.waiting.popleft()
        if job.done():
            return
        shared = spec.shared.data if spec.shared is not None else None
        result = self._task.run(spec.payload) if shared is None else self._task.run_shared(shared, spec.payload)
        value = reading.decode(values.encode(result))
        count = len(reading.decode(value[0]))
        self.chunks.append(count)
        if self.crashes & set(reading.decode(value[0])):
            job.fail(TaskCrashedError("it died"))
            return
        job.complete(value, peer=ADA, cost=Credits(1), wall_seconds=self.seconds * count)

    def run_all(self):
        while self.waiting:
            self.run_one()


def twice(number):
    return 2 * number


def inverse(number):
    return 1 / number


def thing(number):
    return object() if number == 3 else number


def test_many_items_go_in_few_chunks_and_come_back_in_order():
    hive = Hive()
    jobs = hive.map(twice, range(MANY))
    hive.run_all()
    assert jobs.results(DEADLINE) == [2 * number for number in range(MANY)]
    assert len(hive.chunks) < MANY / 20
    assert max(hive.chunks) > 100
    assert sum(hive.chunks) == MANY


def test_items_that_take_long_go_one_by_one():
    hive = Hive(seconds=1.0)
    jobs = hive.map(twice, range(600))
    hive.run_all()
    assert set(hive.chunks) == {1}
    assert jobs.results(DEADLINE)[-1] == 2 * 599


def test_few_items_are_jobs_of_their_own():
    assert not isinstance(Hive().map(twice, range(MOST_SINGLE)), MappedJobs)
    assert not isinstance(Hive().with_options(idempotent=False).map(twice, range(MANY)), MappedJobs)


def test_functions_that_travel_with_each_chunk():
    hive, factors = Hive(), [3]
    jobs = hive.map(lambda number: factors[0] * number, range(300))
    hive.run_all()
    assert jobs.results(DEADLINE)[100] == 300


def test_a_job_for_an_item_that_is_there_and_for_one_to_come():
    hive = Hive()
    jobs = hive.map(twice, range(MANY))
    later, last = jobs[5000], jobs[-1]
    assert (later.done(), jobs[5000] is later, len(jobs)) == (False, True, MANY)
    hive.run_all()
    assert (later.result(DEADLINE), last.result(DEADLINE), jobs[7].result(DEADLINE)) == (10_000, 2 * MANY - 2, 14)
    assert [job.result() for job in jobs[10:13]] == [20, 22, 24]
    assert jobs[5000].peer == ADA
    with pytest.raises(IndexError):
        jobs[MANY]
    assert next(iter(jobs)).result() == 0


def test_one_item_that_raises_leaves_the_others():
    hive = Hive()
    jobs = hive.map(inverse, range(-500, 500))
    hive.run_all()
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        jobs.results(DEADLINE)
    assert isinstance(caught.value, TaskFailedError)
    assert "in inverse" in str(caught.value)
    assert "mapping.py" not in str(caught.value)
    assert (jobs[499].result(), jobs[501].result()) == (-1.0, 1.0)
    assert isinstance(jobs[500].exception(), ZeroDivisionError)
    assert repr(jobs) == "<JobList of 1000: 999 completed, 1 failed>"


def test_one_item_whose_value_cannot_travel_leaves_the_others():
    hive = Hive()
    jobs = hive.map(thing, range(1000))
    hive.run_all()
    assert isinstance(jobs[3].exception(DEADLINE), UnsafeValueError)
    assert jobs[4].result(DEADLINE) == 4


def test_a_chunk_that_crashes_is_tried_again_item_by_item():
    hive = Hive()
    hive.crashes = {2 * 700}
    jobs = hive.map(twice, range(1000))
    views = [jobs[699], jobs[700], jobs[701]]
    hive.run_all()
    assert isinstance(views[1].exception(DEADLINE), TaskCrashedError)
    assert (views[0].result(DEADLINE), views[2].result(DEADLINE)) == (1398, 1402)


def test_cancelling_ends_chunks_and_starts_no_more():
    hive = Hive()
    jobs = hive.map(twice, range(MANY))
    view = jobs[MANY - 1]
    hive.run_one()
    assert jobs.cancel() == MANY - 1
    assert view.cancelled()
    hive.run_all()
    assert len(hive.chunks) == 1
    with pytest.raises(concurrent.futures.CancelledError):
        jobs.results(DEADLINE)
    assert jobs[0].result() == 0
    assert jobs[1].cancelled()


def test_results_that_are_not_there_in_time():
    jobs = Hive().map(twice, range(MANY))
    with pytest.raises(TimeoutError, match=f"{MANY} of {MANY} jobs"):
        jobs.results(timeout=0.01)


def test_ctrl_c_cancels(monkeypatch):
    hive = Hive()
    jobs = hive.map(twice, range(MANY))

    def interrupted(self, timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(concurrent.futures.Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jobs.results()
    assert all(job.cancelled() for job, _ in hive.waiting)


def test_awaiting_in_asyncio_and_in_trio():
    async def wait(jobs):
        return await jobs

    for run in (asyncio.run, lambda waiting: trio.run(lambda: waiting)):
        hive = Hive()
        jobs = hive.map(twice, range(1000))
        hive.run_all()
        assert run(wait(jobs))[-1] == 1998


@pytest.mark.parametrize(
    "lie",
    [
        None,
        [],
        [b"", []],
        [values.encode([1, 2]), []],
        [values.encode("abc"), []],
        [values.encode([1, 2, 3]), [[3, "m", "ValueError", ""]]],
        [values.encode([1, 2, 3]), [[-1, "m", "ValueError", ""]]],
        [values.encode([1, 2, 3]), [[0, "m", "ValueError"]]],
        [values.encode([1, 2, 3]), [[True, "m", "ValueError", ""]]],
        [values.encode([1, 2, 3]), "m"],
        [values.encode([1, 2, 3]), [], 1],
    ],
)
def test_peers_that_answer_nonsense(lie):
    with pytest.raises(ProtocolError):
        mapping.read(lie, 3)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@given(ANYTHING, st.integers(0, 5))
def test_whatever_a_peer_answers(answer, count):
    try:
        found, raised = mapping.read(answer, count)
    except ProtocolError:
        return
    assert len(found) == count
    assert all(0 <= each.place < count for each in raised)


def test_a_lie_fails_the_items_that_it_is_about():
    hive = Hive(seconds=1.0)
    jobs = hive.map(twice, range(300))
    job, _ = hive.waiting.popleft()
    job.complete("nonsense", peer=ADA, cost=Credits(0))
    with pytest.raises(ProtocolError):
        jobs.results(DEADLINE)
