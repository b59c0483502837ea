"""A libp2p stream as a `ByteStream`: safe to cancel, patient with slow readers, quick to close.

What stock libp2p streams do, and what is done about it here:

- *A cancelled write corrupts the connection*, and so does a cancelled read, which may be writing a window update.
  Both run in tasks of their own; the caller waits for them and may leave at any time.
- *A writer gives up after five seconds without a window*, which resets the stream of a slow reader. The writer here
  waits for the window before it hands a frame to libp2p, as long as its caller wants to wait. Towards a stock
  writer on the other side, what arrives is read ahead, up to `READ_AHEAD` bytes.
- *A closed stream still lets the other side send.* After `aclose` this side says its end, throws away what still
  arrives, and resets the stream once `LINGER_BYTES` or `LINGER_SECONDS` have passed. Not at once: a reset would
  overtake what was sent just before, for example the reason for closing.
- *A frame that cannot be written within `FRAME_DEADLINE`* means that the other process does not read its socket at
  all; the whole connection is given up, which is also what a half-written frame calls for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.interfaces import Buffer
from hivemind_p2p.net.background import Background
from hivemind_p2p.net.pipe import wanted_bytes
from hivemind_p2p.types import PeerId

if TYPE_CHECKING:
    from libp2p.network.stream.net_stream import NetStream

FRAME: Final = 64 * 1024 - 12
"""Bytes handed to libp2p at once: what its Yamux puts into one frame."""

READ_AHEAD: Final = 256 * 1024
"""Bytes that are held for a reader; as much again may wait in Yamux's own window."""

LINGER_SECONDS: Final = 5.0
"""Seconds that a closed stream waits for the other side's end before it is reset."""

LINGER_BYTES: Final = 64 * 1024
"""Bytes that a closed stream throws away before it is reset: a request that was refused unread, but no transfer."""

FRAME_DEADLINE: Final = 30.0
"""Seconds for one frame to leave this machine. Only a process that is stopped, or a dead link, takes as long."""

WINDOW_POLL: Final = (0.001, 0.01)
"""Seconds between looks at the window, first and later: libp2p tells nobody when it opens."""

_events = telemetry.source("transport")


@cache
def libp2p_errors() -> tuple[type[Exception], ...]:
    """Everything that libp2p's streams raise when something is wrong with the stream or its connection."""
    from libp2p.exceptions import BaseLibp2pError

    return (BaseLibp2pError, OSError, trio.BrokenResourceError, trio.ClosedResourceError, ValueError, KeyError)


class LibP2PStream:
    """One stream; implements `hivemind_p2p.interfaces.ByteStream`.

    Args:
        stream: libp2p's own stream, after both sides have agreed on the protocol.
        remote: The authenticated peer at the other end.
        protocol: The protocol agreed on.
        background: Where reads and writes run.
        give_up: Closes the whole connection, when it is of no use any more.
    """

    def __init__(
        self,
        stream: NetStream,
        *,
        remote: PeerId,
        protocol: str,
        background: Background,
        give_up: Callable[[], Awaitable[object]],
    ) -> None:
        self._stream = stream
        self._muxed: Any = stream.muxed_stream
        self._remote = remote
        self._protocol = protocol
        self._background = background
        self._give_up = give_up
        self._busy: set[str] = set()
        self._closed = self._sent_end = self._broken = False
        self._inbox: deque[memoryview] = deque()
        self._held = self._thrown_away = 0
        self._read_end = trio.Event()
        self._changed = trio.lowlevel.ParkingLot()
        self._writing: trio.Event | None = None
        background.start(self._read_ahead)

    @property
    def remote(self) -> PeerId:
        """The authenticated peer at the other end."""
        return self._remote

    @property
    def protocol(self) -> str:
        """The protocol that both sides agreed on."""
        return self._protocol

    # -- sending -----------------------------------------------------------------------------------------------------

    async def send_all(self, data: Buffer) -> None:
        """Sends everything; waits while the other side does not read.

        A cancelled call may have sent a part; `FramedChannel` closes the stream then.

        Raises:
            trio.ClosedResourceError: This side was closed or has sent its end.
            trio.BrokenResourceError: The other side is gone.
            trio.BusyResourceError: Another task is sending.
        """
        await trio.lowlevel.checkpoint()
        with self._alone("sending"):
            self._check_sendable()
            rest = memoryview(data).cast("B")
            if rest:
                await self._write_in_background(rest)

    async def send_parts(self, parts: Sequence[Buffer]) -> None:
        """Sends several buffers, one after another."""
        await self.send_all(b"".join(parts))

    async def receive_into(self, place: memoryview) -> int:
        """Puts some bytes into a buffer; their number, or 0 once the other side has sent its end."""
        data = await self.receive_some(len(place))
        place[: len(data)] = data
        return len(data)

    async def _write_in_background(self, rest: memoryview) -> None:
        write = _Write(rest)
        # A cancelled write may still be busy with its last frame: two writers would mix their frames up.
        previous, self._writing = self._writing, write.done
        if previous is not None:
            await previous.wait()
        if not self._background.start(lambda: self._write(write)):
            self._broken = True
        try:
            while not (write.done.is_set() or self._closed or self._broken):
                await self._changed.park()
        finally:
            write.abandoned = True
        if not write.whole:
            self._check_sendable()
            raise trio.BrokenResourceError(f"the transport was closed, and with it the stream with {self._remote}")

    async def _write(self, write: _Write) -> None:
        try:
            while write.rest and not write.abandoned:
                room = await self._window(write)
                part, write.rest = write.rest[:room], write.rest[room:]
                with trio.fail_after(FRAME_DEADLINE):
                    await self._stream.write(bytes(part))
        except trio.TooSlowError:
            _events.warning("peer_stalled", peer=self._remote, protocol=self._protocol)
            self._fail()
            await self._give_up()
        except libp2p_errors() as error:
            _events.debug("write_failed", peer=self._remote, protocol=self._protocol, error=repr(error))
            self._fail()
        finally:
            write.whole = not write.rest and not self._broken
            write.done.set()
            self._changed.unpark_all()

    async def _window(self, write: _Write) -> int:
        """Bytes that may be written now; waits for at least one, or until the write is abandoned (0)."""
        pause, longest = WINDOW_POLL
        while (window := int(self._muxed.send_window)) <= 0:
            if write.abandoned:
                return 0
            if self._muxed.closed or self._muxed.conn.event_shutting_down.is_set():
                raise trio.BrokenResourceError("the connection is gone")
            await trio.sleep(pause)
            pause = min(pause * 2, longest)
        return min(window, FRAME)

    def _check_sendable(self) -> None:
        if self._closed or self._sent_end:
            raise trio.ClosedResourceError("this side of the stream is closed")
        if self._broken:
            raise trio.BrokenResourceError(f"the stream with {self._remote} is broken")

    async def send_eof(self) -> None:
        """Says that nothing more will be sent; receiving goes on.

        Raises:
            trio.ClosedResourceError: This side was closed.
            trio.BrokenResourceError: The other side is gone.
            trio.BusyResourceError: Another task is sending.
        """
        await trio.lowlevel.checkpoint()
        with self._alone("sending"):
            if self._sent_end and not self._closed:
                return
            self._check_sendable()
            self._sent_end = True
            await self._background.complete(self._send_end)
            if self._broken:
                raise trio.BrokenResourceError(f"the stream with {self._remote} is broken")

    async def _send_end(self) -> None:
        if self._writing is not None:
            await self._writing.wait()
        try:
            with trio.fail_after(FRAME_DEADLINE):
                await self._stream.close_write()
        except trio.TooSlowError:
            self._fail()
            await self._give_up()
        except libp2p_errors():
            self._fail()

    # -- receiving ---------------------------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes, or ``b""`` once the other side has sent its end.

        Raises:
            trio.ClosedResourceError: This side was closed.
            trio.BrokenResourceError: The stream or its connection has broken.
            trio.BusyResourceError: Another task is receiving.
            ValueError: `max_bytes` is below one.
        """
        limit = wanted_bytes(max_bytes, READ_AHEAD)
        await trio.lowlevel.checkpoint()
        with self._alone("receiving"):
            while not (self._inbox or self._closed or self._read_end.is_set()):
                await self._changed.park()
            if self._closed:
                raise trio.ClosedResourceError("this side of the stream is closed")
            if self._inbox:
                return self._take(limit)
            if self._broken:
                raise trio.BrokenResourceError(f"the stream with {self._remote} is broken")
            return b""

    def _take(self, max_bytes: int) -> bytes:
        chunk = self._inbox.popleft()
        if len(chunk) > max_bytes:
            self._inbox.appendleft(chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        if self._held >= READ_AHEAD:
            self._changed.unpark_all()
        self._held -= len(chunk)
        return bytes(chunk)

    async def _read_ahead(self) -> None:
        from libp2p.network.stream.exceptions import StreamEOF

        try:
            while data := await self._stream.read(READ_AHEAD):
                self._keep(data)
                if self._thrown_away > LINGER_BYTES:
                    return
                while self._held >= READ_AHEAD and not self._closed:
                    await self._changed.park()
        except StreamEOF:
            pass
        except libp2p_errors() as error:
            _events.debug("read_failed", peer=self._remote, protocol=self._protocol, error=repr(error))
            self._fail()
        finally:
            self._read_end.set()
            self._changed.unpark_all()

    def _keep(self, data: bytes) -> None:
        if self._closed:
            self._thrown_away += len(data)
            return
        self._inbox.append(memoryview(data))
        self._held += len(data)
        self._changed.unpark_all()

    # -- closing -----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Closes both directions. Never fails, never waits long: what the other side has to be told is told later."""
        if not self._closed:
            self._closed = True
            self._inbox.clear()
            self._held = 0
            self._changed.unpark_all()
            self._background.start(self._finish)
        await trio.lowlevel.checkpoint()

    async def _finish(self) -> None:
        if not (self._sent_end or self._broken):
            await self._send_end()
        if not self._broken:
            with trio.move_on_after(LINGER_SECONDS):
                await self._read_end.wait()
        ended = self._read_end.is_set() and not self._broken and self._thrown_away <= LINGER_BYTES
        try:
            with trio.fail_after(FRAME_DEADLINE):
                await (self._stream.close() if ended else self._stream.reset())
        except trio.TooSlowError:
            await self._give_up()
        except libp2p_errors():
            self._fail()

    def _fail(self) -> None:
        self._broken = True
        self._changed.unpark_all()

    @contextmanager
    def _alone(self, direction: str) -> Iterator[None]:
        if direction in self._busy:
            raise trio.BusyResourceError(f"another task is already {direction} on this stream")
        self._busy.add(direction)
        try:
            yield
        finally:
            self._busy.discard(direction)


class _Write:
    """Bytes on their way into libp2p."""

    def __init__(self, rest: memoryview) -> None:
        self.rest = rest
        self.done = trio.Event()
        self.abandoned = False
        self.whole = False
