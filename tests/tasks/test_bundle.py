"""Bundles: a program in a zip, what comes back, and bundles that cannot be run."""

import io
import zipfile

import pytest

from hivemind_p2p.errors import ArchiveError, TaskFailedError
from hivemind_p2p.tasks.library.bundle import BundleTask, pack

MAIN = """
import os, sys
os.mkdir("output")
open("output/answer.txt", "w").write(open("data.txt").read() + " ".join(sys.argv[1:]))
print("done")
print("careful", file=sys.stderr)
raise SystemExit(int(os.path.exists("fail")))
"""


def run(tmp_path, **files):
    for name, text in files.items():
        tmp_path.joinpath(name.replace("_", ".")).write_text(text)
    ended = BundleTask().run(memoryview(pack(tmp_path)))
    with zipfile.ZipFile(io.BytesIO(ended["zip"])) as back:
        return ended["status"], {name: back.read(name) for name in back.namelist()}


def test_output_stdout_and_log_come_back(tmp_path):
    status, files = run(tmp_path, main_py=MAIN, data_txt="42 ", task_json='{"arguments": ["a b", "c"]}')
    assert status == 0
    assert files == {"output/answer.txt": b"42 a b c", "stdout.txt": b"done\n", "log.txt": b"careful\n"}


def test_a_program_that_fails_gives_what_it_had_written(tmp_path):
    status, files = run(tmp_path, main_py=MAIN, data_txt="42", fail="")
    assert status == 1
    assert files["output/answer.txt"] == b"42"


def test_a_zip_is_taken_as_it_is(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("main.py", "print(6 * 7)")
    ended = BundleTask().run(memoryview(pack(tmp_path / "b.zip")))
    assert zipfile.ZipFile(io.BytesIO(ended["zip"])).read("stdout.txt") == b"42\n"


def test_requirements_that_are_there_are_met(tmp_path):
    assert run(tmp_path, main_py="", requirements_txt="# ours\nnumpy\n\ncloudpickle # packs\n")[0] == 0


@pytest.mark.parametrize("line", ["no-such-thing", "numpy==0.0.1", "git+https://x.example/y", "-r other.txt"])
def test_requirements_that_are_not_there_are_named(tmp_path, line):
    with pytest.raises(TaskFailedError, match="installs nothing for a task"):
        run(tmp_path, main_py="", requirements_txt=line)


@pytest.mark.parametrize("task", ["{", "[]", '{"arguments": "x"}', '{"arguments": [5]}', '{"other": 1}', "[" * 60_000])
def test_a_wrong_task_json_is_named(tmp_path, task):
    with pytest.raises(TaskFailedError, match=r"task\.json|arguments"):
        run(tmp_path, main_py="", task_json=task)


def test_what_is_no_bundle_is_refused_before_it_is_sent(tmp_path):
    with pytest.raises(ArchiveError, match=r"no main\.py"):
        pack(tmp_path)
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "text", tmp_path / "nothing"):
        with pytest.raises(ArchiveError, match="cannot read"):
            pack(path)


def test_a_payload_that_is_no_bundle_fails_the_task():
    with pytest.raises(TaskFailedError, match="no zip"):
        BundleTask().run(memoryview(b"garbage"))


def test_an_output_that_leads_elsewhere_does_not_come_back(tmp_path):
    status, files = run(tmp_path, main_py="import os; os.symlink('/etc', 'output')")
    assert (status, sorted(files)) == (0, ["log.txt", "stdout.txt"])
