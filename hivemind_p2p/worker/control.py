"""A peer that runs can be told things by its own user: pause, resume, how it is.

Participants: the peer, which listens; a command of the same user on the same machine, which asks.
Messages: one line of JSON each way over a Unix socket in the peer's data folder: ``{"do": "pause"}``, and
``{"state": ..., ...}`` or ``{"error": ...}`` back.
Goals:
    - Only who can enter the data folder (mode 0700) can ask. Tasks cannot: they see neither the folder nor the socket.
    - A socket left behind by a peer that was killed is in nobody's way.
Non-goals: anything that goes over a network.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import ConfigurationError, PeerUnreachableError
from hivemind_p2p.interfaces import TaskStatus

SOCKET: Final = "control"
"""The socket's name in the data folder."""

LONGEST_LINE: Final = 64 << 10
"""Bytes of a question or an answer."""

DEADLINE: Final = 5.0
"""Seconds for one question: it is answered from memory, by a process on the same machine."""

LONGEST_PATH: Final = 100
"""Bytes that every system takes as the path of a socket."""

Answer = Callable[[str], Awaitable[dict[str, Any]]]
"""Does what it is told by one word, and says how it is then. Raises `ConfigurationError` for a word unknown to it."""

_events = telemetry.source("control")


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A path to the socket that is short enough, by way of an open folder where the real one is too long."""
    path = str(folder.absolute() / SOCKET)
    if len(os.fsencode(path)) <= LONGEST_PATH or not Path("/proc/self/fd").is_dir():
        yield path
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


async def serve(folder: Path, answer: Answer, *, task_status: TaskStatus) -> None:
    """Answers questions until it is cancelled. A folder that takes no socket is said in the log, and is no error."""
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        try:
            with _short(folder) as path, suppress(FileNotFoundError):
                os.unlink(path)
            with _short(folder) as path:
                await listener.bind(path)
                os.chmod(path, 0o600)
            listener.listen()
        except OSError as error:
            _events.warning("no_control_socket", folder=str(folder), reason=str(error))
            task_status.started()
            return
        task_status.started()
        try:
            await _accept(listener, answer)
        finally:
            with suppress(OSError):
                os.unlink(folder / SOCKET)


async def _accept(listener: trio.socket.SocketType, answer: Answer) -> None:
    async with trio.open_nursery() as nursery:
        while True:
            connection, _ = await listener.accept()
            nursery.start_soon(_converse, connection, answer)


async def _converse(connection: trio.socket.SocketType, answer: Answer) -> None:
    with connection, trio.move_on_after(DEADLINE), suppress(OSError):
        line = b""
        while b"\n" not in line and len(line) < LONGEST_LINE:
            chunk = await connection.recv(LONGEST_LINE - len(line))
            if not chunk:
                return
            line += chunk
        reply = json.dumps(await _answer(line, answer)).encode() + b"\n"
        while reply:
            reply = reply[await connection.send(reply) :]


async def _answer(line: bytes, answer: Answer) -> dict[str, Any]:
    try:
        question = json.loads(line)
    except (ValueError, RecursionError):
        return {"error": "not a question: it is no JSON"}
    word = question.get("do") if isinstance(question, dict) else None
    if not isinstance(word, str):
        return {"error": "not a question: nothing to do is named"}
    try:
        return await answer(word)
    except ConfigurationError as error:
        return {"error": error.message}


def ask(folder: Path, word: str) -> dict[str, Any]:
    """Tells the peer that runs in this data folder one word, and returns what it says.

    Raises:
        PeerUnreachableError: None runs there, or it does not answer.
        ConfigurationError: It does not know the word.
    """
    hint = "Start one with `hivemind-peer run`, or name its folder with --data."
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, _short(folder) as path:
            connection.settimeout(DEADLINE)
            connection.connect(path)
            connection.sendall(json.dumps({"do": word}).encode() + b"\n")
            found = json.loads(_line(connection))
    except (OSError, ValueError) as error:
        raise PeerUnreachableError(f"no peer that runs answers in {folder}: {error}", hint=hint) from error
    if not isinstance(found, dict) or "error" in found:
        said = found.get("error") if isinstance(found, dict) else found
        raise ConfigurationError(f"the peer in {folder} did not do it: {said}")
    return found


def _line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < LONGEST_LINE:
        chunk = connection.recv(LONGEST_LINE)
        if not chunk:
            break
        line += chunk
    return line
