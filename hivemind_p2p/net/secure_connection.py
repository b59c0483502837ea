"""An encrypted connection for libp2p: Noise packets over a socket, or over a relayed stream.

Participants: the muxer, which sends and receives; before it, libp2p's negotiation of a muxer.

Messages: those of `noise_packets`.

Goals: as few system calls and copies as the wire format allows; a cancelled `receive` loses nothing; a connection
that cannot go on says why, and goes on to say so.

Non-goals: several tasks that send at once (a muxer has one writer). The handshake: `noise_transport`.

libp2p is loaded with this module, so only what opens a transport imports it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import trio
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID

from hivemind_p2p import telemetry
from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.identity import public_key_of
from hivemind_p2p.interfaces import Buffer
from hivemind_p2p.net.noise import Agreed
from hivemind_p2p.net.noise_packets import Decryptor, Encryptor
from hivemind_p2p.net.seldom import Seldom
from hivemind_p2p.net.wires import Rooms, Wire, wire_errors

if TYPE_CHECKING:
    from libp2p.connection_types import ConnectionType
    from libp2p.crypto.keys import KeyPair, PrivateKey, PublicKey
    from multiaddr import Multiaddr

_refused_packets = Seldom(telemetry.source("noise"), "packet_refused", "packets_refused")


class SecureConnection(ISecureConn):  # type: ignore[misc]
    """One encrypted connection: `receive` and `send` for a muxer, `read` and `write` as libp2p wants them.

    Attributes:
        remote: The peer at the other end, authenticated.
        relayed: Whether something other than a plain socket lies below.
        is_initiator: Whether this side dialled.
    """

    def __init__(self, raw: IRawConnection, wire: Wire, agreed: Agreed, key_pair: KeyPair, rooms: Rooms) -> None:
        self.remote = agreed.remote
        self.relayed = wire.relayed
        self.is_initiator = raw.is_initiator
        self._raw: Any = raw
        self._wire = wire
        self._key_pair = key_pair
        self._rooms = rooms
        self._encryptor = Encryptor(agreed.sending, aes=agreed.aes)
        self._decryptor = Decryptor(agreed.receiving, aes=agreed.aes)
        self._undecrypted = agreed.rest
        self._left: deque[memoryview] = deque()
        self._unread = memoryview(b"")
        self._write_lock = trio.Lock()
        self._sending = self._ended = self._closed = False
        self._failure = ""

    # -- for a muxer -------------------------------------------------------------------------------------------------

    async def receive(self) -> Buffer:
        """All plaintext that one read of the connection gives; ``b""`` at its end.

        One task at a time. A cancelled call has taken nothing.

        Raises:
            trio.BrokenResourceError: The connection broke, was cut off in a packet, or brought a forged one.
            trio.ClosedResourceError: This side was closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._unread:
            unread, self._unread = self._unread, memoryview(b"")
            await trio.lowlevel.cancel_shielded_checkpoint()
            return unread
        while True:
            self._check_open()
            plaintext = await self._receive_once()
            if plaintext or self._ended:
                return plaintext
            await trio.lowlevel.checkpoint()  # a packet's beginning, or an empty one: others may go first

    async def _receive_once(self) -> Buffer:
        try:
            if self._undecrypted:
                rest, self._undecrypted = self._undecrypted, b""
                return self._decryptor.decrypt(rest)
            plaintext = None if self._ended else await self._wire.receive(self._decryptor.decrypt)
        except ProtocolError as error:
            _refused_packets.tell(peer=self.remote, error=error.message)
            self._fail(f"peer {self.remote} sent what it cannot have encrypted: {error.message}")
            raise trio.BrokenResourceError(self._failure) from error
        except wire_errors() as error:
            self._fail(f"the connection with {self.remote} broke")
            self._check_open(error)
        if plaintext is not None:
            return plaintext
        self._ended = True
        if self._decryptor.in_packet:
            self._fail(f"the connection with {self.remote} ended in the middle of a packet")
            self._check_open()
        return b""

    async def send(self, parts: Sequence[Buffer]) -> None:
        """Encrypts and sends the parts as if they were one. One task at a time.

        A call that is cancelled before it began has sent nothing; later, it breaks the connection.

        Raises:
            trio.BrokenResourceError: The connection is broken.
            trio.ClosedResourceError: This side was closed.
            trio.BusyResourceError: Another task is sending.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        if self._sending or self._left:
            raise trio.BusyResourceError("another task is already sending on this connection")
        self._sending = True
        room = self._rooms.take()
        try:
            for packets in self._encryptor.encrypt(parts, room):
                await self._wire.send(packets)
        except wire_errors() as error:
            self._fail(f"the connection with {self.remote} broke")
            self._check_open(error)
        except BaseException:
            self._fail(f"sending to {self.remote} was cut off")
            raise
        finally:
            self._sending = False
            self._rooms.give_back(room)

    def send_now(self, parts: Sequence[Buffer]) -> bool:
        """Encrypts the parts and sends what the system takes without waiting; `drain` sends the rest.

        What was encrypted is not needed any more, so the parts' memory is the caller's again.

        Returns:
            Whether nothing is left. Until `drain` has returned, nothing more may be sent.

        Raises:
            trio.BrokenResourceError: The connection is broken.
            trio.ClosedResourceError: This side was closed.
            trio.BusyResourceError: Something is left from before.
        """
        self._check_open()
        if self._sending or self._left:
            raise trio.BusyResourceError("what was sent before has not left yet")
        room = self._rooms.take()
        try:
            for packets in self._encryptor.encrypt(parts, room):
                self._send_or_keep(packets)
        except wire_errors() as error:
            self._fail(f"the connection with {self.remote} broke")
            self._check_open(error)
        except ProtocolError as error:
            self._fail(f"nothing can be sent to {self.remote} any more: {error.message}")
            self._check_open(error)
        finally:
            self._rooms.give_back(room)
        return not self._left

    def _send_or_keep(self, packets: memoryview) -> None:
        sent = 0 if self._left else self._wire.send_now(packets)
        if sent < len(packets):
            self._left.append(memoryview(bytes(packets[sent:])))

    async def drain(self) -> None:
        """Sends what `send_now` has left. Cancelled, it breaks the connection.

        Raises:
            trio.BrokenResourceError: The connection is broken.
            trio.ClosedResourceError: This side was closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            while self._left:
                self._check_open()
                await self._wire.send(self._left[0])
                self._left.popleft()
        except wire_errors() as error:
            self._fail(f"the connection with {self.remote} broke")
            self._check_open(error)
        except BaseException:
            self._fail(f"sending to {self.remote} was cut off")
            raise

    def cut(self) -> None:
        """Closes the socket at once and without a word; whoever waits is told. A relayed one needs `close`, too."""
        self._closed = True
        self._wire.cut()

    def _fail(self, failure: str) -> None:
        if not (self._failure or self._closed):
            self._failure = failure
        self._wire.cut()

    def _check_open(self, cause: Exception | None = None) -> None:
        if self._failure:
            raise trio.BrokenResourceError(self._failure) from cause
        if self._closed:
            raise trio.ClosedResourceError(f"the connection with {self.remote} is closed") from cause

    # -- for libp2p --------------------------------------------------------------------------------------------------

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes, or fewer at the end of the connection; all that is there if `n` is None.

        Raises:
            ConnectionClosedError: Nothing is left to read.
        """
        if n == 0:
            return b""
        taken = bytearray()
        while not taken or (n is not None and len(taken) < n):
            try:
                plaintext = memoryview(await self.receive())
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionClosedError(str(error)) from error
            if not plaintext:
                break
            wanted = len(plaintext) if n is None else n - len(taken)
            taken += plaintext[:wanted]
            self._unread = plaintext[wanted:]
        if not taken:
            raise ConnectionClosedError(f"the connection with {self.remote} has ended")
        return bytes(taken)

    async def write(self, data: bytes) -> None:
        """Sends everything, after whoever is sending now.

        Raises:
            ConnectionClosedError: The connection is closed or broken.
        """
        async with self._write_lock:
            try:
                await self.send([data])
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionClosedError(str(error)) from error

    async def close(self) -> None:
        """Closes both directions. Never fails, never waits long."""
        self._closed = True
        await self._wire.close()

    def get_local_peer(self) -> ID:
        """Who this peer is."""
        return ID.from_pubkey(self._key_pair.public_key)

    def get_local_private_key(self) -> PrivateKey:
        """This peer's identity key."""
        return self._key_pair.private_key

    def get_remote_peer(self) -> ID:
        """Who is at the other end."""
        return ID.from_base58(self.remote)

    def get_remote_public_key(self) -> PublicKey:
        """The identity key of the peer at the other end."""
        return Ed25519PublicKey.from_bytes(public_key_of(self.remote))

    def get_remote_address(self) -> tuple[str, int] | None:
        """The other machine's address and port, if there is such a thing."""
        address: tuple[str, int] | None = self._raw.get_remote_address()
        return address

    def get_transport_addresses(self) -> list[Multiaddr]:
        """The addresses that the connection below was made with."""
        addresses: list[Multiaddr] = self._raw.get_transport_addresses()
        return addresses

    def get_connection_type(self) -> ConnectionType:
        """Whether the connection below is direct or relayed."""
        return self._raw.get_connection_type()
