"""The sandbox's command line, and what a child loads before it is ready."""

import subprocess
import sys

import pytest

from hivemind_p2p.errors import SandboxError
from hivemind_p2p.worker import monitor, sandbox
from hivemind_p2p.worker.gpus import Gpu
from hivemind_p2p.worker.sandbox import Machine, Python, Wall, walls
from hivemind_p2p.worker.wall_in import Orders

ALL = Machine(bubblewrap="/bwrap", root=True, landlock=6, filtered=True)


@pytest.fixture
def python(tmp_path):
    for folder in ("base/lib", "venv", "checkout/hivemind_p2p"):
        (tmp_path / folder).mkdir(parents=True)
    folders = tuple(str(tmp_path / name) for name in ("base", "base/lib", "venv", "checkout/hivemind_p2p", "missing"))
    return Python(str(tmp_path / "venv/bin/python"), ("/usr", *folders), (str(tmp_path / "checkout"),))


def orders(command):
    return Orders.from_text(command[-1])


def binds(command):
    return [command[at + 1] for at, word in enumerate(command) if word == "--ro-bind"]


def test_only_what_is_needed_is_shown(python, tmp_path):
    command = sandbox.command(Wall("bubblewrap", program="/bwrap"), python, uid=5, parent=7)
    assert sorted(binds(command)) == [str(tmp_path / name) for name in ("base", "checkout/hivemind_p2p", "venv")]
    assert {"--die-with-parent", "--new-session", "--unshare-net", "--unshare-pid", "--unshare-user"} <= set(command)
    assert command[command.index("--cap-drop") + 1] == "ALL"
    assert command[-2] == str(tmp_path / "checkout")
    assert (orders(command).uid, orders(command).parent) == (0, 0)


def test_root_gives_each_child_a_user_of_its_own(python):
    command = sandbox.command(Wall("bubblewrap", own_user=True, program="/bwrap"), python, uid=5, parent=7)
    assert "--unshare-user" not in command
    assert (orders(command).uid, orders(command).parent) == (5, 0)


def test_a_child_without_walls_dies_with_its_parent(python):
    command = sandbox.command(Wall("none"), python, uid=5, parent=7)
    assert command[:2] == [python.executable, "-I"]
    assert orders(command) == Orders("none", parent=7)


def test_a_data_folder_inside_a_shown_one_is_covered(python, tmp_path):
    hidden = [str(tmp_path / "base/data"), str(tmp_path / "elsewhere")]
    command = sandbox.command(Wall("bubblewrap", program="/bwrap"), python, uid=5, parent=7, hidden=hidden)
    covered = [command[at + 1] for at, word in enumerate(command) if word == "--tmpfs"]
    assert hidden[0] in covered
    assert hidden[1] not in covered
    assert command.index(hidden[0]) > command.index(str(tmp_path / "base"))


def test_the_strongest_wall_is_tried_first():
    found = [(wall.name, wall.own_user) for wall in walls("auto", ALL)]
    assert found == [("bubblewrap", True), ("bubblewrap", False), ("landlock", True)]
    assert {wall.landlock for wall in walls("auto", ALL)} == {6}
    assert all(wall.filtered and wall.holds for wall in walls("auto", ALL))
    assert str(walls("auto", ALL)[0]) == "bubblewrap, Landlock, seccomp, a user of its own"


@pytest.mark.parametrize(("wanted", "names"), [("none", ["none"]), ("auto", []), ("bubblewrap", []), ("landlock", [])])
def test_a_machine_without_walls_offers_none_unless_asked(wanted, names):
    assert [wall.name for wall in walls(wanted, Machine())] == names


def test_only_unsafe_lets_auto_end_without_walls():
    assert [wall.name for wall in walls("auto", Machine(), unsafe=True)] == ["none"]
    assert [wall.name for wall in walls("landlock", Machine(), unsafe=True)] == []
    assert walls("auto", ALL, unsafe=True)[-1] == Wall("none")


def test_landlock_is_not_offered_where_it_would_leak():
    assert walls("landlock", Machine(landlock=2, filtered=True)) == ()
    assert walls("landlock", Machine(landlock=6, filtered=False)) == ()
    assert [wall.own_user for wall in walls("landlock", Machine(landlock=3, filtered=True))] == [False]
    assert [wall.own_user for wall in walls("landlock", ALL)] == [True]


def test_landlock_shows_the_interpreter_and_its_own_folder(python, tmp_path):
    wall = Wall("landlock", landlock=6, filtered=True)
    command = sandbox.command(wall, python, uid=5, parent=7, scratch="/scratch")
    found = orders(command)
    assert command[0] == python.executable
    assert (found.uid, found.parent, found.landlock, found.filtered) == (0, 7, 6, True)
    assert found.writable[0] == "/scratch"
    assert set(found.writable[1:]) <= set(sandbox._DEVICES)
    assert {str(tmp_path / name) for name in ("base", "checkout/hivemind_p2p", "venv")} < set(found.readable)
    assert not {"/", "/etc", "/proc", "/tmp", "/home"} & set(found.readable)


def test_landlock_cannot_hide_a_folder_inside_a_shown_one(python, tmp_path):
    wall = Wall("landlock", landlock=6, filtered=True)
    with pytest.raises(SandboxError, match="lies inside") as caught:
        sandbox.command(wall, python, uid=5, parent=7, scratch="/scratch", hidden=[str(tmp_path / "base/data")])
    assert "--data" in caught.value.hint


def test_the_network_is_shown_only_where_it_is_allowed(python):
    closed = sandbox.command(Wall("bubblewrap", program="/bwrap"), python, uid=5, parent=7)
    open_ = sandbox.command(Wall("bubblewrap", program="/bwrap", network=True), python, uid=5, parent=7)
    assert "--unshare-net" in closed
    assert "/etc/resolv.conf" not in closed
    assert "--unshare-net" not in open_
    assert "/etc/resolv.conf" in open_
    assert (orders(closed).network, orders(open_).network) == (False, True)


def test_gpus_are_shown_to_those_only_that_have_them(python):
    gpu = Gpu("one", 5, ("/dev/nvidia1", "/dev/nvidiactl"), 1)
    for wall in (Wall("bubblewrap", True, "/bwrap", 6, True), Wall("landlock", True, "", 6, True)):
        command = sandbox.command(wall, python, uid=5, parent=7, scratch="/scratch", gpus=[gpu])
        assert orders(command).devices == ("/dev/nvidia1", "/dev/nvidiactl")
        bound = [command[at + 1] for at, word in enumerate(command) if word == "--dev-bind-try"]
        assert bound == (["/dev/nvidia1", "/dev/nvidiactl"] if wall.name == "bubblewrap" else [])
        assert "/sys/bus/pci" in (command if wall.name == "bubblewrap" else orders(command).readable)
        without = sandbox.command(wall, python, uid=5, parent=7, scratch="/scratch")
        assert "/sys/bus/pci" not in without
        assert "nvidia" not in " ".join(without)
    assert sandbox.environment("/tmp", [gpu])["CUDA_VISIBLE_DEVICES"] == "1"
    assert sandbox.environment("/tmp")["CUDA_VISIBLE_DEVICES"] == ""


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
