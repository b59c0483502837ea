"""One stream of a connection, with two faces: a `ByteStream` for this package, a muxed stream for libp2p.

Cancelling any call harms neither the stream nor the connection: what is sent is encrypted and handed to the system
without waiting in between, and a caller waits only before that, for the window or for the socket. A cancelled
`send_all` may have sent a part.

A closed stream still lets the other side send for a while: after `aclose` this side says its end, throws away what
arrives, and resets the stream once `yamux.LINGER_BYTES` or `muxed_connection.LINGER_SECONDS` have passed. Not at
once: a reset would overtake what was sent just before, for example the reason for closing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Self

import trio
from libp2p.abc import IMuxedStream
from libp2p.stream_muxer.exceptions import MuxedStreamClosed, MuxedStreamEOF, MuxedStreamReset

from hivemind_p2p.interfaces import Buffer
from hivemind_p2p.net.pipe import wanted_bytes
from hivemind_p2p.net.yamux_limits import LARGEST_FRAME
from hivemind_p2p.net.yamux_streams import Stream
from hivemind_p2p.types import PeerId

if TYPE_CHECKING:
    from types import TracebackType

    from hivemind_p2p.net.muxed_connection import MuxedConnection

READ_BYTES: Final = 256 * 1024
"""Bytes that `receive_some` gives at the most where its caller names no number."""

TURN_BYTES: Final = 512 * 1024
"""Bytes that a sender sends before it lets other tasks run."""


class MuxedStream(IMuxedStream):  # type: ignore[misc]  # libp2p is not type-checked
    """One stream; made by `MuxedConnection`.

    Attributes:
        protocol: What both sides have agreed on; empty until they have.
        resting: Whether nobody waits on it, as its user has said.
    """

    def __init__(self, connection: MuxedConnection, state: Stream) -> None:
        self.muxed_conn = connection
        self.protocol = ""
        self._connection = connection
        self._session = connection.session
        self._state = state
        self._news = trio.lowlevel.ParkingLot()
        self._sending = self._receiving = self._closed = False
        self.resting = False
        state.owner = self

    @property
    def remote(self) -> PeerId:
        """The authenticated peer at the other end."""
        return self._connection.remote

    @property
    def stream_id(self) -> int:
        """Its number on the connection."""
        return self._state.id

    @property
    def relayed(self) -> bool:
        """Whether a relay stands between."""
        return self._connection.relayed

    @property
    def rivals(self) -> int:
        """Streams on the same connection that the other side has opened, and on which nothing was said here yet."""
        return self._session.to_answer

    def rest(self, resting: bool) -> None:
        """Says whether nobody waits on this stream; see `MuxedConnection.in_use`."""
        self.resting = resting

    def notice(self) -> None:
        """Lets whoever waits look again. Called by the connection."""
        self._news.unpark_all()

    # -- sending -----------------------------------------------------------------------------------------------------

    async def send_all(self, data: Buffer) -> None:
        """Sends everything; waits while the other side does not read.

        Raises:
            trio.ClosedResourceError: This side was closed or has sent its end.
            trio.BrokenResourceError: The other side is gone.
            trio.BusyResourceError: Another task is sending.
        """
        await self.send_parts([data])

    async def send_parts(self, parts: Sequence[Buffer]) -> None:
        """Sends several buffers as if they were one, without putting them together first.

        Raises:
            trio.ClosedResourceError: This side was closed or has sent its end.
            trio.BrokenResourceError: The other side is gone.
            trio.BusyResourceError: Another task is sending.
        """
        if self._sending:
            raise trio.BusyResourceError("another task is already sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            views = [view for part in parts if (view := memoryview(part).cast("B"))]
            await self._send(views)
        finally:
            self._sending = False

    def send_now(self, parts: Sequence[Buffer]) -> bool:
        """Sends several buffers at once, without a task switch, if nothing stands in the way; else sends nothing.

        Returns:
            Whether they were sent. If not, `send_parts` waits for what is in the way, or tells what is wrong.
        """
        state = self._state
        if self._sending or self._closed or state.end_sent or state.reset or self._connection.crowded:
            return False
        views = [view for part in parts if (view := memoryview(part).cast("B"))]
        if sum(map(len, views)) > min(self._session.sendable(state), LARGEST_FRAME):
            return False
        self._session.send(state, views)
        self._connection.flush()
        return True

    async def _send(self, views: list[memoryview]) -> None:
        this_turn = 0
        while views:
            await self._wait_sendable()
            sent = self._session.send(self._state, views)
            self._connection.flush()
            views = _behind(views, sent)
            this_turn += sent
            if views and this_turn >= TURN_BYTES:
                this_turn = 0
                await trio.lowlevel.checkpoint()

    async def _wait_sendable(self) -> None:
        has_turn = False
        while True:
            self._check_sendable()
            if not self._session.sendable(self._state):
                await self._news.park()
                has_turn = False
            elif self._connection.blocked or (self._connection.crowded and not has_turn):
                await self._connection.wait_turn()
                has_turn = True
            else:
                return

    def _check_sendable(self) -> None:
        if self._closed or self._state.end_sent:
            raise trio.ClosedResourceError("this side of the stream is closed")
        self._check_alive()

    def _check_alive(self) -> None:
        if self._state.reset:
            reason = self._connection.failure or self._state.reason or "the other side has reset it"
            raise trio.BrokenResourceError(f"the stream with {self.remote} is broken: {reason}")

    async def send_eof(self) -> None:
        """Says that nothing more will be sent; receiving goes on.

        Raises:
            trio.ClosedResourceError: This side was closed.
            trio.BrokenResourceError: The other side is gone.
            trio.BusyResourceError: Another task is sending.
        """
        if self._sending:
            raise trio.BusyResourceError("another task is already sending on this stream")
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError("this side of the stream is closed")
        if self._state.end_sent:
            return
        self._check_alive()
        self._session.end(self._state)
        self._connection.flush()

    # -- receiving ---------------------------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes, or ``b""`` once the other side has sent its end.

        Raises:
            trio.ClosedResourceError: This side was closed.
            trio.BrokenResourceError: The stream or its connection has broken.
            trio.BusyResourceError: Another task is receiving.
            ValueError: `max_bytes` is below one.
        """
        limit = wanted_bytes(max_bytes, READ_BYTES)
        if not await self._wait_readable():
            return b""
        data = self._session.read(self._state, limit)
        self._connection.flush()
        return data

    async def receive_into(self, place: memoryview) -> int:
        """Puts some bytes where they are to lie; their number, or 0 once the other side has sent its end.

        Raises:
            trio.ClosedResourceError: This side was closed.
            trio.BrokenResourceError: The stream or its connection has broken.
            trio.BusyResourceError: Another task is receiving.
            ValueError: `place` has no room.
        """
        wanted_bytes(len(place), READ_BYTES)
        if not await self._wait_readable():
            return 0
        count = self._session.read_into(self._state, place)
        self._connection.flush()
        return count

    def unread(self, data: bytes) -> None:
        """Puts bytes back that were received, to be received again."""
        self._session.unread(self._state, data)

    async def _wait_readable(self) -> bool:
        """Waits until there is something to read; False at the end."""
        if self._receiving:
            raise trio.BusyResourceError("another task is already receiving from this stream")
        self._receiving = True
        state = self._state
        try:
            if state.unread or state.over or self._closed:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
            while not state.unread:
                if self._closed:
                    raise trio.ClosedResourceError("this side of the stream is closed")
                if state.end_received:
                    return False
                self._check_alive()
                self._session.announce(state)
                self._connection.flush()
                await self._news.park()
        finally:
            self._receiving = False
        return True

    # -- closing -----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Closes both directions. Never fails, never waits."""
        self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._session.abandon(self._state)
        self._connection.flush()
        if not self._state.over:
            self._connection.linger(self._state)
        self.notice()

    def abort(self) -> None:
        """Breaks the stream for both sides, at once."""
        self._closed = True
        self._session.reset(self._state)
        self._connection.flush()
        self.notice()

    # -- for libp2p --------------------------------------------------------------------------------------------------

    async def read(self, n: int | None = None) -> bytes:
        """Some bytes, `n` at the most.

        Raises:
            MuxedStreamEOF: The other side has sent its end.
            MuxedStreamReset: The stream has broken, or was closed here.
        """
        if n == 0:
            return b""
        try:
            data = await self.receive_some(None if n is None or n < 0 else n)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise MuxedStreamReset(str(error)) from error
        if not data:
            raise MuxedStreamEOF("the other side has sent its end")
        return data

    async def write(self, data: bytes) -> None:
        """Sends everything.

        Raises:
            MuxedStreamClosed: This side has sent its end.
            MuxedStreamReset: The stream has broken.
        """
        try:
            await self.send_all(data)
        except trio.ClosedResourceError as error:
            raise MuxedStreamClosed(str(error)) from error
        except trio.BrokenResourceError as error:
            raise MuxedStreamReset(str(error)) from error

    async def close_write(self) -> None:
        """Says that nothing more will be sent."""
        try:
            await self.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def close(self) -> None:
        """Closes both directions."""
        await self.aclose()

    async def reset(self) -> None:
        """Breaks the stream."""
        self.abort()
        await trio.lowlevel.checkpoint()

    def set_deadline(self, ttl: int) -> bool:  # noqa: ARG002 - the interface is libp2p's
        """Not offered: a caller's own cancel scope does this better."""
        return False

    def get_remote_address(self) -> tuple[str, int] | None:
        """The other machine's address and port, if there is such a thing."""
        return self._connection.get_remote_address()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


def _behind(views: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of the views once so many bytes are gone from their front."""
    for index, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[index + 1 :]] if sent else views[index:]
        sent -= len(view)
    return []
