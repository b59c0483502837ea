"""What a task prints: line by line while it runs, bounded, and kept when it is cancelled."""

import io
import threading

import pytest

from hivemind_p2p import job_output
from hivemind_p2p.job import Job
from hivemind_p2p.job_output import JobOutput
from hivemind_p2p.types import Credits, PeerId

ADA = PeerId("12D3KooWAda")
DEADLINE = 10.0


def test_lines_come_while_it_runs():
    job, seen = Job("x", "f"), []
    two = threading.Event()

    def read():
        for line in job.stdout:
            seen.append(line)
            if len(seen) == 2:
                two.set()

    reader = threading.Thread(target=read)
    reader.start()
    job.printed(b"one\ntw")
    job.printed(b"o\nthr")
    assert two.wait(DEADLINE)
    assert seen == ["one\n", "two\n"]
    job.complete(1, peer=ADA, cost=Credits(0))
    reader.join(DEADLINE)
    assert seen == ["one\n", "two\n", "thr"]


def test_following_writes_it_and_gives_the_result():
    job, file = Job("x", "f"), io.StringIO()
    job.printed(b"hello\n")
    job.complete(7, peer=ADA, cost=Credits(0))
    assert job.follow(file) == 7
    assert file.getvalue() == "hello\n"


def test_output_that_came_with_the_result_only():
    job = Job("x", "f")
    job.complete(1, peer=ADA, cost=Credits(0), output="late\n")
    assert (job.output, list(job.stdout)) == ("late\n", ["late\n"])


def test_the_end_is_not_told_twice():
    job = Job("x", "f")
    job.printed(b"early\nlate\n")
    job.complete(1, peer=ADA, cost=Credits(0), output="late\n")
    assert job.output == "early\nlate\n"


def test_cancelling_keeps_what_was_printed():
    job = Job("x", "f")
    job.printed(b"half")
    job.cancel()
    job.printed(b" and more")
    assert (job.output, list(job.stdout)) == ("half", ["half"])


def test_a_job_that_prints_nothing():
    job = Job("x", "f")
    job.complete(1, peer=ADA, cost=Credits(0))
    assert (job.output, list(job.stdout)) == ("", [])


def test_very_much_output_takes_bounded_memory(monkeypatch):
    monkeypatch.setattr(job_output, "MOST_KEPT", 1000)
    output = JobOutput()
    for number in range(1000):
        output.add(f"line {number}\n".encode())
    output.close()
    lines = list(output.lines())
    assert lines[-1] == "line 999\n"
    assert 50 < len(lines) < 200


@pytest.mark.parametrize("cut", range(8))
def test_what_is_no_text_is_shown_as_such(cut):
    output = JobOutput()
    output.add("aé€😀"[:cut].encode() + b"\xff\n")
    output.close()
    assert next(output.lines()).endswith("\N{REPLACEMENT CHARACTER}\n")


def test_every_change_is_kept_and_told():
    job, told = Job("x", "f"), []
    job.on_change(lambda which, change: told.append((which.id, change.state, change.peer)))
    job.moved("QUEUED", None)
    job.moved("RUNNING", ADA)
    job.cancel()
    job.moved("CANCELLED", None)
    assert told == [("x", "QUEUED", None), ("x", "RUNNING", ADA), ("x", "CANCELLED", None)]
    assert [change.state for change in job.history] == ["QUEUED", "RUNNING", "CANCELLED"]
