"""A node of the hive as a child process of this one: `hivemind-peer run` or `hivemind-bootstrap run`.

The node says on stdout, in one line of JSON, when it is ready; what it has to say besides goes to a log file. It
ends by itself when its stdin closes, so that no node outlives the program that started it, however that program
ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hivemind_p2p.errors import HivemindError, NetworkError

READY_DEADLINE = 60.0
"""Seconds for a node to come up. It takes one or two; a machine that is busy or swaps takes much longer."""

STOP_DEADLINE = 10.0
"""Seconds a node has to say goodbye before it is killed."""

LOG_TAIL_BYTES = 2000
"""How much of a failed node's log goes into the error."""


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Lets Ctrl-C wait until the block is done, so that no process or folder that it makes is lost sight of."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
        if came.is_set():
            signal.raise_signal(signal.SIGINT)


class NodeProcess:
    """One node: started at once, ready later.

    Args:
        module: What to run, ``hivemind_p2p`` or ``hivemind_bootstrap``.
        arguments: Its command line after ``run``.
        log: The file that takes its stderr.
        environment: Variables besides this process's own; secrets travel here, never on the command line.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self.ready: dict[str, Any] = {}
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, an argument list, no shell
                [sys.executable, "-m", module, "run", "--json", "--exit-with-parent", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **(environment or {})},
                # Ctrl-C in a terminal reaches this process alone, which then ends its nodes in order.
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, name=f"stdout of {self.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line.decode(errors="replace"))
        self._lines.put("")

    def wait_ready(self, deadline: float = READY_DEADLINE) -> dict[str, Any]:
        """Waits for the line that says that it is ready, and returns what it says.

        Raises:
            NetworkError: It ended, or said nothing in time; the end of its log is in the message.
        """
        end = time.monotonic() + deadline
        while not self.ready:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise self._failure(f"was not ready after {deadline:g} s") from None
            if not line:
                raise self._failure("ended before it was ready")
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and event.get("event") == "ready":
                    self.ready = event
        return self.ready

    def _failure(self, what: str) -> HivemindError:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            tail = file.read().decode(errors="replace").strip()
        return NetworkError(
            f"the node with process id {self.pid} {what}; its log ends with:\n{tail or '(nothing)'}",
            hint="The lines above say what it lacked.",
        )

    def begin_stop(self) -> None:
        """Asks it to end, without waiting."""
        if self.alive:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, deadline: float = STOP_DEADLINE) -> None:
        """Ends it: asks first, kills after the deadline. Does nothing if it has ended."""
        self.begin_stop()
        try:
            self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._release()

    def kill(self) -> None:
        """Kills it at once, as a power cut would (SIGKILL)."""
        self._process.kill()
        self._process.wait()
        self._release()

    def _release(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._reader.join(STOP_DEADLINE)
