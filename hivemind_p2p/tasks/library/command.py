"""The task type ``command/1``: a program that a peer has, with its arguments. No shell takes part.

The command runs below the sandboxed child, in an empty folder of its own and under the child's limits, and ends with
it. A status other than zero is a result like any other: only the caller knows what a program means by it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hivemind_p2p.errors import HivemindError, NotSerializableError, TaskFailedError
from hivemind_p2p.tasks import reading, values
from hivemind_p2p.tasks.library.following import following
from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES

NAME: Final = "command/1"

MAX_ARGUMENTS: Final = 4096
"""Arguments of one command, the program among them."""

MAX_ARGUMENTS_BYTES: Final = 128 << 10
"""Bytes of all arguments together; Linux takes no single one that is longer."""

MAX_KEPT: Final = 16 << 20
"""Bytes of output, and of errors, that come back at least: the end of what was written."""

KEPT_PART: Final = 8
"""The part of its memory that a task's output may take, and its errors as much, where that is more."""


class CommandTask:
    """Runs what `pack` packed."""

    name = NAME

    def run(self, payload: memoryview) -> dict[str, Any]:
        """Runs the command to its end. In the sandboxed child only.

        Returns:
            ``status`` (the negative number of a signal that ended it), ``output`` and ``errors`` as bytes, and
            ``cut``: whether the beginning of one of them is missing.

        Raises:
            TaskFailedError: The payload is no command, or the program is not there or cannot be started.
        """
        arguments, given = _unpack(payload)
        with tempfile.TemporaryDirectory(prefix="command-") as folder:
            working = Path(folder, "work")
            working.mkdir()
            return run_program(arguments, given, working)


def pack(arguments: Sequence[str], given: bytes = b"") -> bytes:
    """A command as the payload of a task.

    Args:
        arguments: The program, by name or path, and its arguments.
        given: What it reads from its standard input.

    Raises:
        NotSerializableError: That is no command, or it is larger than a task can be.
    """
    if problem := problem_with(arguments, given):
        raise NotSerializableError(
            f"cannot send the command: {problem}", hint='Pass a list of texts, for example ["sort", "-n"].'
        )
    packed = {"arguments": list(arguments), "input": bytes(given)}
    try:
        return values.encode(packed, name="command", max_bytes=MAX_PAYLOAD_BYTES)
    except HivemindError as error:
        raise NotSerializableError(f"cannot send the command: {error.message}") from error


def problem_with(arguments: object, given: object = b"") -> str:
    """What is wrong with a command; empty if nothing is."""
    if not isinstance(given, bytes | bytearray | memoryview):
        return f"its input is {type(given).__name__}, not bytes"
    if not isinstance(arguments, list | tuple) or not arguments:
        return "it is no list of arguments that begins with a program"
    if len(arguments) > MAX_ARGUMENTS:
        return f"it has {len(arguments):,} arguments, more than {MAX_ARGUMENTS:,}"
    return next(filter(None, map(_argument_problem, range(len(arguments)), arguments)), "") or _size_problem(arguments)


def _argument_problem(position: int, argument: object) -> str:
    if not isinstance(argument, str):
        return f"argument {position} is {type(argument).__name__}, not text"
    if "\0" in argument or not _is_utf8(argument):
        return f"argument {position} holds what no argument can"
    return "" if argument or position else "it names no program"


def _size_problem(arguments: Sequence[str]) -> str:
    length = sum(len(argument.encode()) + 1 for argument in arguments)
    return f"its arguments have {length:,} bytes, more than {MAX_ARGUMENTS_BYTES:,}" * (length > MAX_ARGUMENTS_BYTES)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unpack(payload: memoryview) -> tuple[list[str], bytes]:
    try:
        packed = reading.decode(payload, max_bytes=MAX_PAYLOAD_BYTES)
    except HivemindError as error:
        raise TaskFailedError(f"the payload is no command: {error.message}") from error
    if not isinstance(packed, dict) or packed.keys() != {"arguments", "input"}:
        raise TaskFailedError("the payload is no command: it holds something else")
    arguments, given = packed["arguments"], packed["input"]
    if problem := problem_with(arguments, given):
        raise TaskFailedError(f"the payload is no command: {problem}")
    return list(arguments), bytes(given)


def run_program(arguments: Sequence[str], given: bytes, working: Path) -> dict[str, Any]:
    """Runs a program to its end, in `working`; its output lies beside that folder, and is printed as it comes."""
    # Files and not pipes: they take no memory, and a process that outlives the command holds nobody up.
    paths = [working.parent / name for name in ("output", "errors")]
    with paths[0].open("w+b") as output, paths[1].open("w+b") as errors, tempfile.TemporaryFile() as source:
        source.write(given)
        source.seek(0)
        try:
            with following(*paths):
                ended = subprocess.run(  # noqa: S603 - running what a caller sent is what the sandbox is for
                    list(arguments),
                    stdin=source,
                    stdout=output,
                    stderr=errors,
                    cwd=working,
                    check=False,
                )
        except OSError as error:
            reason = f"{arguments[0][:200]!r}: {error.strerror or error}"
            raise TaskFailedError(f"the peer cannot start {reason}", hint="Name a program that peers have.") from error
        kept = [_end_of(file.fileno()) for file in (output, errors)]
    cut = any(was_cut for _, was_cut in kept)
    return {"status": ended.returncode, "output": kept[0][0], "errors": kept[1][0], "cut": cut}


def _end_of(file: int) -> tuple[bytes, bool]:
    length = os.fstat(file).st_size
    start = max(0, length - most_kept())
    kept = bytearray()
    while piece := os.pread(file, length - start - len(kept), start + len(kept)):
        kept += piece
    return bytes(kept), start > 0


def most_kept() -> int:
    """Bytes of output that come back."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return MAX_KEPT if limit == resource.RLIM_INFINITY else max(MAX_KEPT, limit // KEPT_PART)
