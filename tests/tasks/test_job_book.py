"""Jobs on the disk: found as they were written, and never a danger when they were not."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hivemind_p2p.errors import NoPeerError, TaskFailedError, UnknownJobError
from hivemind_p2p.tasks import job_book
from hivemind_p2p.tasks.job_book import JobBook
from hivemind_p2p.tasks.raised import failed
from hivemind_p2p.tasks.spec import TaskResult, TaskSpec
from hivemind_p2p.types import Credits, Input, Link, Needs, PeerId, SharedPart, Usage

ID = "0123456789abcdef"
ADA = PeerId("12D3KooWAda")
SPEC = TaskSpec(
    ID,
    "function/1",
    b"payload",
    Needs(cpus=2.0, memory="1GiB", seconds=7, software=("python3.11",)),
    Credits(17),
    SharedPart(b"function"),
    idempotent=False,
    priority=1,
    keep=True,
    max_retries=9,
    inputs=(Input(Link("magnet:?x"), 5),),
)


@pytest.fixture
def book(tmp_path):
    return JobBook(tmp_path / "jobs")


def test_a_job_from_its_beginning_to_its_end(book):
    book.begin(SPEC, "square")
    kept = book.read(ID)
    assert (kept.name, kept.state, kept.peer, kept.result) == ("square", "RUNNING", None, None)
    for name in TaskSpec.__slots__:
        if name != "shared":
            assert getattr(kept.spec, name) == getattr(SPEC, name), name
    assert kept.spec.shared.data == b"function"
    book.assigned(ID, ADA)
    assert book.read(ID).peer == ADA
    book.ended(ID, TaskResult({"a": (1, 2)}, Credits(5), ADA, Usage(1.0, 2.0), "printed"))
    kept = book.read(ID)
    assert (kept.state, kept.result.value, kept.result.cost) == ("COMPLETED", {"a": (1, 2)}, 5)
    assert book.ids() == [ID]
    book.forget(ID)
    assert book.ids() == []
    with pytest.raises(UnknownJobError):
        book.read(ID)


@pytest.mark.parametrize("error", [failed("it raised", "KeyError", "Traceback"), NoPeerError("nobody", hint="Wait.")])
def test_an_error_is_what_it_was(book, error):
    book.begin(SPEC, "square")
    book.failed(ID, error)
    kept = book.read(ID)
    assert (kept.state, kept.error.message, kept.error.hint) == ("FAILED", error.message, error.hint)
    assert isinstance(kept.error, KeyError) == isinstance(error, KeyError)
    assert isinstance(kept.error, TaskFailedError) == isinstance(error, TaskFailedError)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a/b", "0123", "x" * 200, "0123456789abcdeg", ID + "\n"])
def test_what_is_no_id_names_no_file(book, name):
    with pytest.raises(UnknownJobError):
        book.read(name)


def test_only_what_ended_long_ago_is_tidied_away(book, tmp_path):
    for number in range(3):
        spec = TaskSpec(f"{ID}{number}", "function/1", b"")
        book.begin(spec, "f")
        if number:
            book.failed(spec.task_id, NoPeerError("nobody"))
    os.utime(tmp_path / "jobs" / f"{ID}1.end", (0, 0))
    book.tidy()
    assert book.ids() == [f"{ID}0", f"{ID}2"]
    assert job_book.KEEP_SECONDS > 0


@given(st.sampled_from(["task", "peer", "end"]), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_errors_and_nothing_else(book, tmp_path, kind, data):
    book.begin(SPEC, "square")
    book.assigned(ID, ADA)
    book.ended(ID, TaskResult(1, Credits(5), ADA, Usage()))
    path = tmp_path / "jobs" / f"{ID}.{kind}"
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=6))
    path.write_bytes(whole)
    try:
        kept = book.read(ID)
    except UnknownJobError:
        return
    assert isinstance(kept.spec, TaskSpec)
