"""Encrypted connections for libp2p: Noise over a socket, or over a relayed stream.

Participants: libp2p's swarm, which dials and accepts; the muxer, which sends and receives.

Messages: those of `noise` and `noise_packets`.

Goals: as few system calls and copies as the wire format allows; a cancelled `receive` loses nothing; a connection
that cannot go on says why, and goes on to say so; a handshake that is not done in time is over.

Non-goals: several tasks that send at once (a muxer has one writer).

    host = libp2p.new_host(key_pair=..., sec_opt={TProtocol(transport.protocol): transport})

libp2p is loaded with this module, so only what opens a transport imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import trio
from libp2p.abc import IRawConnection, ISecureConn, ISecureTransport
from libp2p.crypto.ed25519 import Ed25519PublicKey, create_new_key_pair
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure

from hivemind_p2p import telemetry
from hivemind_p2p.errors import HandshakeError, NetworkError, ProtocolError
from hivemind_p2p.identity import Identity, public_key_of
from hivemind_p2p.interfaces import Buffer
from hivemind_p2p.net.noise import PRIVATE_PROTOCOL, PROTOCOL, Agreed, Handshake, StaticKey, shared_key
from hivemind_p2p.net.noise_packets import Decryptor, Encryptor
from hivemind_p2p.net.wires import CLOSE_TIMEOUT, Rooms, Wire, wire_errors, wire_of
from hivemind_p2p.types import PeerId

if TYPE_CHECKING:
    from libp2p.connection_types import ConnectionType
    from libp2p.crypto.keys import KeyPair, PrivateKey, PublicKey
    from multiaddr import Multiaddr

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for the three messages: two slow round trips, with a relay between, take less than two."""

_events = telemetry.source("noise")


class NoiseTransport(ISecureTransport):  # type: ignore[misc]  # libp2p is not type-checked
    """Makes raw connections secure ones; libp2p's extension point for that.

    Args:
        identity: Who this peer is.
        secret: What the peers of a private hive share; None for one that is open. With it this transport speaks
            `PRIVATE_PROTOCOL` instead of `PROTOCOL`, so that strangers and members have no protocol in common.

    Raises:
        ConfigurationError: The secret is too short.
    """

    def __init__(self, identity: Identity, secret: bytes | None = None) -> None:
        self.protocol = PROTOCOL if secret is None else PRIVATE_PROTOCOL
        self.key_pair: KeyPair = create_new_key_pair(identity.seed)
        self._key = None if secret is None else shared_key(secret)
        self._static = StaticKey(identity)
        self._rooms = Rooms()

    async def secure_inbound(self, conn: IRawConnection) -> SecureConnection:
        """The secure connection with whoever has dialled.

        Raises:
            HandshakeFailure: It is nobody who may talk, or takes too long; the cause says which.
        """
        return await self._secure(conn, Handshake(self._static, key=self._key))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> SecureConnection:
        """The secure connection with the peer that was dialled.

        Raises:
            HandshakeFailure: Somebody else answered, or nobody did in time; the cause says which.
        """
        expected = PeerId(peer_id.to_base58())
        return await self._secure(conn, Handshake(self._static, expected=expected, key=self._key))

    async def _secure(self, conn: IRawConnection, handshake: Handshake) -> SecureConnection:
        wire = wire_of(conn, self._rooms)
        try:
            agreed = await self._shake_hands(wire, handshake)
        except NetworkError as error:
            await wire.close()
            raise HandshakeFailure(error.message) from error
        except BaseException:
            # libp2p forgets a connection whose dial was cancelled.
            wire.cut()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT):
                await wire.close()
            raise
        return SecureConnection(conn, wire, agreed, self.key_pair, self._rooms)

    async def _shake_hands(self, wire: Wire, handshake: Handshake) -> Agreed:
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                answer = handshake.start()
                while True:
                    if answer:
                        await wire.send(memoryview(answer))
                    if handshake.agreed is not None:
                        return handshake.agreed
                    heard = await wire.receive(handshake.receive)
                    if heard is None:
                        raise HandshakeError(self._hung_up())
                    answer = heard
        except trio.TooSlowError as error:
            raise HandshakeError(
                f"the other side took longer than {HANDSHAKE_TIMEOUT:g} s for the handshake"
            ) from error
        except wire_errors() as error:
            raise HandshakeError(self._hung_up()) from error

    def _hung_up(self) -> str:
        story = "the other side closed the connection during the Noise handshake"
        return story if self._key is None else f"{story}; it may have another hive key"


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
        self._encryptor = Encryptor(agreed.sending)
        self._decryptor = Decryptor(agreed.receiving)
        self._undecrypted = agreed.rest
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
            _events.warning("packet_refused", peer=self.remote, error=error.message)
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
        if self._sending:
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
