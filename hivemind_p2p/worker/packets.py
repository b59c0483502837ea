"""What goes between the executor and its child: packets down, a stream of frames up.

**Down**: a pair of sockets that keeps packets apart, one packet a task. A child takes a packet when it starts on it,
and never before it has answered the one before. So what still lies between the two has not been started: the executor,
which keeps the child's end of the pair open too, can take it back, also after the child has died.

    kind SHARED  a part that many tasks share, with the slot of the child's table where it is to lie
    kind TASK    a task: its ticket, its shared part's slot, its flags, its memory, its type's
                 name, its payload
    kind PIECE   what does not fit one packet, in order, behind the packet that it belongs to
    kind INPUT   a file that tasks may read from now on, by its link, with an open descriptor beside it

**Up**: a pipe. Each frame is a head of fixed size, a protobuf `Report` where there is something to say, and raw bytes.
The first one is empty and says that the child is ready.

The executor trusts none of the child's lengths or numbers, since whatever runs in the child can write to the pipe.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

SHARED, TASK, PIECE, INPUT = 1, 2, 3, 4
READY, RESULT, PRINTED = 0, 1, 2

SHARED_HEAD: Final = struct.Struct(">BHQ")
"""Kind, slot, bytes in all."""

TASK_HEAD: Final = struct.Struct(">BQHBQBQ")
"""Kind, ticket, slot of the shared part, flags, bytes of memory, bytes of the type's name, bytes of the payload."""

REPLY_HEAD: Final = struct.Struct(">BQBIQddQ")
"""Kind, ticket, flags, bytes of the report, bytes of the value, wall seconds, cpu seconds, peak bytes of memory."""

WHOLE_PACKET: Final = 48 << 10
"""Bytes that travel in the packet itself; more follows in pieces of this size. A quarter of the socket's buffer."""

LARGEST_PACKET: Final = WHOLE_PACKET + 1024

LARGEST_KEPT: Final = 64 << 20
"""Bytes of a value that are held in memory; a larger one goes into a file as it comes."""

SLOTS: Final = 64
"""Shared parts that a child keeps. Slot 0 stands for none."""

INPUTS: Final = 64
"""Files that a child keeps open for its tasks; the one that came first makes room."""

STREAM_OUTPUT: Final = 1
"""Flag of a task: send what it prints while it runs."""

LEFT_SOMETHING: Final = 1
"""Flag of a result: a thread or a process is left over."""

MAX_HEADER_BYTES: Final = 256 << 10
"""Bytes of a report with its traceback and output."""

MAX_MESSAGE: Final = 2_000
"""Characters of an error's message: a sentence or two."""

MAX_TRACEBACK: Final = 32_000
"""Characters of a traceback: a few hundred frames; of a longer one the end counts."""

MAX_OUTPUT: Final = 16_000
"""Bytes of what the work printed: the end of it, for a person to read."""


class BrokenFrameError(Exception):
    """The child wrote what no child of ours writes."""


@dataclass(slots=True, eq=False)
class Reply:
    """One frame from a child, believed as far as its lengths.

    Attributes:
        path: The file that its value lies in, where that is large.
        lost: Why there is none.
        length: Bytes of that value.
    """

    kind: int
    ticket: int
    flags: int
    report: bytes
    payload: bytes
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    path: str = ""
    lost: str = ""
    length: int = 0


class Spool(Protocol):
    """A file that a large value goes into; `worker.spool` is it."""

    left: int

    def take(self, data: memoryview) -> int:
        """Takes the next bytes; how many of them were its own."""

    def finish(self) -> tuple[str, str]:
        """Where the file lies, or what went wrong."""

    def close(self) -> None:
        """Removes it: the child went in the middle of it."""


class ReplyReader:
    """Takes a child's stream apart.

    Args:
        max_payload: Bytes that a value may have.
        spool: Opens a file for a value of so many bytes; None where all are held in memory.
    """

    def __init__(self, max_payload: int, spool: Callable[[int], Spool] | None = None) -> None:
        self.max_payload = max_payload
        self._spool = spool
        self._open: tuple[Spool, Reply] | None = None
        self._unread = bytearray()

    @property
    def spooling(self) -> bool:
        """Whether a large value is coming."""
        return self._open is not None

    def close(self) -> None:
        """Nothing more will come."""
        if self._open is not None:
            self._open[0].close()
            self._open = None

    def feed(self, data: bytes) -> Iterator[Reply]:
        """The frames that are complete now.

        Raises:
            BrokenFrameError: A length is larger than any real one.
        """
        self._unread += data
        if (reply := self._fill()) is not None:
            yield reply
        unread, at, size = self._unread, 0, REPLY_HEAD.size
        while self._open is None and len(unread) - at >= size:
            kind, ticket, flags, report, payload, wall, cpu, peak = REPLY_HEAD.unpack_from(unread, at)
            if report > MAX_HEADER_BYTES or payload > self.max_payload:
                raise BrokenFrameError("it wrote a frame that is larger than any result")
            middle = at + size + report
            large = payload > LARGEST_KEPT and self._spool is not None
            if large and kind != RESULT:
                raise BrokenFrameError("it wrote more at once than anybody prints")
            end = middle if large else middle + payload
            if len(unread) < end:
                break
            reply = Reply(
                kind, ticket, flags, bytes(unread[at + size : middle]), bytes(unread[middle:end]), wall, cpu, peak
            )
            at = end
            if large:
                self._begin(reply, payload)
                del unread[:at]
                at = 0
                reply = self._fill()
            if reply is not None:
                yield reply
        del unread[:at]

    def _begin(self, reply: Reply, length: int) -> None:
        assert self._spool is not None
        reply.length = length
        self._open = self._spool(length), reply

    def _fill(self) -> Reply | None:
        """Moves what has come of a large value into its file; the reply once that is whole."""
        if self._open is None:
            return None
        spool, reply = self._open
        with memoryview(self._unread) as unread:
            taken = spool.take(unread)
        del self._unread[:taken]
        if spool.left:
            return None
        reply.path, reply.lost = spool.finish()
        self._open = None
        return reply


def shared_packets(slot: int, data: bytes) -> Iterator[bytes]:
    """A shared part."""
    head = SHARED_HEAD.pack(SHARED, slot, len(data))
    yield from _packets(head, data)


def task_packets(
    ticket: int, task_type: bytes, payload: bytes, *, slot: int, flags: int, memory_bytes: int
) -> Iterator[bytes]:
    """A task; `task_type` is the name of its type, in 255 bytes at the most."""
    head = TASK_HEAD.pack(TASK, ticket, slot, flags, memory_bytes, len(task_type), len(payload)) + task_type
    yield from _packets(head, payload)


class WithFile(bytes):
    """A packet that an open file goes with.

    Attributes:
        path: The file.
    """

    path: str


def input_packet(link: str, path: str) -> WithFile:
    """A file for tasks to read."""
    packet = WithFile(bytes((INPUT,)) + link.encode())
    packet.path = path
    return packet


def link_of(packet: bytes) -> str | None:
    """The link of the file in a packet; None where it holds something else."""
    if not packet or packet[0] != INPUT:
        return None
    return packet[1:].decode("utf-8", "replace")


def ticket_of(packet: bytes) -> int | None:
    """The ticket of the task in a packet; None where it holds something else."""
    if not packet or packet[0] != TASK:
        return None
    ticket: int = TASK_HEAD.unpack_from(packet)[1]
    return ticket


def slot_of(packet: bytes) -> int | None:
    """The slot that a packet fills; None where it holds something else."""
    if not packet or packet[0] != SHARED:
        return None
    slot: int = SHARED_HEAD.unpack_from(packet)[1]
    return slot


def _packets(head: bytes, data: bytes) -> Iterator[bytes]:
    if len(data) <= WHOLE_PACKET:
        yield head + data
        return
    yield head
    kind = bytes((PIECE,))
    for start in range(0, len(data), WHOLE_PACKET):
        yield kind + data[start : start + WHOLE_PACKET]
