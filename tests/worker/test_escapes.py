"""Attacks from inside the sandbox fail: as root and as an ordinary user, behind bubblewrap and behind Landlock.

The attacks are in `escape_attempts.py`, which runs them all in one process for each kind of wall and user. Where this
machine does not have a kind of wall, or lets no other user run this interpreter, those are skipped and say so.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hivemind_p2p.worker import landlock, sandbox

if sys.platform != "linux":
    pytest.skip("the walls are those of Linux", allow_module_level=True)

pytestmark = pytest.mark.timeout(300)  # all attacks one after the other, on a machine that may be busy
ROOT = Path(__file__).parents[2]
ATTEMPTS = Path(__file__).with_name("escape_attempts.py")
SECRET = "canary-31415926535"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
PATHS = os.pathsep.join([str(ROOT), *(path for path in sys.path if "site-packages" in path)])
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH", "LANG")},
    "PYTHONPATH": PATHS,
    "PYTHONDONTWRITEBYTECODE": "1",
    "HIVEMIND_P2P_PASSWORD": SECRET,
}


@functools.cache
def why_not(wall, user):
    """Why these walls cannot be tried here; empty if they can."""
    machine, root = sandbox.this_machine(), os.geteuid() == 0
    other_user = root and (user == "ordinary" or wall == "landlock")
    checks = {
        "bubblewrap is not installed": lambda: wall == "bubblewrap" and not machine.bubblewrap,
        f"this kernel has Landlock {machine.landlock}": lambda: (
            wall == "landlock" and machine.landlock < landlock.LEAST_ABI
        ),
        "the tests do not run as root": lambda: user == "root" and not root,
        "there is no setpriv to become another user": lambda: other_user and not shutil.which("setpriv"),
        f"only root may run {sys.executable}, or read the library": lambda: other_user and not others_can_run_it(),
        "bubblewrap is not allowed to build walls here": lambda: wall == "bubblewrap" and not bubblewrap_works(user),
    }
    return next((reason for reason, holds in checks.items() if holds()), "")


OPEN_UP = """
set -e
base=$1; closed=$2; shift 2
kept=$(mktemp -d)
mount --bind "$base" "$kept"
mount -t tmpfs -o mode=755 none "$closed"
mkdir -p "$base"
mount --bind "$kept" "$base"
umount "$kept"; rmdir "$kept"
exec "$@"
"""
"""Shows an interpreter in a folder that others may not enter at its own place, in a mount namespace of its own, where
everybody may run it; the rest of that folder is hidden."""


@functools.cache
def way_in():
    """What has to stand before a command, so that other users can run this interpreter."""
    if os.geteuid() != 0:
        return ()
    above = [folder for folder in Path(sys.base_prefix).parents if not folder.stat().st_mode & 0o001]
    if not above or not shutil.which("unshare"):
        return ()
    return ("unshare", "--mount", "sh", "-c", OPEN_UP, "sh", sys.base_prefix, str(above[-1]))


@functools.cache
def others_can_run_it():
    program = "import hivemind_p2p, trio, psutil, ssl, sys; print(sys.base_prefix)"
    command = [*way_in(), *NOBODY, sys.executable, "-c", program]
    done = subprocess.run(command, env=ENVIRONMENT, cwd="/", capture_output=True, check=False, text=True)
    return done.returncode == 0 and done.stdout.strip() == sys.base_prefix


def bubblewrap_works(user):
    before = NOBODY if user == "ordinary" and os.geteuid() == 0 else ()
    spaces = ["--unshare-user", "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "--proc", "/proc"]
    return subprocess.run([*before, "bwrap", *spaces, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module", params=["bubblewrap root", "bubblewrap ordinary", "landlock root", "landlock ordinary"])
def attacked(request):
    """What came of all attacks behind one kind of wall."""
    wall, user = request.param.split()
    if reason := why_not(wall, user):
        pytest.skip(reason)
    # Not among pytest's own, which every session that begins closes to other users again.
    folder = Path(tempfile.mkdtemp(prefix="attacked-"))
    folder.chmod(0o755)
    becomes = NOBODY if user == "ordinary" and os.geteuid() == 0 else ()
    if becomes:
        os.chown(folder, 65534, 65534)
    done = subprocess.run(
        [*(way_in() if os.geteuid() == 0 else ()), *becomes, sys.executable, str(ATTEMPTS), wall, str(folder)],
        env=ENVIRONMENT | {"HOME": str(folder)},
        cwd="/",
        capture_output=True,
        check=False,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["walls"] == wall
    assert found["uid"] == (0 if user == "root" else found["uid"])
    assert (found["uid"] == 0) == (user == "root")
    yield found
    shutil.rmtree(folder, ignore_errors=True)


def refused(answers):
    """The attempts that were not refused."""
    return {name: answer for name, answer in answers.items() if not str(answer).startswith(("errno", "gaierror"))}


def leads_to_python(path):
    """Whether a folder is on the way to the interpreter, and shows nothing else."""
    return Path(path) in Path(sys.base_prefix).parents


def test_no_file_of_the_machine_can_be_read(attacked):
    assert {path for path in refused(attacked["read_files"]["value"]) if not leads_to_python(path)} == set()
    assert refused(attacked["read_through_links"]["value"]) == {}
    assert SECRET not in json.dumps(attacked["read_files"])


def test_no_file_of_the_machine_can_be_changed(attacked):
    # Modes, times and attributes may pretend to have been changed.
    pretended = set(refused(attacked["change_files"]["value"]))
    assert {name.split()[0] for name in pretended} <= {"mode", "times", "attribute"}
    assert set(attacked["state"]["files"].values()) == {SECRET}
    assert set(attacked["state"]["modes"]) == {0o644}


def test_the_environment_holds_no_secret(attacked):
    assert SECRET not in attacked["read_environments"]["value"]
    assert "HIVEMIND" not in attacked["read_environments"]["value"]


def test_nothing_of_the_machine_can_be_reached_over_a_network(attacked):
    answers = attacked["reach_network"]["value"]
    assert attacked["state"]["received"] == []
    # Behind bubblewrap there is a loopback of its own, to which anything can be sent and on which nobody listens.
    own = {"udp", "listen"} if attacked["walls"] == "bubblewrap" else set()
    assert set(refused(answers)) <= own


def test_no_other_process_is_seen_or_touched(attacked):
    answers = attacked["touch_processes"]["value"]
    assert len(answers.pop("listed")) <= 3
    answers.pop("descriptor")  # harmless by itself: what could be done with it is refused
    assert refused(answers) == {}
    assert attacked["state"]["victim"] is True
    assert attacked["state"]["priority"] == 0


def test_the_kernel_is_not_there_to_be_played_with(attacked):
    answers = attacked["misuse_kernel"]["value"]
    assert int(answers.pop("capabilities"), 16) == 0
    assert (answers.pop("no new"), answers.pop("filter")) == ("1", "2")
    assert refused(answers) == {}


def test_no_descriptor_of_the_peer_is_inherited(attacked):
    leads_to = [where for where in attacked["descriptors"]["value"].values() if not where.startswith("errno")]
    assert {where.partition(":")[0] for where in leads_to} <= {"/dev/null", "pipe", "socket"}
    assert len(leads_to) <= 5


@pytest.mark.parametrize("bomb", ["memory_bomb", "memory_bomb_of_many", "memory_bomb_that_is_shared"])
def test_a_memory_bomb_is_stopped(attacked, bomb):
    assert attacked[bomb]["error"] in ("task_memory", "task_crashed")


@pytest.mark.parametrize("bomb", ["disk_bomb", "inode_bomb"])
def test_a_disk_bomb_is_stopped(attacked, bomb):
    assert attacked[bomb]["error"] in ("task_failed", "task_crashed", "task_memory", "task_timeout")


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        ("zip_bomb", "unpacks to more than"),
        ("zip_bomb_that_lies", "longer than the archive says|damaged"),
        ("zip_slip", "not a name for a file"),
        ("zip_link", "neither a file nor a folder"),
    ],
)
def test_a_bundle_that_attacks_is_refused_before_it_runs(attacked, archive, reason):
    assert attacked[archive]["error"] == "task_failed"
    assert re.search(reason, attacked[archive]["message"])
    assert attacked["stolen"] is False


def test_a_fork_bomb_is_stopped(attacked):
    assert attacked["fork_bomb"]["error"] in ("task_memory", "task_crashed", "task_failed", "task_timeout")
    assert attacked["alive"]["value"] == 3


def test_nothing_stays_behind(attacked):
    assert attacked["left"] == []
    assert attacked["children"] == 0
    assert attacked["work"] == []


def test_a_pickle_that_attacks_runs_behind_the_walls_and_never_at_the_peer(attacked):
    assert attacked["pickle_in"]["error"] == "task_failed"
    assert attacked["pickle_out"]["error"] == "unsafe_value"
    assert attacked["stolen"] is False


def test_cleaning_up_follows_no_link(attacked):
    assert attacked["links_for_the_cleaner"]["value"] == "linked"
    assert "gone" not in attacked["state"]["files"].values()
