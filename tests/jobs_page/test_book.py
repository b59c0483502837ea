"""What the page is told of jobs."""

import pytest

from hivemind_p2p.errors import TaskFailedError
from hivemind_p2p.job import Job
from hivemind_p2p.jobs_page import book as module
from hivemind_p2p.jobs_page.book import Details, JobsBook
from hivemind_p2p.types import Credits, PeerId

ALICE = PeerId("alice")


@pytest.fixture
def book():
    return JobsBook()


def started(book, name="work"):
    job = Job(f"id-{name}", name)
    job.moved("QUEUED", None)
    book.add(job)
    return job


def states(book):
    return {row["name"]: row["state"] for row in book.look()["jobs"]}


def test_a_job_is_seen_from_its_beginning_to_its_end(book):
    job = started(book)
    assert states(book) == {"work": "QUEUED"}
    job.moved("RUNNING", ALICE)
    job.printed(b"so far\n")
    assert book.details("id-work").as_json()["output"] == "so far\n"
    job.moved("COMPLETED", None)
    job.complete([1] * 5, peer=ALICE, cost=Credits(1_500_000))
    seen = book.details("id-work").as_json()
    assert (seen["state"], seen["peer"], seen["cost"], seen["error"]) == ("COMPLETED", "alice", "1.500000", "")
    assert [change["state"] for change in seen["history"]] == ["QUEUED", "RUNNING", "COMPLETED"]
    assert seen["seconds"] == seen["history"][-1]["time"] - seen["began"]
    assert book.look()["counts"] == {"COMPLETED": 1}


def test_an_ended_job_is_kept_without_its_result(book):
    job = started(book)
    job.complete(object(), peer=ALICE, cost=Credits(0))
    assert isinstance(book._jobs["id-work"], Details)


def test_errors_and_cancelled_jobs_keep_what_was_printed(book):
    failed, cancelled = started(book, "failed"), started(book, "cancelled")
    for job in (failed, cancelled):
        job.printed(b"so far")
    failed.moved("FAILED", None)
    failed.fail(TaskFailedError("it did not work"))
    cancelled.cancel()
    assert states(book) == {"failed": "FAILED", "cancelled": "CANCELLED"}
    assert "it did not work" in book.details("id-failed").row.error
    assert [change.state for change in book.details("id-cancelled").history] == ["QUEUED", "CANCELLED"]
    assert book.details("id-failed").output == book.details("id-cancelled").output == "so far"


def test_the_newest_come_first_and_the_oldest_are_only_counted(book, monkeypatch):
    monkeypatch.setattr(module, "MOST_JOBS", 2)
    first = started(book, "first")
    first.moved("COMPLETED", None)
    first.complete(1, peer=ALICE, cost=Credits(0))
    for name in ("second", "third"):
        started(book, name)
    seen = book.look()
    assert [row["name"] for row in seen["jobs"]] == ["third", "second"]
    assert seen["counts"] == {"COMPLETED": 1, "QUEUED": 2}
    assert book.details("id-first") is None


def test_a_job_that_has_ended_already_is_shown_too(book):
    job = Job("id-old", "old")
    job.moved("COMPLETED", None)
    job.complete(1, peer=ALICE, cost=Credits(0))
    book.add(job)
    assert states(book) == {"old": "COMPLETED"}


def test_of_much_output_the_end_is_told(book, monkeypatch):
    monkeypatch.setattr(module, "MOST_OUTPUT", 4)
    job = started(book)
    job.printed(b"0123456789")
    assert book.details("id-work").output == "6789"
