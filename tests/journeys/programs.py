"""Real processes for the journeys: started with their own process group, read line by line, looked at from outside."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import psutil

ROOT = Path(__file__).parents[2]
TINY_PYTHON = ROOT / "notebooks" / "models" / "tiny-python"
PEER, BOOTSTRAP = "hivemind_p2p", "hivemind_bootstrap"

DEADLINE = 60.0
"""Seconds for anything that takes a second or two: the machine may be busy with other things."""

POLL_SECONDS = 0.05


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings of its own, with the packages of this checkout found first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HIVEMIND_P2P_")}
    kept["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'bootstrap'}"
    # No config file of whoever runs the tests.
    kept["HIVEMIND_P2P_CONFIG"] = os.devnull
    return kept | dict(more or {})


def until(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """Looks again and again until something is true, and returns it: for what real processes do without telling."""
    end = time.monotonic() + deadline
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"waited {deadline:g} s in vain until {what}"
        time.sleep(POLL_SECONDS)


class Program:
    """One running command.

    Args:
        command: What to run after ``python``.
        env: The whole environment.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._lines.put)),
            threading.Thread(target=self._read, args=(self._process.stderr, self._errors.append)),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, file: Any, put: Callable[[Any], None]) -> None:
        with file:
            for line in file:
                put(line.decode())
        if put == self._lines.put:
            put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the whole process group, whatever it is doing."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(DEADLINE)
        for thread in self._threads:
            thread.join(DEADLINE)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def errors(self) -> str:
        """What it has written to stderr so far."""
        return "".join(self._errors)

    def line(self) -> str:
        """The next line of its stdout."""
        line = self._lines.get(timeout=DEADLINE)
        assert line is not None, f"it ended without another line: {self.errors}"
        return line

    def lines_so_far(self) -> list[str]:
        """The lines of its stdout that have come since they were last asked for; does not wait."""
        lines = []
        with suppress(queue.Empty):
            while (line := self._lines.get_nowait()) is not None:
                lines.append(line)
        return lines

    def ready(self) -> dict[str, Any]:
        """The line that says that it serves; it has to be the first."""
        event = json.loads(self.line())
        assert event["event"] == "ready"
        assert event["pid"] == self.pid
        return event

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self, number: signal.Signals | None = None) -> int:
        """Its exit code, after a signal if one is given."""
        if number is not None:
            self.send(number)
        code = self._process.wait(DEADLINE)
        for thread in self._threads:
            thread.join(DEADLINE)
        return code

    def rest(self) -> str:
        """What is left of its stdout; it has ended."""
        lines = []
        while (line := self._lines.get(timeout=DEADLINE)) is not None:
            lines.append(line)
        return "".join(lines)


def run_together(*commands: Sequence[str], env: Mapping[str, str] | None = None) -> list[tuple[int, str, str]]:
    """Runs commands at the same time, each to its end: exit codes, stdouts, stderrs."""
    with ExitStack() as stack:
        programs = [stack.enter_context(Program(["-m", *command], environment(env))) for command in commands]
        return [(program.end(), program.rest(), program.errors) for program in programs]


def run(module: str, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Runs a command to its end: exit code, stdout, stderr."""
    return run_together([module, *arguments], env=env)[0]


def allocated(folder: Path) -> int:
    """Bytes that the files below a folder take on the disk: what is a hole takes none."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def descendants(pid: int) -> list[psutil.Process]:
    """The processes below a process, as far as there are any now."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(process: psutil.Process) -> float:
    """What a process has computed; zero if it has ended."""
    try:
        return process.cpu_times().user
    except psutil.NoSuchProcess:
        return 0.0
