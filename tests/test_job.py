"""A job's promises that need no hive."""

import threading

import pytest

from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.job import Job, JobList


def test_cancelling_twice_ends_the_remote_work_once():
    job, ended = Job("1"), []
    job.when_cancelled(lambda: ended.append(1))
    assert job.cancel()
    assert job.cancel()
    assert ended == [1]


def test_many_threads_may_cancel_at_once():
    job, ended, problems = Job("1"), [], []
    job.when_cancelled(lambda: ended.append(1))
    gate = threading.Barrier(8)

    def cancel():
        gate.wait()
        try:
            job.cancel()
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=cancel) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert ended == [1]


def test_work_that_starts_after_cancelling_ends_at_once():
    job, ended = Job("1"), []
    job.cancel()
    job.when_cancelled(lambda: ended.append(1))
    assert ended == [1]


def test_a_late_result_of_a_cancelled_job_is_dropped():
    job = Job("1")
    job.cancel()
    job.complete(3, peer="p", cost=0)
    job.fail(ConfigurationError("late"))
    assert job.cancelled()


def test_a_finished_job_is_not_cancelled():
    job = Job("1")
    job.complete(3, peer="p", cost=0)
    assert not job.cancel()
    assert job.result() == 3


def test_a_list_counts_what_it_cancelled():
    jobs = JobList([Job("1"), Job("2"), Job("3")])
    jobs[0].cancel()
    jobs[1].complete(3, peer="p", cost=0)
    assert jobs.cancel() == 1


def test_the_first_error_of_a_list_cancels_the_rest():
    jobs = JobList([Job("1"), Job("2")])
    jobs[1].fail(ConfigurationError("no"))
    with pytest.raises(ConfigurationError):
        jobs.results()
    assert jobs[0].cancelled()
