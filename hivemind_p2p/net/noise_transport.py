"""libp2p's extension point for encryption: who a connection reaches is proven before anything else is said on it.

Participants: libp2p's swarm, which dials and accepts, and this peer's identity.

Messages: those of `noise`.

Goals: nobody but the peer that was dialled; in a private hive, nobody but its peers; a handshake that is not done in
time is over, and its connection closed.

Non-goals: what is sent afterwards (`secure_connection`).

    transport = NoiseTransport(identity)
    host = libp2p.new_host(key_pair=transport.key_pair, sec_opt={TProtocol(transport.protocol): transport})

libp2p is loaded with this module, so only what opens a transport imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
from libp2p.abc import IRawConnection, ISecureTransport
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure

from hivemind_p2p.errors import HandshakeError, NetworkError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.aes_speed import aes_is_faster
from hivemind_p2p.net.noise import PRIVATE_PROTOCOL, PROTOCOL, Agreed, Handshake, StaticKey, shared_key
from hivemind_p2p.net.secure_connection import SecureConnection
from hivemind_p2p.net.wires import CLOSE_TIMEOUT, Rooms, Wire, wire_errors, wire_of
from hivemind_p2p.types import PeerId

if TYPE_CHECKING:
    from libp2p.crypto.keys import KeyPair

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for the three messages: two slow round trips, with a relay between, take less than two."""


class NoiseTransport(ISecureTransport):  # type: ignore[misc]  # libp2p is not type-checked
    """Makes raw connections secure ones; libp2p's extension point for that.

    Args:
        identity: Who this peer is.
        secret: What the peers of a private hive share; None for one that is open. With it this transport speaks
            `PRIVATE_PROTOCOL` instead of `PROTOCOL`, so that strangers and members have no protocol in common.
        aes: Whether to have AES-256-GCM with peers that want it too; by default where this machine is quicker with it.

    Raises:
        ConfigurationError: The secret is too short.
    """

    def __init__(self, identity: Identity, secret: bytes | None = None, *, aes: bool | None = None) -> None:
        self.protocol = PROTOCOL if secret is None else PRIVATE_PROTOCOL
        self.key_pair: KeyPair = create_new_key_pair(identity.seed)
        self._key = None if secret is None else shared_key(secret)
        self._static = StaticKey(identity, aes=aes_is_faster() if aes is None else aes)
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
