"""A worker's life: its screen, pauses, goodbyes, and how it comes back by itself after what can happen to it."""

import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from fcntl import ioctl

import psutil
import pytest

import hivemind_p2p as hm
from hivemind_p2p.errors import TaskCrashedError
from hivemind_p2p.worker import control
from tests.journeys.programs import BOOTSTRAP, DEADLINE, PEER, Program, descendants, environment, run, until

JOINS = {"HIVEMIND_P2P_PASSWORD": "a fine password", "HIVEMIND_P2P_REGISTER": "true"}


class Small:
    """A bootstrap and one worker, each of which can be ended and started again, and a caller."""

    def __init__(self, folder):
        self.folder = folder
        self.bootstrap = self.start_bootstrap("/ip4/127.0.0.1/tcp/0")
        self.address = self.bootstrap.ready()["addresses"][0]
        self.joins = JOINS | {"HIVEMIND_P2P_BOOTSTRAP": self.address}
        self.worker = self.start_worker()
        self.worker.ready()

    def start_bootstrap(self, listen):
        command = ["-m", BOOTSTRAP, "run", "--json", "--data", str(self.folder / "bootstrap"), "--listen", listen]
        return Program(command, environment())

    def arguments(self, name="worker"):
        return ["--data", str(self.folder / name), "--username", "ada", "--cpus", "1", "--memory", "1GiB"]

    def start_worker(self, *more, json_lines=True, name="worker"):
        command = ["-m", PEER, "run", *(["--json"] if json_lines else []), *self.arguments(name), *more]
        return Program(command, environment(self.joins))

    def caller(self):
        return hm.connect(
            bootstrap=self.address, username="bob", password=JOINS["HIVEMIND_P2P_PASSWORD"], register=True
        )

    def say(self, word):
        code, out, err = run(PEER, word, "--json", "--data", str(self.folder / "worker"))
        assert (code, err) == (0, "")
        return json.loads(out)

    def status(self):
        return control.ask(self.folder / "worker", "status")

    def close(self):
        self.worker.__exit__()
        self.bootstrap.__exit__()


@pytest.fixture
def small(tmp_path):
    small = Small(tmp_path)
    yield small
    small.close()


def nap(seconds):
    time.sleep(seconds)
    return seconds


def at_work(small):
    """Whether the worker's sandbox runs somebody's function: its child sleeps in it."""
    return small.status()["running"] == 1


def test_it_finishes_what_runs_and_gives_back_what_waits(small):
    with small.caller() as hive:
        jobs = [hive.submit(nap, 3.0) for _ in range(3)]
        until(lambda: at_work(small), "the first task runs")
        small.worker.send(signal.SIGTERM)
        with small.start_worker(name="second") as second:
            second.ready()
            assert [job.result(DEADLINE) for job in jobs] == [3.0] * 3
            assert small.worker.end() == 0
            assert (small.worker.rest(), small.worker.errors) == ("", "")
            assert jobs[0].peer != jobs[1].peer == jobs[2].peer


def test_told_twice_it_leaves_at_once(small):
    with small.caller() as hive:
        job = hive.submit(nap, 300.0)
        until(lambda: at_work(small), "it runs")
        small.worker.send(signal.SIGTERM)
        until(lambda: small.status()["state"] == "leaving", "it is leaving")
        assert small.worker.end(signal.SIGTERM) == 0
        job.cancel()


def test_it_pauses_and_resumes_when_its_user_says_so(small):
    with small.caller() as hive:
        assert hive.submit(nap, 0.0).result(DEADLINE) == 0.0
        assert small.say("pause") == {"state": "paused", "reason": "its user has paused it", "running": 0, "waiting": 0}
        with pytest.raises((hm.errors.NoPeerError, hm.errors.BusyError)):
            hive.submit(nap, 0.1).result(DEADLINE)
        assert small.say("resume")["state"] == "open"
        assert hive.submit(nap, 0.0).result(DEADLINE) == 0.0


def test_outside_its_hours_and_in_use_it_takes_nothing(small):
    small.worker.end(signal.SIGTERM)
    now = time.localtime()
    later = f"{(now.tm_hour + 2) % 24:02}:00-{(now.tm_hour + 3) % 24:02}:00"
    for more, state in ((["--schedule", later], "off hours"), (["--only-when-idle"], "in use")):
        with small.start_worker(*more) as worker:
            worker.ready()
            assert small.status()["state"] == state
            assert worker.end(signal.SIGTERM) == 0


def test_it_goes_on_after_its_child_has_died(small):
    with small.caller() as hive:
        job = hive.submit(nap, 300.0)
        until(lambda: at_work(small), "it runs")
        for process in descendants(small.worker.pid):
            if process.is_running():
                process.kill()
        with pytest.raises(TaskCrashedError):
            job.result(DEADLINE)
        assert hive.submit(nap, 0.0).result(DEADLINE) == 0.0
    assert small.worker.running


def test_it_comes_back_after_the_bootstrap_was_killed_and_after_it_was_stopped(small):
    listen = small.address.rpartition("/p2p/")[0]
    small.bootstrap.end(signal.SIGKILL)
    small.bootstrap.__exit__()
    small.bootstrap = small.start_bootstrap(listen)
    assert small.bootstrap.ready()["addresses"] == [small.address]
    _takes_tasks(small)
    # As if the cable had been out: nothing answers, and no connection is closed.
    small.bootstrap.send(signal.SIGSTOP)
    time.sleep(6)  # longer than a silent connection is kept
    small.bootstrap.send(signal.SIGCONT)
    _takes_tasks(small)
    assert small.worker.running


def _takes_tasks(small):
    def once():
        try:
            with small.caller() as hive:
                return hive.submit(nap, 0.0).result(DEADLINE) == 0.0
        except hm.errors.HivemindError:
            return False

    assert until(once, "the worker is found again and works")


class Terminal:
    """A command in a terminal of 80 by 24, of which everything that it shows is kept."""

    def __init__(self, command, env):
        self.shown = b""
        self.pid, self._terminal = pty.fork()
        if not self.pid:
            os.execve(sys.executable, [sys.executable, *command], dict(env))
        ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def until(self, *words):
        def seen():
            ready = select.poll()  # select() cannot watch descriptors from 1024 on
            ready.register(self._terminal, select.POLLIN)
            while ready.poll(0):
                try:
                    self.shown += os.read(self._terminal, 1 << 16)
                except OSError:
                    return True
            return all(word.encode() in self.shown for word in words)

        until(seen, f"{words} are shown")
        assert all(word.encode() in self.shown for word in words), self.shown[-3000:].decode(errors="replace")
        self.shown = b""

    def press(self, key):
        os.write(self._terminal, key.encode())

    def end(self):
        until(lambda: os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), "it has ended")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self):
        os.close(self._terminal)
        if psutil.pid_exists(self.pid):
            os.kill(self.pid, signal.SIGKILL)


@pytest.fixture
def terminal(small):
    small.worker.end(signal.SIGTERM)
    env = environment(small.joins | {"TERM": "xterm-256color"})
    terminal = Terminal(["-m", PEER, "run", "--name", "ada's laptop", *small.arguments()], env)
    yield terminal
    terminal.close()


def test_a_screen_shows_it_and_obeys_keys(small, terminal):
    terminal.until("ada's laptop", "takes tasks", "Machine", "Credits", "Network")
    with small.caller() as hive:
        job = hive.submit(nap, 2.0)
        terminal.until("function/1")
        assert job.result(DEADLINE) == 2.0
    terminal.press("p")
    terminal.until("paused: its user has paused it", "resume")
    terminal.press("p")
    terminal.until("takes tasks")
    terminal.press("q")
    assert terminal.end() == 0


@pytest.mark.parametrize("more", [[], ["--no-tui"]])
def test_where_nobody_looks_it_is_quiet(small, more):
    small.worker.end(signal.SIGTERM)
    with small.start_worker(*more, json_lines=False) as worker:
        assert worker.line().startswith("ready as 12D3KooW")
        assert worker.line().startswith("  /ip4/127.0.0.1/tcp/")
        assert worker.end(signal.SIGTERM) == 0
        assert (worker.rest(), worker.errors) == ("", "")
