"""The command as a process: the line that says it is ready, its ends, and its errors."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "hivemind_bootstrap", "run", "--json"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'bootstrap'}"}
DEADLINE = 60


@contextmanager
def _running(data: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict]]:
    with subprocess.Popen(
        [*COMMAND, "--data", str(data), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, json.loads(line)
        finally:
            if process.poll() is None:
                process.kill()


def _fails(data: Path, *arguments: str) -> list[str]:
    ended = subprocess.run(
        [*COMMAND, "--data", str(data), *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=DEADLINE,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == ""
    return ended.stderr.splitlines()


def test_it_says_when_it_is_ready_survives_sigkill_and_ends_cleanly(tmp_path):
    with _running(tmp_path) as (process, ready):
        assert ready["event"] == "ready"
        assert ready["pid"] == process.pid
        assert all(address.endswith(f"/p2p/{ready['peer_id']}") for address in ready["addresses"])
        assert httpx.get(f"{ready['http']}/health", timeout=DEADLINE).json()["status"] == "ok"

        error, hint = _fails(tmp_path)
        assert error.startswith("error: another bootstrap uses the folder")
        assert hint.startswith("hint: ")

        error, _ = _fails(tmp_path / "other", "--http", ready["http"].removeprefix("http://"))
        assert error.startswith("error: another process listens on")
        process.kill()
        assert process.wait(DEADLINE) == -signal.SIGKILL
    assert (tmp_path / "identity.key").stat().st_mode & 0o777 == 0o600

    with _running(tmp_path) as (process, again):
        assert again["peer_id"] == ready["peer_id"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
        assert process.stdout.read() == ""


def test_ctrl_c_ends_it_cleanly(tmp_path):
    with _running(tmp_path) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 0


def test_it_ends_with_the_program_that_started_it(tmp_path):
    with _running(tmp_path, "--exit-with-parent") as (process, _):
        process.stdin.close()
        assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--http", "nonsense"], "error: not a host and port: 'nonsense'"),
        (["--listen", "nonsense"], "error: "),
    ],
)
def test_a_wrong_flag_is_one_line_what_and_one_line_what_to_do(tmp_path, arguments, error):
    what, todo = _fails(tmp_path, *arguments)
    assert what.startswith(error)
    assert todo.startswith("hint: ")


def test_a_key_file_that_is_no_key_is_named(tmp_path):
    (tmp_path / "identity.key").write_text("this is no key")
    what, _ = _fails(tmp_path)
    assert str(tmp_path / "identity.key") in what


def test_a_taken_port_for_peers_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        what, _ = _fails(tmp_path, "--listen", f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}")
    assert what.startswith("error: ")


def test_a_folder_that_cannot_be_one_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    what, _ = _fails(tmp_path / "file")
    assert str(tmp_path / "file") in what
