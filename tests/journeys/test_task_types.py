"""Work of other kinds than functions, on real peers."""

import io
import itertools
import zipfile

import numpy
import pytest

from hivemind_p2p.errors import NoPeerError, TaskFailedError
from hivemind_p2p.types import Needs


def test_a_command_runs_on_a_peer(hive):
    job = hive.command(["sort", "-n"], b"10\n9\n1\n")
    assert job.result(timeout=60) == {"status": 0, "output": b"1\n9\n10\n", "errors": b"", "cut": False}
    assert job.peer not in (None, hive.peer_id)


def test_a_command_that_is_cancelled_keeps_what_it_has_printed(hive):
    job = hive.command(["sh", "-c", "echo one; echo two >&2; exec sleep 1000"])
    lines = list(itertools.islice(job.stdout, 2))
    assert sorted(lines) == ["one\n", "two\n"]
    assert job.cancel()
    assert (job.state, sorted(job.output.split())) == ("CANCELLED", ["one", "two"])


def test_a_large_result_travels_through_the_swarm_and_large_arguments_once(hive):
    data = numpy.arange(9_000_000.0)  # 72 MB: more than a channel takes
    before = {content.link for content in hive.contents()}
    job = hive.submit(numpy.negative, data, needs=Needs(memory="1GiB"))
    assert numpy.array_equal(job.result(timeout=120), -data)
    assert [job.result(timeout=120) for job in (hive.submit(numpy.sum, data), hive.submit(numpy.max, data))] == [
        data.sum(),
        data.max(),
    ]
    new = {content.link for content in hive.contents()} - before
    assert len(new) == 1  # the argument, which was put once; the result is gone


def test_a_program_that_the_peer_lacks_is_named(hive):
    with pytest.raises(TaskFailedError, match="no-such-program"):
        hive.command(["no-such-program"]).result(timeout=60)


def test_a_task_type_that_nobody_has_finds_no_peer(hive):
    with pytest.raises(NoPeerError, match="nonsense/1"):
        hive.run_type("nonsense/1", b"").result(timeout=120)


def test_a_bundle_runs_on_a_peer(hive, tmp_path):
    tmp_path.joinpath("main.py").write_text("import os; os.mkdir('output'); open('output/a', 'w').write('42')")
    ended = hive.bundle(tmp_path).result(timeout=60)
    with zipfile.ZipFile(io.BytesIO(ended["zip"])) as back:
        assert (ended["status"], back.read("output/a")) == (0, b"42")
