"""Work of other kinds than functions, on real peers."""

import io
import zipfile

import pytest

from hivemind_p2p.errors import NoPeerError, TaskFailedError


def test_a_command_runs_on_a_peer(hive):
    job = hive.command(["sort", "-n"], b"10\n9\n1\n")
    assert job.result(timeout=60) == {"status": 0, "output": b"1\n9\n10\n", "errors": b"", "cut": False}
    assert job.peer not in (None, hive.peer_id)


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
