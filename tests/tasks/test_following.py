"""What a program writes into files, told while it runs."""

import subprocess
import sys

import pytest

from hivemind_p2p.tasks.library import following
from hivemind_p2p.tasks.library.following import Followed


def test_each_look_tells_what_is_new_in_each_file(tmp_path):
    paths = [tmp_path / "output", tmp_path / "errors"]
    for path in paths:
        path.touch()
    followed = Followed(paths)
    assert followed.look() == []
    paths[0].write_bytes(b"one")
    assert followed.look() == [b"one"]
    paths[0].write_bytes(b"one, two")
    paths[1].write_bytes(b"oh")
    assert followed.look() == [b", two", b"oh"]
    paths[0].write_bytes(b"")  # a program may cut what it wrote
    assert followed.look() == []
    followed.close()


def test_of_a_flood_the_end_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "MOST_AT_ONCE", 4)
    path = tmp_path / "output"
    path.write_bytes(b"0123456789")
    followed = Followed([path])
    assert followed.look() == [b"6789"]
    path.write_bytes(b"0123456789ab")
    assert followed.look() == [b"ab"]
    followed.close()


@pytest.mark.parametrize("threads", [True, False])
def test_all_is_told_by_the_end(tmp_path, monkeypatch, capfdbinary, threads):
    if not threads:
        monkeypatch.setattr("threading.Thread.start", _cannot_start)
    path = tmp_path / "output"
    program = "import sys; sys.stdout.write('a' * 100_000); raise SystemExit(3)"
    with path.open("wb") as file, following.following(path):
        ended = subprocess.run([sys.executable, "-I", "-c", program], stdout=file, check=False)
    assert ended.returncode == 3
    assert capfdbinary.readouterr().out == b"a" * 100_000


def _cannot_start(_self):
    raise RuntimeError("can't start new thread")
