"""Messages on a byte stream: a protobuf header with raw bytes behind it, and one kind of frame that reports a failure.

A frame on the wire, all integers big-endian:

    offset  bytes            what
    0       1                kind: 0 is a message, 1 is a failure, which ends the conversation
    1       4                length H of the header
    5       4                length P of the payload; 0 in a failure
    9       H                a protobuf message (`hivemind.Failure` in a failure)
    9 + H   P                the payload: raw bytes, so that a tensor or a file block is never copied through protobuf

Both lengths are checked against what the reader allows before any memory is taken for them. The end of the stream
says nothing about completeness (a killed process reads as a clean end), so only whole frames count.

**Copies.** A payload is handed to the stream as it lies, and received straight into the buffer that the caller gets:
this module copies only what came along with a header, `READ_SIZE` at the most.

**Cancelling.** A cancelled `send` has either sent nothing, and the channel goes on; or has begun its frame, and then
it closes the stream, so that the other side sees a message cut off instead of garbage. A cancelled `receive` that had
read no further than the header loses nothing; one that was in the middle of a payload leaves the channel
unreadable, which the next `receive` says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

import trio
from google.protobuf.message import DecodeError, Message

from hivemind_p2p import errors
from hivemind_p2p.errors import HivemindError, ProtocolError, StreamClosedError
from hivemind_p2p.interfaces import Buffer, ByteStream, MessageType
from hivemind_p2p.proto import common_pb2
from hivemind_p2p.types import PeerId

MESSAGE: Final = 0
FAILURE: Final = 1
PREFIX: Final = struct.Struct(">BII")

MAX_HEADER: Final = 1 << 20
"""Bytes. Headers hold names, numbers and signatures; anything larger belongs in a payload."""

MAX_PAYLOAD: Final = (1 << 32) - 1
"""Bytes that the length field can name. What a reader takes is its own, much smaller, choice."""

MAX_FAILURE_TEXT: Final = 4096
"""Characters of a failure's message or hint that are sent or shown: enough for a sentence, too few for a flood."""

READ_SIZE: Final = 64 * 1024
"""Bytes asked of the stream at once while looking for a header."""


class FramedChannel:
    """Sends and receives frames over one stream; implements `hivemind_p2p.interfaces.Channel`.

    Args:
        stream: The stream, which from now on belongs to the channel.
        max_header: Bytes that a header may have, in either direction.
    """

    def __init__(self, stream: ByteStream, *, max_header: int = MAX_HEADER) -> None:
        self._stream = stream
        self._max_header = max_header
        self._send_lock = trio.Lock()
        self._unread = bytearray()
        self._receiving = False
        self._unreadable: str | None = None
        self._unwritable: str | None = None
        self._ended = False

    @property
    def remote(self) -> PeerId:
        """The authenticated peer at the other end."""
        return self._stream.remote

    @property
    def protocol(self) -> str:
        """The protocol that both sides agreed on."""
        return self._stream.protocol

    @property
    def ended(self) -> bool:
        """Whether the other side's end was read between two messages, as it is at the close of a conversation."""
        return self._ended

    async def send(self, header: Message, payload: Buffer | Sequence[Buffer] = b"") -> None:
        """Sends one frame, whole or not at all. Safe to call from several tasks.

        Args:
            header: The protobuf message.
            payload: Bytes behind it, in one buffer or several; they must not change until the call returns.

        Raises:
            StreamClosedError: The stream was closed, by either side, or has broken.
            ProtocolError: Header or payload is larger than a frame may be; nothing was sent.
        """
        await self._send_frame(MESSAGE, header.SerializeToString(), _parts(payload))

    def send_now(self, header: Message, payload: Buffer | Sequence[Buffer] = b"") -> bool:
        """Sends one frame at once, without a task switch, if nothing stands in the way; else sends nothing.

        Returns:
            Whether it was sent. If not, `send` waits for what is in the way, or tells what is wrong.
        """
        send = getattr(self._stream, "send_now", None)
        if send is None or self._send_lock.locked() or self._unwritable is not None:
            return False
        message, parts = header.SerializeToString(), _parts(payload)
        length = sum(len(part) for part in parts)
        if len(message) > self._max_header or length > MAX_PAYLOAD:
            return False
        return bool(send([PREFIX.pack(MESSAGE, len(message), length) + message, *parts]))

    async def send_failure(self, error: HivemindError) -> None:
        """Sends an error: the other side's `receive` raises the same class.

        Raises:
            StreamClosedError: The stream was closed, by either side, or has broken.
        """
        failure = common_pb2.Failure(code=error.code(), message=_printable(error.message), hint=_printable(error.hint))
        await self._send_frame(FAILURE, failure.SerializeToString(), [])

    async def receive(
        self, kind: type[MessageType], *, max_payload: int = 0, room: Callable[[int], memoryview] | None = None
    ) -> tuple[MessageType, memoryview]:
        """The next frame. One task receives at a time.

        Args:
            kind: The protobuf class of the header.
            max_payload: Bytes of payload to accept.
            room: Gives memory for exactly so many bytes of payload, for who uses it again; None takes new memory.

        Returns:
            The header, and the payload as a view of a buffer that nothing else uses.

        Raises:
            StreamClosedError: The other side ended the stream; the message says whether in mid-message.
            ProtocolError: The frame is malformed or larger than allowed.
            HivemindError: The other side sent a failure: the class that it names.
        """
        if self._receiving:
            raise trio.BusyResourceError("another task is already receiving from this channel")
        self._receiving = True
        try:
            return await self._receive(kind, max_payload, room or _new_memory)
        finally:
            self._receiving = False

    async def send_eof(self) -> None:
        """Says that nothing more will be sent.

        Raises:
            StreamClosedError: The stream was closed or has broken.
        """
        async with self._send_lock:
            if self._unwritable is not None:
                raise self._closed(self._unwritable)
            try:
                await self._stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise self._closed("could not be ended") from error

    def rest(self, resting: bool) -> None:
        """Says whether nobody waits on this channel, so that its connection need not be watched closely for it."""
        if rest := getattr(self._stream, "rest", None):
            rest(resting)

    async def aclose(self) -> None:
        """Closes the stream both ways."""
        await self._stream.aclose()

    # -- sending -----------------------------------------------------------------------------------------------------

    async def _send_frame(self, kind: int, header: bytes, payload: Sequence[memoryview]) -> None:
        length = sum(len(part) for part in payload)
        if len(header) > self._max_header:
            raise ProtocolError(f"a header of {len(header)} bytes for {self.remote} is over {self._max_header}")
        if length > MAX_PAYLOAD:
            raise ProtocolError(f"a payload of {length} bytes for {self.remote} is over {MAX_PAYLOAD}")
        start = PREFIX.pack(kind, len(header), length) + header
        await self._send_lock.acquire()
        try:
            if self._unwritable is not None:
                raise self._closed(self._unwritable)
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._write_frame(start, payload)
        finally:
            self._send_lock.release()

    async def _write_frame(self, start: bytes, payload: Sequence[memoryview]) -> None:
        whole = False
        try:
            await self._stream.send_parts([start, *payload])
            whole = True
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # Not closed here: what the other side said before it hung up, its reason perhaps, can still be read.
            whole, self._unwritable = True, "broke while sending"
            raise self._closed("broke while sending") from error
        finally:
            if not whole:
                self._unwritable = "was closed because sending a message was cut off"
                await self._close_now()

    async def _close_now(self) -> None:
        """Closes without waiting, also where this task is being cancelled."""
        with trio.CancelScope(shield=True) as scope:
            scope.cancel()
            await self._stream.aclose()

    # -- receiving ---------------------------------------------------------------------------------------------------

    async def _receive(
        self, kind: type[MessageType], max_payload: int, room: Callable[[int], memoryview]
    ) -> tuple[MessageType, memoryview]:
        if self._unreadable is not None:
            raise self._closed(self._unreadable)
        await self._fill(PREFIX.size)
        frame, header_length, payload_length = PREFIX.unpack_from(self._unread)
        self._check_prefix(frame, header_length, payload_length, max_payload)
        await self._fill(PREFIX.size + header_length)
        header = bytes(self._unread[PREFIX.size : PREFIX.size + header_length])
        del self._unread[: PREFIX.size + header_length]
        if frame == FAILURE:
            self._unreadable = "ended with a failure"
            raise self._failure(header)
        payload = await self._read_payload(room(payload_length) if payload_length else memoryview(b""))
        return self._parse(kind, header), payload

    def _check_prefix(self, frame: int, header_length: int, payload_length: int, max_payload: int) -> None:
        if frame not in (MESSAGE, FAILURE):
            raise self._malformed(f"a frame of unknown kind {frame}")
        if header_length > self._max_header:
            raise self._malformed(f"a header of {header_length} bytes, over the {self._max_header} allowed")
        allowed = max_payload if frame == MESSAGE else 0
        if payload_length > allowed:
            raise self._malformed(f"a payload of {payload_length} bytes, over the {allowed} allowed")

    def _parse(self, kind: type[MessageType], header: bytes) -> MessageType:
        message = kind()
        try:
            message.ParseFromString(header)
        except DecodeError as error:
            raise self._malformed(f"a header that is no {kind.DESCRIPTOR.name}") from error
        return message

    def _failure(self, header: bytes) -> HivemindError:
        failure = self._parse(common_pb2.Failure, header)
        message = f"peer {self.remote} answered on {self.protocol}: {_printable(failure.message)}"
        return errors.from_code(_printable(failure.code)[:64], message, _printable(failure.hint) or None)

    async def _fill(self, wanted: int) -> None:
        while len(self._unread) < wanted:
            chunk = await self._some(max(wanted - len(self._unread), READ_SIZE))
            if chunk:
                self._unread += chunk
                continue
            self._ended = not self._unread
            raise self._closed("ended between messages" if self._ended else "ended in mid-message")

    async def _read_payload(self, payload: memoryview) -> memoryview:
        length = len(payload)
        if not length:
            return payload
        filled = min(length, len(self._unread))
        payload[:filled] = self._unread[:filled]
        del self._unread[:filled]
        self._unreadable = "cannot be read on: a receive was cut off in the middle of a payload"
        while filled < length:
            count = await self._into(payload[filled:])
            if not count:
                raise self._closed("ended in mid-message")
            filled += count
        self._unreadable = None
        return payload

    async def _into(self, place: memoryview) -> int:
        try:
            return await self._stream.receive_into(place)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._closed("broke while receiving") from error

    async def _some(self, max_bytes: int) -> bytes:
        try:
            return await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._closed("broke while receiving") from error

    def _closed(self, how: str) -> StreamClosedError:
        return StreamClosedError(f"the {self.protocol} stream with peer {self.remote} {how}")

    def _malformed(self, what: str) -> ProtocolError:
        self._unreadable = "cannot be read on after a malformed message"
        return ProtocolError(f"peer {self.remote} sent {what} on {self.protocol}")


def _new_memory(length: int) -> memoryview:
    return memoryview(bytearray(length))


def _parts(payload: Buffer | Sequence[Buffer]) -> list[memoryview]:
    buffers = [payload] if isinstance(payload, (bytes, bytearray, memoryview)) else payload
    return [memoryview(buffer).cast("B") for buffer in buffers if memoryview(buffer).nbytes]


def _printable(text: str) -> str:
    """A peer's text without what could steer a terminal, cut to a sentence's length."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text[:MAX_FAILURE_TEXT])
