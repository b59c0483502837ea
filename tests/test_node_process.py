"""A node as a child process: its ready line, its log, its end, and ours."""

import os
import signal
import sys
import threading

import psutil
import pytest

from hivemind_p2p import node_process
from hivemind_p2p.errors import NetworkError
from hivemind_p2p.node_process import NodeProcess, interrupts_held_back

READY = """
import json, os, signal, sys
print("not json", flush=True)
print('{"event": "other"}', flush=True)
told = {"event": "ready", "pid": os.getpid(), "arguments": sys.argv[1:], "a": os.environ.get("A")}
print(json.dumps(told), flush=True)
"""

WAITS_FOR_STDIN = READY + "sys.stdin.read()\n"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + "signal.pause()\n"
FAILS = "import sys\nsys.stderr.write('x' * 5000 + 'no such disk')\nsys.exit(3)\n"
SILENT = "import sys\nsys.stdin.read()\n"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a node that is a script; whatever is left of it is killed in the end."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    nodes = []

    def start(source, **options):
        (tmp_path / "fake_node.py").write_text(source)
        nodes.append(NodeProcess("fake_node", ["--more"], log=tmp_path / "node.log", **options))
        return nodes[-1]

    yield start
    for node in nodes:
        node.kill()


def test_it_tells_when_it_is_ready(start):
    node = start(WAITS_FOR_STDIN, environment={"A": "b"})
    ready = node.wait_ready()
    assert ready["pid"] == node.pid
    assert ready["arguments"] == ["run", "--json", "--exit-with-parent", "--more"]
    assert ready["a"] == "b"
    assert node.wait_ready() == node.ready == ready
    assert node.alive


def test_stopping(start):
    node = start(WAITS_FOR_STDIN)
    node.wait_ready()
    node.stop()
    assert not node.alive
    node.stop()
    node.begin_stop()


def test_what_does_not_end_is_killed(start):
    node = start(STUBBORN)
    node.wait_ready()
    node.stop(deadline=0.1)
    assert not psutil.pid_exists(node.pid)


def test_killing(start):
    node = start(STUBBORN)
    node.wait_ready()
    node.kill()
    assert not node.alive


def test_a_node_that_fails_shows_the_end_of_its_log(start):
    with pytest.raises(NetworkError, match="ended before it was ready") as caught:
        start(FAILS).wait_ready()
    assert caught.value.message.endswith("no such disk")
    assert len(caught.value.message) < 2 * node_process.LOG_TAIL_BYTES


def test_a_node_that_says_nothing(start):
    with pytest.raises(NetworkError, match="was not ready after") as caught:
        start(SILENT).wait_ready(deadline=0.1)
    assert "(nothing)" in caught.value.message


def test_it_sees_its_parent_end(start):
    # What NodeProcess holds of its stdin goes with this process, however that ends.
    node = start(WAITS_FOR_STDIN)
    node.wait_ready()
    node._process.stdin.close()
    assert node._process.wait(timeout=30) == 0


def test_it_is_in_a_session_of_its_own(start):
    node = start(WAITS_FOR_STDIN)
    node.wait_ready()
    assert os.getsid(node.pid) == node.pid != os.getsid(0)
    assert psutil.Process(node.pid).exe() == psutil.Process().exe()
    assert sys.executable in psutil.Process(node.pid).cmdline()


def test_ctrl_c_waits_until_a_process_is_noted():
    steps = []

    def start():
        with interrupts_held_back():
            signal.raise_signal(signal.SIGINT)
            steps.append("noted")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert steps == ["noted"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_without_ctrl_c_nothing_is_raised_and_threads_may_do_it_too():
    ran = []

    def in_a_thread():
        with interrupts_held_back():
            ran.append(True)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    with interrupts_held_back():
        ran.append(True)
    assert ran == [True, True]
