"""Helper processes, started and asked: `hash_helper` is what runs in them.

Everything here blocks and is for worker threads, which wait for the answer without the interpreter's lock. Whatever
goes wrong with a helper (it cannot be started, it dies, it hangs), it is not asked again, and who asked does the work
itself: nothing is lost but time.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from ctypes import addressof, c_char
from pathlib import Path
from threading import Lock
from typing import Any, Final

import hivemind_p2p
from hivemind_p2p import telemetry
from hivemind_p2p.bt.hash_helper import LONGEST_LINE

DEADLINE: Final = 30.0
"""Seconds for an answer. A span of 64 MiB from a slow disk takes a few."""

SHARED_BYTES: Final = 32 * 1024 * 1024
"""Bytes of memory that a helper which checks pieces shares with this process: what waits to be checked, four times."""

_START: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from hivemind_p2p.bt.hash_helper import main; main(sys.argv[1:])"
)
_READ: Final = 64 * 1024

_events = telemetry.source("swarm")

Span = tuple[str, int, int, int]
"""Of a file: its path, where the span begins and ends, and how many leaves its pieces have."""

Claim = tuple[memoryview, int, int, bytes]
"""A piece: its bytes, how many there must be, how many leaves its tree has, and what it must hash to."""


class HelperError(Exception):
    """The helper is of no use any more; never leaves this package."""


class Helper:
    """One helper process. Ends with `close`, or with this process.

    Args:
        process: The process.
        connection: To and from it.

    Attributes:
        broken: Whether it is not to be asked any more.
    """

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        connection.settimeout(DEADLINE)
        self._process = process
        self._connection = connection
        self._turn = Lock()
        self.broken = False

    @property
    def process_id(self) -> int:
        """By which the system knows it."""
        return self._process.pid

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to a question; several threads ask in turns.

        Raises:
            HelperError: There is none, and there will be none to others.
        """
        with self._turn:
            if self.broken:
                raise HelperError("it is of no use any more")
            try:
                self._connection.sendall(json.dumps(question).encode() + b"\n")
                answer: dict[str, Any] = json.loads(self._line())
            except (OSError, ValueError) as error:  # a time-out is an OSError, too
                self.broken = True
                _events.debug("helper_failed", error=repr(error))
                raise HelperError(repr(error)) from error
            return answer

    def _line(self) -> bytearray:
        heard = bytearray()
        while not heard.endswith(b"\n"):
            chunk = self._connection.recv(_READ)
            if not chunk or len(heard) > LONGEST_LINE:
                raise ValueError("the helper has ended")
            heard += chunk
        return heard

    def hash(self, spans: Sequence[Span]) -> list[bytes]:
        """The layers of spans of files.

        Raises:
            HelperError: The helper does not answer.
            OSError: A file cannot be read.
            EOFError: A file is shorter than it was.
        """
        answer = self.ask({"hash": spans})
        if "error" in answer:
            number, text = answer["error"]
            raise OSError(number, text) if number else EOFError(text)
        return [bytes.fromhex(layer) for layer in answer["layers"]]

    def close(self) -> None:
        """Ends the process. Whoever waits for an answer hears that there is none."""
        self.broken = True
        self._process.kill()
        self._process.wait()
        with self._turn:
            self._connection.close()


class Checker:
    """A helper that checks pieces in memory that it shares with this process.

    Attributes:
        segments: That memory. Each is long enough for a message's payload.
    """

    def __init__(self, helper: Helper, segments: Sequence[mmap.mmap]) -> None:
        self.segments = segments
        self.helper = helper
        self._starts = {id(segment): number * len(segment) for number, segment in enumerate(segments)}
        self._addresses = {id(segment): addressof(c_char.from_buffer(segment)) for segment in segments}

    def check(self, claims: Sequence[Claim]) -> list[bool | None]:
        """Whether pieces are what they should be; None for those that the helper could not check."""
        offsets = [self._offset(data, length) for data, length, _, _ in claims]
        asked = [
            (offset, len(data), leaves, expected.hex())
            for offset, (data, _, leaves, expected) in zip(offsets, claims, strict=True)
            if offset is not None
        ]
        if not asked:
            return [None] * len(claims)
        try:
            right = iter(self.helper.ask({"check": asked})["right"])
        except HelperError:
            return [None] * len(claims)
        return [None if offset is None else next(right) is True for offset in offsets]

    def _offset(self, data: memoryview, length: int) -> int | None:
        """Where a piece lies in the shared memory; None if it lies elsewhere, or is no piece by its length alone."""
        start = self._starts.get(id(data.obj))
        if start is None or len(data) != length:
            return None
        return start + addressof(c_char.from_buffer(data)) - self._addresses[id(data.obj)]

    def close(self) -> None:
        """Ends the helper. The segments are freed once nobody uses them."""
        self.helper.close()


def start_helper() -> Helper | None:
    """A helper that hashes files; None where no process can be started."""
    try:
        return _start()
    except OSError as error:
        _events.debug("no_helper", error=repr(error))
        return None


def start_checker(*, segment_bytes: int) -> Checker | None:
    """A helper that checks pieces; None where there is no memory to share, or no process can be started.

    Args:
        segment_bytes: Bytes of the longest payload.
    """
    if not hasattr(os, "memfd_create"):
        return None
    segment_bytes = -(-segment_bytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
    count = max(2, SHARED_BYTES // segment_bytes)
    try:
        shared = os.memfd_create("hivemind-pieces", os.MFD_CLOEXEC)
    except OSError as error:
        _events.debug("no_helper", error=repr(error))
        return None
    try:
        os.ftruncate(shared, count * segment_bytes)
        segments = [mmap.mmap(shared, segment_bytes, offset=number * segment_bytes) for number in range(count)]
        return Checker(_start(shared, count * segment_bytes), segments)
    except OSError as error:
        _events.debug("no_helper", error=repr(error))
        return None
    finally:
        os.close(shared)


def _start(shared: int = -1, length: int = 0) -> Helper:
    if not sys.executable or getattr(sys, "frozen", False):
        raise OSError("this program does not know its interpreter")
    root = str(Path(hivemind_p2p.__file__).resolve().parent.parent)
    ours, theirs = socket.socketpair()
    with theirs:
        descriptors = [theirs.fileno()] + ([shared] if shared >= 0 else [])
        try:
            process = subprocess.Popen(  # noqa: S603 - this interpreter, and arguments of our own
                [sys.executable, "-I", "-S", "-c", _START, root, str(theirs.fileno()), str(shared), str(length)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except BaseException:
            ours.close()
            raise
    return Helper(process, ours)
