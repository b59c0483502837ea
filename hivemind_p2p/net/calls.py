"""One connection, and one stream that speaks one of libp2p's own protocols, as libp2p hands them out.

A connection without a socket of its own is a relayed one; nothing else has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio
from google.protobuf.message import DecodeError

from hivemind_p2p import telemetry
from hivemind_p2p.errors import DeadlineExceededError, ProtocolError, StreamClosedError
from hivemind_p2p.net import libp2p_host
from hivemind_p2p.net.binary_addresses import write_varint
from hivemind_p2p.types import PeerId

if TYPE_CHECKING:
    from google.protobuf.message import Message

LARGEST_MESSAGE: Final = 4096
"""Bytes of a control message, as the circuit relay and DCUtR specifications say."""

CALL_DEADLINE: Final = 10.0
"""Seconds for opening a stream and agreeing on the protocol, or for an answer: several round trips over a relay."""

MessageType = TypeVar("MessageType", bound="Message")

_events = telemetry.source("links")


@dataclass(frozen=True, slots=True)
class Link:
    """One connection to one peer, as libp2p holds it."""

    connection: Any

    @property
    def peer(self) -> PeerId:
        """Who is at the other end."""
        return PeerId(self.connection.muxed_conn.peer_id.to_base58())

    @property
    def endpoint(self) -> tuple[str, int] | None:
        """The IP address and port of the other end; None for a relayed connection."""
        endpoint: tuple[str, int] | None = self.connection.muxed_conn.get_remote_address()
        return endpoint

    @property
    def relayed(self) -> bool:
        """Whether it leads through a relay."""
        return self.endpoint is None

    @property
    def alive(self) -> bool:
        """Whether it can still be used, as far as is known."""
        return not (self.connection.is_closed or self.connection.muxed_conn.event_shutting_down.is_set())

    @property
    def streams(self) -> int:
        """Streams that are open on it."""
        return len(self.connection.get_streams())

    async def close(self) -> None:
        """Closes it, telling the other side."""
        try:
            await self.connection.close()
        except libp2p_host.errors() as error:
            _events.debug("close_failed", peer=self.peer, error=repr(error))


class Call:
    """One stream that speaks one of libp2p's own protocols: messages behind their length, then maybe raw bytes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.kept = False

    @property
    def peer(self) -> PeerId:
        """Who is at the other end."""
        return PeerId(self._stream.muxed_conn.peer_id.to_base58())

    @property
    def endpoint(self) -> tuple[str, int] | None:
        """The IP address and port of the other end; None where the call came through a relay."""
        endpoint: tuple[str, int] | None = self._stream.muxed_conn.get_remote_address()
        return endpoint

    def keep(self) -> None:
        """Leaves the stream open when the handler returns: something else goes on using it, and closes it."""
        self.kept = True

    async def send(self, message: Message) -> None:
        """Sends one message.

        Raises:
            StreamClosedError: The other side has gone.
        """
        body = message.SerializeToString()
        await self.write(write_varint(len(body)) + body)

    async def receive(
        self, kind: type[MessageType], *, deadline: float = CALL_DEADLINE, largest: int = LARGEST_MESSAGE
    ) -> MessageType:
        """The next message; reads nothing behind it.

        Raises:
            ProtocolError: It is malformed or too large.
            StreamClosedError: The other side ended the stream.
            DeadlineExceededError: It did not come within `deadline` seconds.
        """
        try:
            with trio.fail_after(deadline):
                body = await self._exactly(await self._length(largest))
        except trio.TooSlowError as error:
            raise DeadlineExceededError(f"peer {self.peer} sent no {kind.__name__} within {deadline:g} s") from error
        try:
            return kind.FromString(body)
        except DecodeError as error:
            raise ProtocolError(f"peer {self.peer} sent a malformed {kind.__name__}") from error

    async def _length(self, largest: int) -> int:
        length = shift = 0
        while True:
            byte = (await self._exactly(1))[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if length > largest or shift > 28:
                raise ProtocolError(f"peer {self.peer} announces a message of more than {largest} bytes")
            if byte < 0x80:
                return length

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self.read(size - len(data))
            if not more:
                raise StreamClosedError(f"peer {self.peer} ended the stream in the middle of a message")
            data += more
        return data

    async def read(self, most: int) -> bytes:
        """Some bytes; none at the end.

        Raises:
            StreamClosedError: The stream broke.
        """
        from libp2p.network.stream.exceptions import StreamEOF

        try:
            return bytes(await self._stream.read(most))
        except StreamEOF:
            return b""
        except libp2p_host.errors() as error:
            raise StreamClosedError(f"the stream to {self.peer} broke: {error}") from error

    async def write(self, data: bytes) -> None:
        """Sends bytes.

        Raises:
            StreamClosedError: The stream broke.
        """
        try:
            await self._stream.write(data)
        except libp2p_host.errors() as error:
            raise StreamClosedError(f"the stream to {self.peer} broke: {error}") from error

    async def close(self) -> None:
        """Ends the stream, telling the other side; never fails."""
        try:
            with trio.move_on_after(1) as patience:
                patience.shield = True
                await self._stream.close()
        except libp2p_host.errors() as error:
            _events.debug("close_failed", peer=self.peer, error=repr(error))

    async def reset(self) -> None:
        """Breaks the stream; never fails."""
        try:
            with trio.move_on_after(1) as patience:
                patience.shield = True
                await self._stream.reset()
        except libp2p_host.errors() as error:
            _events.debug("reset_failed", peer=self.peer, error=repr(error))
