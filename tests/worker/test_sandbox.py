"""The sandbox's command line, and what a child loads before it is ready."""

import subprocess
import sys

import pytest

from hivemind_p2p.worker import monitor, sandbox
from hivemind_p2p.worker.sandbox import Python, Wall


@pytest.fixture
def python(tmp_path):
    for folder in ("base/lib", "venv", "checkout/hivemind_p2p"):
        (tmp_path / folder).mkdir(parents=True)
    folders = tuple(str(tmp_path / name) for name in ("base", "base/lib", "venv", "checkout/hivemind_p2p", "missing"))
    return Python(str(tmp_path / "venv/bin/python"), ("/usr", *folders), (str(tmp_path / "checkout"),))


def binds(command):
    return [command[at + 1] for at, word in enumerate(command) if word == "--ro-bind"]


def test_only_what_is_needed_is_shown(python, tmp_path):
    command = sandbox.command(Wall("bubblewrap", program="/bwrap"), python, uid=5, parent=7)
    assert sorted(binds(command)) == [str(tmp_path / name) for name in ("base", "checkout/hivemind_p2p", "venv")]
    assert {"--die-with-parent", "--new-session", "--unshare-net", "--unshare-pid", "--unshare-user"} <= set(command)
    assert command[command.index("--cap-drop") + 1] == "ALL"
    assert command[-3:] == [str(tmp_path / "checkout"), "0", "0"]


def test_root_gives_each_child_a_user_of_its_own(python):
    command = sandbox.command(Wall("bubblewrap", own_user=True, program="/bwrap"), python, uid=5, parent=7)
    assert "--unshare-user" not in command
    assert command[-2:] == ["5", "0"]


def test_a_child_without_walls_dies_with_its_parent(python):
    command = sandbox.command(Wall("none"), python, uid=5, parent=7)
    assert command[:2] == [python.executable, "-I"]
    assert command[-2:] == ["0", "7"]


def test_a_data_folder_inside_a_shown_one_is_covered(python, tmp_path):
    hidden = [str(tmp_path / "base/data"), str(tmp_path / "elsewhere")]
    command = sandbox.command(Wall("bubblewrap", program="/bwrap"), python, uid=5, parent=7, hidden=hidden)
    covered = [command[at + 1] for at, word in enumerate(command) if word == "--tmpfs"]
    assert hidden[0] in covered
    assert hidden[1] not in covered
    assert command.index(hidden[0]) > command.index(str(tmp_path / "base"))


@pytest.mark.parametrize(("wanted", "names"), [("none", ["none"]), ("auto", ["none"]), ("bubblewrap", [])])
def test_without_bubblewrap_only_auto_and_none_find_something(monkeypatch, wanted, names):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert [wall.name for wall in sandbox.walls(wanted)] == names


def test_the_environment_holds_nothing_of_the_peers(monkeypatch):
    monkeypatch.setenv("HIVEMIND_P2P_PASSWORD", "secret")
    assert "secret" not in sandbox.environment("/tmp").values()


def test_a_child_loads_little():
    program = (
        "import sys; from hivemind_p2p.worker import child; child._warm_up(); "
        "print([name for name in ('trio', 'libp2p', 'torch', 'numpy', 'psutil', 'structlog') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


def test_the_machine_is_measured():
    usage = monitor.machine()
    assert 0 < usage["memory_used_bytes"] < usage["memory_bytes"]
