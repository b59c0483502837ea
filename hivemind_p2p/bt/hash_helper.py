"""What a helper process does: it hashes, for a peer whose own process has other things to do.

Participants: the peer (`helpers.py`), which asks, and this process, which it has started and which ends with it.
Messages: lines of JSON over a socket, one answer a question, in the order of the questions.

    {"check": [[offset, length, leaves, expected], …]}   -> {"right": [true, …]}
    {"hash": [[path, start, stop, leaves], …]}           -> {"layers": ["…", …]}
    a file that cannot be read                           -> {"error": [errno, text]}; 0 for one that is shorter

    Offsets are in the memory that both processes see. Hashes are hexadecimal.
Goals: SHA-256 beside the peer's event loop. In a thread of the same process the two get in each other's way: hashing
    lets go of the interpreter's lock and takes it again for every 16 KiB.
Non-goals: writing anything; knowing what a content is.

Loads nothing but the standard library and `hashing`: it is ready after some 25 ms and takes 10 MiB of memory.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import signal
import sys
from collections.abc import Sequence

from hivemind_p2p.bt.hashing import hash_mapped, verify_piece

TYPE_CHECKING = False  # it is ready the sooner the less it imports
if TYPE_CHECKING:
    from typing import Any, BinaryIO

LONGEST_LINE = 64 * 1024 * 1024
"""Bytes of a question or an answer: the layers of one span of the smallest pieces take some 300 KiB."""


def answer(question: dict[str, Any], memory: memoryview) -> dict[str, Any]:
    """The answer to one question.

    Args:
        question: What was asked.
        memory: What both processes see; empty if they share none.
    """
    if "check" in question:
        return {"right": [_check(memory, *piece) for piece in question["check"]]}
    try:
        return {"layers": [_hash(*span) for span in question["hash"]]}
    except EOFError as error:
        return {"error": [0, str(error)]}
    except OSError as error:
        return {"error": [error.errno or errno.EIO, error.strerror or str(error)]}


def _check(memory: memoryview, offset: int, length: int, leaves: int, expected: str) -> bool:
    return verify_piece(memory[offset : offset + length], bytes.fromhex(expected), leaves=leaves)


def _hash(path: str, start: int, stop: int, leaves: int) -> str:
    return hash_mapped(path, start=start, stop=stop, leaves=leaves).hex()


def serve(questions: BinaryIO, answers: BinaryIO, memory: memoryview) -> None:
    """Answers until the other side has closed its socket."""
    while line := questions.readline(LONGEST_LINE):
        answers.write(json.dumps(answer(json.loads(line), memory)).encode() + b"\n")
        answers.flush()


def main(arguments: Sequence[str]) -> None:
    """The process.

    Args:
        arguments: The descriptors of the socket and of the shared memory, and the bytes of that; -1 and 0 for none.
    """
    # Ctrl-C reaches every process of a terminal; this one ends when the peer does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, shared, length = map(int, arguments)
    memory = memoryview(b"")
    if shared >= 0:
        memory = memoryview(mmap.mmap(shared, length, prot=mmap.PROT_READ))
        os.close(shared)
    with open(descriptor, "rb") as questions, open(descriptor, "wb", closefd=False) as answers:
        serve(questions, answers, memory)


if __name__ == "__main__":
    main(sys.argv[1:])
