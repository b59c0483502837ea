"""Lab peers as processes, driven from a test."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.interop.lab import Host

ROOT = Path(__file__).parent.parent.parent
SCRIPT = Path(__file__).parent / "lab_peer.py"
PATIENCE = 30.0
"""Seconds for anything at all; what is waited for takes a fraction of one."""


class PeerProcess:
    """One lab peer."""

    def __init__(self, host: Host, log: Path, *, seed: int, port: int = 4001, **told: Any) -> None:
        self.host = host
        self.log = log
        told |= {"seed": bytes([seed] * 32).hex(), "listen": f"/ip4/0.0.0.0/tcp/{port}"}
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                host.command([sys.executable, str(SCRIPT), json.dumps(told), "-v"]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "bootstrap")])},
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._ready: dict[str, Any] | None = None

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self._lines.put(line)
        self._lines.put("")

    def _line(self) -> Any:
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            line = ""
        if not line:
            raise RuntimeError(f"the peer says nothing: {self.log.read_text()[-4000:]}")
        return json.loads(line)

    @property
    def ready(self) -> dict[str, Any]:
        """What it said once it ran."""
        if self._ready is None:
            self._ready = self._line()
        return self._ready

    @property
    def peer_id(self) -> str:
        """Who it is."""
        return str(self.ready["peer"])

    @property
    def address(self) -> str:
        """Where it can be dialled from its own side of the router."""
        return f"/ip4/{self.host.address}/tcp/4001/p2p/{self.peer_id}"

    def ask(self, do: str, **order: Any) -> Any:
        """Has it do something."""
        _ = self.ready
        assert self._process.stdin is not None
        print(json.dumps({"do": do, **order}), file=self._process.stdin, flush=True)
        answer = self._line()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["answer"]

    def view(self) -> dict[str, Any]:
        """What its network looks like to it."""
        view: dict[str, Any] = self.ask("view")["view"]
        return view

    def wait_for(self, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Waits until its view of the network is as it should be."""
        return wait_until(self.view, true, self.log)

    def addresses(self) -> list[str]:
        """What it advertises, with its id."""
        return [f"{address}/p2p/{self.peer_id}" for address in self.view()["advertised"]]

    def stop(self) -> None:
        """Ends it in order, or else by force."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends it by force."""
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE)
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()


def wait_until(ask: Callable[[], Any], true: Callable[[Any], bool], log: Path) -> Any:
    """Asks again and again until the answer is as it should be."""
    deadline = time.monotonic() + PATIENCE
    while not true(answer := ask()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still {answer}; {log.read_text()[-4000:]}")
        time.sleep(0.05)
    return answer


@contextmanager
def peers(folder: Path) -> Iterator[Callable[..., PeerProcess]]:
    """Starts peers; all are ended with the block."""
    started: list[PeerProcess] = []

    def start(host: Host, **told: Any) -> PeerProcess:
        number = len(started) + 1
        started.append(PeerProcess(host, folder / f"peer{number}.log", seed=told.pop("seed", number), **told))
        return started[-1]

    try:
        yield start
    finally:
        for peer in started:
            peer.kill()
