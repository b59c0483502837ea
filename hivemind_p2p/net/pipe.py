"""Byte streams inside one process: bounded, in order, with the delays of a link. `memory` and `router` build on them.

A `Pipe` carries bytes one way. What is sent travels in segments, each with the time of its arrival; the reader waits
for that time. All waiting is trio's, so a mock clock makes it instant and exact.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

import trio

from hivemind_p2p.interfaces import Buffer
from hivemind_p2p.types import PeerId

WINDOW: Final = 256 * 1024
"""Bytes on their way or unread in one direction of a stream; Yamux starts with the same window."""

SEGMENT: Final = 64 * 1024
"""Bytes that arrive together at most, so that a large write does not arrive all at its end."""


def wanted_bytes(max_bytes: int | None, default: int) -> int:
    """What a reader asks for.

    Raises:
        ValueError: It is below one.
        TypeError: It is no integer.
    """
    if max_bytes is None:
        return default
    if operator.index(max_bytes) < 1:
        raise ValueError("max_bytes must be at least 1")
    return max_bytes


class Link(Protocol):
    """What a pipe asks of the link it runs over."""

    @property
    def blocked(self) -> bool:
        """Whether nothing passes at present."""

    def arrival(self, size: int) -> float:
        """When `size` bytes that are sent now arrive, in trio's time."""

    def loses(self) -> bool:
        """Whether the stream breaks on this write."""


class Wire:
    """The best link there is: no delay, no loss."""

    blocked = False

    def arrival(self, size: int) -> float:  # noqa: ARG002 - the interface is Link's
        """At once."""
        return trio.current_time()

    def loses(self) -> bool:
        """Never."""
        return False


class Pipe:
    """One direction of a stream."""

    def __init__(self, link: Link, window: int = WINDOW) -> None:
        self.link = link
        self._window = window
        self._segments: deque[tuple[float, memoryview]] = deque()
        self._unread = 0
        self._ends_at: float | None = None
        self._broken = False
        self._writer_closed = False
        self._reader_closed = False
        self._arrivals = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    async def send(self, data: Buffer) -> None:
        """Sends everything; waits while the window is full.

        Raises:
            trio.ClosedResourceError: This side has said that it ends.
            trio.BrokenResourceError: The other side will not read this.
        """
        rest = memoryview(data).cast("B")
        while True:
            self._check_writer()
            room = min(self._window - self._unread, SEGMENT)
            if not rest:
                return
            if room <= 0:
                await self._room.park()
                continue
            part, rest = rest[:room], rest[room:]
            self._put(part)

    def _put(self, part: memoryview) -> None:
        self._segments.append((self.link.arrival(len(part)), memoryview(bytes(part))))
        self._unread += len(part)
        self.wake()

    def _check_writer(self) -> None:
        if self._writer_closed:
            raise trio.ClosedResourceError("this side of the stream is closed")
        if self._broken or self._reader_closed:
            raise trio.BrokenResourceError("the other side of the stream is gone")

    async def receive(self, max_bytes: int) -> bytes:
        """Some bytes, or ``b""`` at the end.

        Raises:
            trio.ClosedResourceError: This side was closed.
            trio.BrokenResourceError: The stream has broken.
        """
        while True:
            self._check_reader()
            next_at = self._segments[0][0] if self._segments else self._ends_at
            if next_at is None or self.link.blocked:
                await self._arrivals.park()
            elif next_at > trio.current_time():
                with trio.CancelScope(deadline=next_at):
                    await self._arrivals.park()
            else:
                return self._take(max_bytes)

    def _take(self, max_bytes: int) -> bytes:
        if not self._segments:
            return b""
        arrived_at, segment = self._segments.popleft()
        if len(segment) > max_bytes:
            self._segments.appendleft((arrived_at, segment[max_bytes:]))
        taken = bytes(segment[:max_bytes])
        self._unread -= len(taken)
        self._room.unpark_all()
        return taken

    def _check_reader(self) -> None:
        if self._reader_closed:
            raise trio.ClosedResourceError("this side of the stream is closed")
        if self._broken:
            raise trio.BrokenResourceError("the stream has broken")

    def end(self) -> None:
        """Says that nothing more will be sent; what is on its way still arrives."""
        self._writer_closed = True
        if self._ends_at is None:
            self._ends_at = self.link.arrival(0)
        self.wake()

    def close_reader(self) -> None:
        """Says that nothing more will be read."""
        self._reader_closed = True
        self._segments.clear()
        self.wake()

    def fail(self) -> None:
        """Breaks the pipe for both sides; what is on its way is lost."""
        self._broken = True
        self._segments.clear()
        self.wake()

    def wake(self) -> None:
        """Lets both sides look again."""
        self._arrivals.unpark_all()
        self._room.unpark_all()


class PipeStream:
    """One end of a two-way stream; implements `hivemind_p2p.interfaces.ByteStream`."""

    def __init__(self, incoming: Pipe, outgoing: Pipe, *, remote: PeerId, protocol: str) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._remote = remote
        self._protocol = protocol
        self._busy: set[str] = set()
        self._closed = False

    @property
    def remote(self) -> PeerId:
        """The peer at the other end."""
        return self._remote

    @property
    def protocol(self) -> str:
        """The protocol that the stream was opened under."""
        return self._protocol

    @contextmanager
    def _alone(self, direction: str) -> Iterator[None]:
        if direction in self._busy:
            raise trio.BusyResourceError(f"another task is already {direction} on this stream")
        self._busy.add(direction)
        try:
            yield
        finally:
            self._busy.discard(direction)

    async def send_all(self, data: Buffer) -> None:
        """Sends everything; waits while the other side does not read.

        Raises:
            trio.ClosedResourceError: This side was closed or has sent its end.
            trio.BrokenResourceError: The other side is gone.
            trio.BusyResourceError: Another task is sending.
        """
        await self.send_parts([data])

    async def send_parts(self, parts: Sequence[Buffer]) -> None:
        """Sends several buffers as if they were one.

        Raises:
            trio.ClosedResourceError: This side was closed or has sent its end.
            trio.BrokenResourceError: The other side is gone.
            trio.BusyResourceError: Another task is sending.
        """
        await trio.lowlevel.checkpoint()
        with self._alone("sending"):
            if self._closed:
                raise trio.ClosedResourceError("this side of the stream is closed")
            if self._outgoing.link.loses():
                self.reset()
            for part in parts or [b""]:
                await self._outgoing.send(part)

    def reset(self) -> None:
        """Breaks the stream for both sides; what is on its way is lost."""
        self._incoming.fail()
        self._outgoing.fail()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes, or ``b""`` once the other side has sent its end.

        Raises:
            trio.ClosedResourceError: This side was closed.
            trio.BrokenResourceError: The stream has broken.
            trio.BusyResourceError: Another task is receiving.
            ValueError: `max_bytes` is below one.
        """
        limit = wanted_bytes(max_bytes, SEGMENT)
        await trio.lowlevel.checkpoint()
        with self._alone("receiving"):
            return await self._incoming.receive(limit)

    async def receive_into(self, place: memoryview) -> int:
        """Puts some bytes into a buffer; their number, or 0 once the other side has sent its end.

        Raises:
            trio.ClosedResourceError: This side was closed.
            trio.BrokenResourceError: The stream has broken.
            trio.BusyResourceError: Another task is receiving.
            ValueError: The buffer has no room.
        """
        data = await self.receive_some(len(place))
        place[: len(data)] = data
        return len(data)

    async def send_eof(self) -> None:
        """Says that nothing more will be sent; receiving goes on."""
        await trio.lowlevel.checkpoint()
        with self._alone("sending"):
            if self._closed:
                raise trio.ClosedResourceError("this side of the stream is closed")
            self._outgoing.end()

    def hang_up(self) -> None:
        """Closes both directions at once, as the end of a process does."""
        self._closed = True
        self._outgoing.end()
        self._incoming.close_reader()

    def wake(self) -> None:
        """Lets whoever waits on either direction look again."""
        self._incoming.wake()
        self._outgoing.wake()

    async def aclose(self) -> None:
        """Closes both directions. Never fails, never waits long."""
        self.hang_up()
        await trio.lowlevel.checkpoint()


def stream_pair(
    first: PeerId, second: PeerId, protocol: str, *, there: Link | None = None, back: Link | None = None
) -> tuple[PipeStream, PipeStream]:
    """Two ends of a new stream: the one that `first` holds, and the one that `second` holds.

    Args:
        first: The peer that opens the stream.
        second: The peer that it is opened to.
        protocol: What they speak on it.
        there: The link from `first` to `second`; by default without delay.
        back: The link the other way.
    """
    forth_pipe, back_pipe = Pipe(there or Wire()), Pipe(back or Wire())
    opened = PipeStream(back_pipe, forth_pipe, remote=second, protocol=protocol)
    accepted = PipeStream(forth_pipe, back_pipe, remote=first, protocol=protocol)
    return opened, accepted
