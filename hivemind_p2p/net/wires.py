"""The connection below the encryption: a socket, or, where a relay stands between, a libp2p stream.

Both give what arrives to a function in memory that is theirs and used again, and take what is to be sent. A socket
reads into one room that all connections of a host share, because what is read is decrypted before anybody else runs:
an idle connection holds no buffer.

Copies: none besides the system's own on a socket. A relayed connection copies once more each way.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import trio

from hivemind_p2p.net.noise_packets import ROOM_BYTES

if TYPE_CHECKING:
    from libp2p.abc import IRawConnection

READ_BYTES: Final = ROOM_BYTES
"""Bytes asked for at once: what the other side sends at once, so that no packet is cut where it is read as it comes.
More does not stay in the processor's cache."""

SPARE_ROOMS: Final = 4
"""Rooms for sending that are kept for the next one. More are in use only while as many sockets are full."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds for telling a relay that a connection is over."""

ResultType = TypeVar("ResultType")


class Rooms:
    """The memory that the connections of one host share."""

    def __init__(self) -> None:
        self._reading: memoryview | None = None
        self._spare: list[memoryview] = []

    @property
    def reading(self) -> memoryview:
        """Where a socket reads to; whoever does must be done with it before any other task runs."""
        if self._reading is None:
            self._reading = memoryview(bytearray(READ_BYTES))
        return self._reading

    def take(self) -> memoryview:
        """A room to send from, until it is given back."""
        return self._spare.pop() if self._spare else memoryview(bytearray(ROOM_BYTES))

    def give_back(self, room: memoryview) -> None:
        """Keeps the room for the next one."""
        if len(self._spare) < SPARE_ROOMS:
            self._spare.append(room)


class Wire(Protocol):
    """Bytes to and from the other machine, as they are."""

    relayed: bool

    async def receive(self, use: Callable[[memoryview], ResultType]) -> ResultType | None:
        """Calls `use` with what arrives next, and returns its result; None at the end of the connection.

        Cancelled, it has taken nothing. Raises OSError, a libp2p error or one of trio's if the connection breaks.
        """

    async def send(self, data: memoryview) -> None:
        """Sends everything. Cancelled, it may have sent a part."""

    def send_now(self, data: memoryview) -> int:
        """Sends what can be sent without waiting; how many bytes that was."""

    def cut(self) -> None:
        """Closes at once and without a word; whoever waits is told."""

    async def close(self) -> None:
        """Closes in good order. Never fails, never waits long."""


class SocketWire:
    """A TCP connection."""

    relayed = False

    def __init__(self, stream: trio.SocketStream, rooms: Rooms) -> None:
        self._socket = stream.socket
        self._rooms = rooms

    async def receive(self, use: Callable[[memoryview], ResultType]) -> ResultType | None:
        """As `Wire` says."""
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            room = self._rooms.reading
            try:
                # Not the socket's own recv_into, which lets other tasks run between reading and returning.
                size = os.readv(self._socket.fileno(), [room])
                break
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                waited = True
        result = use(room[:size]) if size else None
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return result

    async def send(self, data: memoryview) -> None:
        """As `Wire` says."""
        while data:
            data = data[await self._socket.send(data) :]

    def send_now(self, data: memoryview) -> int:
        """As `Wire` says."""
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0

    def cut(self) -> None:
        """As `Wire` says."""
        self._socket.close()

    async def close(self) -> None:
        """As `Wire` says."""
        self._socket.close()
        await trio.lowlevel.checkpoint()


class RelayedWire:
    """A connection through a relay, or anything else that is no plain socket."""

    def __init__(self, raw: IRawConnection) -> None:
        self.relayed = True
        self._raw: Any = raw
        self._reading = trio.CancelScope()
        self._cut = False

    async def receive(self, use: Callable[[memoryview], ResultType]) -> ResultType | None:
        """As `Wire` says, if cancelling a read of the stream below takes nothing either."""
        from libp2p.io.exceptions import IOException

        if self._cut:
            raise trio.ClosedResourceError
        try:
            with trio.CancelScope() as self._reading:
                data = await self._raw.read(READ_BYTES)
                return use(memoryview(data)) if data else None
        except IOException as error:
            if _is_end(error):
                return None
            raise
        raise trio.ClosedResourceError

    async def send(self, data: memoryview) -> None:
        """As `Wire` says."""
        if self._cut:
            raise trio.ClosedResourceError
        await self._raw.write(bytes(data))  # the stream below may keep it until its window opens

    def send_now(self, data: memoryview) -> int:  # noqa: ARG002 - the interface is Wire's
        """As `Wire` says: nothing, because the stream below may wait."""
        return 0

    def cut(self) -> None:
        """Ends a read that waits; the stream below is closed by `close`."""
        self._cut = True
        self._reading.cancel()

    async def close(self) -> None:
        """As `Wire` says."""
        self.cut()
        with trio.move_on_after(CLOSE_TIMEOUT):
            try:
                await self._raw.close()
            except wire_errors():
                return


def wire_of(raw: IRawConnection, rooms: Rooms) -> Wire:
    """What lies below one of libp2p's raw connections: its socket if it has one."""
    from libp2p.io.trio import TrioTCPStream

    stream = getattr(raw, "stream", None)
    # Windows has sockets that are no files.
    if isinstance(stream, TrioTCPStream) and isinstance(stream.stream, trio.SocketStream) and hasattr(os, "readv"):
        return SocketWire(stream.stream, rooms)
    return RelayedWire(raw)


def _is_end(error: BaseException) -> bool:
    """Whether a stream has ended in good order. libp2p's raw connections wrap that like everything else."""
    from libp2p.network.stream.exceptions import StreamEOF

    return isinstance(error, StreamEOF) or isinstance(error.__cause__, StreamEOF)


def wire_errors() -> tuple[type[Exception], ...]:
    """Everything that a wire raises when the connection is no more."""
    from libp2p.exceptions import BaseLibp2pError

    return (BaseLibp2pError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)
