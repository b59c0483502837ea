"""Jobs: waited for from scripts, asyncio and trio; cancelled at any moment; never in two states at once."""

import asyncio
import concurrent.futures
import threading
from decimal import Decimal

import pytest
import trio
import trio.lowlevel
import trio.testing
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hivemind_p2p.errors import TaskFailedError, TaskTimeoutError
from hivemind_p2p.job import Job, JobList
from hivemind_p2p.types import Credits, PeerId

ADA = PeerId("12D3KooWAda")
DEADLINE = 10.0


@pytest.fixture
def job():
    return Job("id-of-the-job", "square")


def later(function, *args):
    """Calls a function in a thread of its own, as the trio thread does to jobs."""
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


def test_from_pending_to_completed(job):
    assert (job.state, job.peer, job.cost, job.running()) == ("PENDING", None, 0, False)
    job.moved("ASSIGNED", ADA)
    job.moved("RUNNING", None)
    assert (job.state, job.peer, job.running()) == ("RUNNING", ADA, True)
    job.complete(49, peer=ADA, cost=Credits(1_234))
    assert (job.state, job.result(), job.cost, job.running()) == ("COMPLETED", 49, Decimal("0.001234"), False)


@pytest.mark.parametrize(
    ("error", "state"), [(TaskFailedError("it raised"), "FAILED"), (TaskTimeoutError("too long"), "TIMED_OUT")]
)
def test_failing(job, error, state):
    job.fail(error)
    assert job.state == state
    assert job.exception() is error
    with pytest.raises(type(error)):
        job.result()


def test_a_result_that_is_not_there_in_time(job):
    with pytest.raises(TimeoutError):
        job.result(timeout=0.01)
    job.complete(1, peer=ADA, cost=Credits(0))
    assert job.result(timeout=0) == 1


def test_cancel_before_it_began(job):
    ended = []
    assert job.cancel()
    job.when_cancelled(lambda: ended.append(True))
    assert ended == [True]
    assert (job.state, job.cancelled(), job.done()) == ("CANCELLED", True, True)
    with pytest.raises(concurrent.futures.CancelledError):
        job.result()


def test_cancel_while_it_runs(job):
    ended = []
    job.when_cancelled(lambda: ended.append(True))
    job.moved("RUNNING", ADA)
    assert ended == []
    assert job.cancel()
    assert ended == [True]


def test_cancelling_twice_is_cancelling_once(job):
    ended = []
    job.when_cancelled(lambda: ended.append(True))
    assert job.cancel()
    assert job.cancel()
    assert ended == [True]


def test_a_callback_may_cancel_again(job):
    told = []
    job.add_done_callback(lambda done: told.append(done.cancel()))
    thread = threading.Thread(target=job.cancel, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert told == [True]


def test_cancel_after_the_result(job):
    job.complete(1, peer=ADA, cost=Credits(5))
    assert not job.cancel()
    assert job.result() == 1


def test_a_result_that_comes_after_cancel_is_dropped(job):
    job.cancel()
    job.complete(1, peer=ADA, cost=Credits(5))
    job.fail(TaskFailedError("it raised"))
    assert job.state == "CANCELLED"


def test_wait_and_as_completed_of_the_standard_library():
    jobs = [Job(str(number)) for number in range(4)]
    threads = [
        later(lambda: jobs[0].complete("a", peer=ADA, cost=Credits(0))),
        later(lambda: jobs[1].fail(TaskFailedError("it raised"))),
        later(jobs[2].cancel),
    ]
    assert set(concurrent.futures.as_completed(jobs[:3], timeout=DEADLINE)) == set(jobs[:3])
    done, waiting = concurrent.futures.wait(jobs, timeout=0.01)
    assert (done, waiting) == (set(jobs[:3]), {jobs[3]})
    jobs[3].cancel()
    assert concurrent.futures.wait(jobs, timeout=DEADLINE).not_done == set()
    for thread in threads:
        thread.join()


def test_ctrl_c_inside_result_cancels(job, monkeypatch):
    def interrupted(self, timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(concurrent.futures.Future, "result", interrupted)
    ended = []
    job.when_cancelled(lambda: ended.append(True))
    with pytest.raises(KeyboardInterrupt):
        job.result()
    assert ended == [True]


def test_awaiting_in_asyncio(job):
    async def main():
        later(lambda: job.complete(49, peer=ADA, cost=Credits(0))).join()
        return await job

    assert asyncio.run(main()) == 49


def test_a_failure_in_asyncio(job):
    async def main():
        thread = later(lambda: job.fail(TaskFailedError("it raised")))
        try:
            await job
        finally:
            thread.join()

    with pytest.raises(TaskFailedError):
        asyncio.run(main())


def test_cancelling_the_asyncio_task_cancels_the_job(job):
    async def main():
        waiter = asyncio.ensure_future(job)
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(main())
    assert job.state == "CANCELLED"


async def test_awaiting_in_trio(job):
    async with trio.open_nursery() as nursery:
        results = []

        async def wait():
            results.append(await job)

        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await trio.to_thread.run_sync(lambda: job.complete(49, peer=ADA, cost=Credits(0)))
    assert results == [49, 49]
    assert await job == 49


async def test_a_failure_in_trio(job):
    job.fail(TaskFailedError("it raised"))
    with pytest.raises(TaskFailedError):
        await job


async def test_a_cancelled_job_in_trio(job):
    job.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        await job


async def test_cancelling_the_trio_task_cancels_the_job(job):
    with trio.move_on_after(0):
        await job
    assert job.state == "CANCELLED"


def test_a_job_that_ends_after_its_loop_ended(job):
    # The waiter is gone and so is its loop; the job's end must not trip over that.
    async def main():
        with trio.CancelScope() as scope:
            scope.cancel()
            await job

    trio.run(main)
    assert job.done()


def jobs_of(count):
    return JobList(Job(str(number), "square") for number in range(count))


def test_results_are_in_order():
    jobs = jobs_of(3)
    for number in (2, 0, 1):
        jobs[number].complete(number * number, peer=ADA, cost=Credits(0))
    assert jobs.results() == [0, 1, 4]
    assert jobs_of(0).results() == []


def test_the_first_failure_cancels_the_rest():
    jobs = jobs_of(3)
    jobs[1].fail(TaskFailedError("it raised"))
    with pytest.raises(TaskFailedError):
        jobs.results(timeout=DEADLINE)
    assert [job.state for job in jobs] == ["CANCELLED", "FAILED", "CANCELLED"]


def test_a_cancelled_one_cancels_the_rest():
    jobs = jobs_of(2)
    jobs[0].complete(1, peer=ADA, cost=Credits(0))
    jobs[1].cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        jobs.results(timeout=DEADLINE)


def test_results_that_are_not_there_in_time():
    jobs = jobs_of(3)
    jobs[0].complete(0, peer=ADA, cost=Credits(0))
    with pytest.raises(TimeoutError, match="2 of 3 jobs"):
        jobs.results(timeout=0.01)
    assert [job.state for job in jobs] == ["COMPLETED", "PENDING", "PENDING"]


def test_cancelling_all_counts_what_was_not_done():
    jobs = jobs_of(3)
    jobs[0].complete(0, peer=ADA, cost=Credits(0))
    assert jobs.cancel() == 2


async def test_awaiting_all_in_trio():
    jobs = jobs_of(3)
    for job in jobs:
        job.complete(int(job.id), peer=ADA, cost=Credits(0))
    assert await jobs == [0, 1, 2]


async def test_a_failure_among_all_cancels_the_rest():
    jobs = jobs_of(3)
    jobs[0].fail(TaskFailedError("it raised"))
    with pytest.raises(TaskFailedError):
        await jobs
    assert [job.state for job in jobs] == ["FAILED", "CANCELLED", "CANCELLED"]


def test_awaiting_all_in_asyncio():
    jobs = jobs_of(2)
    for job in jobs:
        job.complete(int(job.id), peer=ADA, cost=Credits(0))

    async def main():
        return await jobs

    assert asyncio.run(main()) == [0, 1]


def test_how_jobs_look():
    jobs = jobs_of(3)
    jobs[0].complete(0, peer=ADA, cost=Credits(0))
    jobs[1].moved("RUNNING", ADA)
    assert repr(jobs[0]) == "<Job square: COMPLETED on ooWAda>"
    assert repr(jobs[2]) == "<Job square: PENDING>"
    assert repr(jobs) == "<JobList of 3: 1 completed, 1 running, 1 pending>"
    assert repr(JobList()) == "<JobList of 0: empty>"


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes in whatever order, a job that is done stays as it is, and is cancelled at most once."""

    def __init__(self):
        super().__init__()
        self.job = Job("x", "f")
        self.ends = 0
        self.final = None
        self.attached = False

    def _ended(self):
        self.ends += 1

    @precondition(lambda self: not self.attached)
    @rule()
    def attach(self):
        self.attached = True
        self.job.when_cancelled(self._ended)

    @rule(stage=st.sampled_from(["QUEUED", "ASSIGNED", "RUNNING"]), peer=st.sampled_from([None, ADA]))
    def move(self, stage, peer):
        self.job.moved(stage, peer)

    @rule()
    def complete(self):
        self.job.complete(1, peer=ADA, cost=Credits(1))
        self.final = self.final or "COMPLETED"

    @rule(error=st.sampled_from([TaskFailedError("it raised"), TaskTimeoutError("too long")]))
    def fail(self, error):
        self.job.fail(error)
        self.final = self.final or ("TIMED_OUT" if isinstance(error, TaskTimeoutError) else "FAILED")

    @rule()
    def cancel(self):
        assert self.job.cancel() == (self.final in {None, "CANCELLED"})
        self.final = self.final or "CANCELLED"

    @invariant()
    def one_end(self):
        assert self.job.done() == (self.final is not None)
        if self.final is not None:
            assert self.job.state == self.final
        assert self.ends == int(self.final == "CANCELLED" and self.attached)
        assert self.final != "COMPLETED" or self.job.cost == Decimal("0.000001")


TestAnyOrder = AnyOrder.TestCase
