"""Calls through a relay: libp2p's circuit relay v2, the two sides at its ends.

Participants: this peer; relays, which it asks for a place so that it can be called, or for a call to another peer.
Messages: ``HopMessage`` to the relay, ``StopMessage`` from it (`relay.py`).
Goals: a relayed connection is like any other to the rest of the peer, encrypted end to end, and marked as relayed; a
    peer is called through those relays only that it has a place at.
Non-goals: choosing relays and renewing places (`reachability_service.py`); making the connection direct
    (`hole_punch.py`).

Why not libp2p's own transport: its ``dial`` looks for other relays than the one that the address names, and makes a
reservation for each call; what takes calls believes any peer that says it is a relay.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import base58

from hivemind_p2p import telemetry
from hivemind_p2p.errors import BusyError, NetworkError, PeerUnreachableError, ProtocolError, StreamClosedError
from hivemind_p2p.net.addresses import relay_of
from hivemind_p2p.net.calls import Call, Link
from hivemind_p2p.net.links import Links
from hivemind_p2p.net.relay import HOP, STOP
from hivemind_p2p.proto import reachability_pb2 as wire
from hivemind_p2p.types import PeerId, PeerInfo

if TYPE_CHECKING:
    from libp2p.connection_types import ConnectionType

CONNECT_DEADLINE: Final = 10.0
"""Seconds for a relay to reach the peer that is called."""

READ_BYTES: Final = 64 * 1024
"""Bytes read at a time where nobody names a number."""

MOST_HANDSHAKES: Final = 64
"""Calls that may be in their handshake at once."""

_events = telemetry.source("circuit")


@dataclass(frozen=True, slots=True)
class Reservation:
    """A place at a relay.

    Attributes:
        relay: Whose.
        expires: Until when, in seconds since the epoch by the relay's clock.
    """

    relay: PeerId
    expires: float


class RelayedConnection:
    """The stream through a relay in the shape of a socket; implements libp2p's ``IRawConnection``."""

    def __init__(self, call: Call, relay: PeerId, *, initiator: bool) -> None:
        call.keep()
        self._call = call
        self.relay = relay
        self.is_initiator = initiator

    async def read(self, n: int | None = None) -> bytes:
        """Some bytes, at most `n`; none at the end."""
        try:
            return await self._call.read(n or READ_BYTES)
        except StreamClosedError as error:
            raise _raw_error(error) from error

    async def write(self, data: bytes) -> None:
        """Sends all bytes."""
        try:
            await self._call.write(data)
        except StreamClosedError as error:
            raise _raw_error(error) from error

    async def close(self) -> None:
        """Ends the call; never fails."""
        await self._call.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """None: there is no socket of its own, which is how relayed connections are told from others."""
        return None

    def get_transport_addresses(self) -> list[Any]:
        """The relay that the connection leads through."""
        from multiaddr import Multiaddr

        return [Multiaddr(f"/p2p/{self.relay}/p2p-circuit")]

    def get_connection_type(self) -> ConnectionType:
        """Relayed."""
        from libp2p.connection_types import ConnectionType

        return ConnectionType.RELAYED


class Circuits:
    """Calls and takes calls through relays.

    Args:
        links: This peer's connections.
        connect: Makes sure that there is a direct connection to a peer.
        taken: Called with each relayed connection that another peer made; for upgrading it.
    """

    def __init__(
        self,
        links: Links,
        *,
        connect: Callable[[PeerInfo], Awaitable[Link]],
        taken: Callable[[PeerId], Awaitable[None]] | None = None,
    ) -> None:
        self._links = links
        self._connect = connect
        self._taken = taken
        self._handshakes = 0
        self.relays: set[PeerId] = set()
        """Relays that may hand calls to this peer: those that it has asked for a place."""
        links.serve(STOP, self._take)

    async def reserve(self, relay: PeerInfo) -> Reservation:
        """Asks a relay for a place, or to renew it.

        Raises:
            BusyError: It has none left.
            NetworkError: It does not answer, or is no relay.
        """
        link = await self._connect(relay)
        self.relays.add(relay.peer_id)
        answer = await self._ask(link, wire.HopMessage(type=wire.HopMessage.RESERVE))
        if answer.status != wire.RelayStatus.OK or not answer.HasField("reservation"):
            self.relays.discard(relay.peer_id)
            raise BusyError(f"the relay {relay.peer_id} has no place: {_name(answer.status)}")
        return Reservation(relay.peer_id, float(answer.reservation.expire))

    async def dial(self, peer: PeerId, address: str) -> Any:
        """Connects to a peer through a relay; libp2p's connection.

        Args:
            peer: Whom to call.
            address: ``/ip4/.../tcp/.../p2p/<relay>/p2p-circuit``.

        Raises:
            AddressError: It is no such address.
            NetworkError: The relay does not answer, or the peer has no place there or does not answer.
        """
        relay = relay_of(address)
        if self._links.peer_id in (relay.peer_id, peer):
            raise PeerUnreachableError(f"{address} leads back to this peer")
        link = await self._connect(relay)
        call = await self._links.call(link, HOP)
        try:
            await call.send(wire.HopMessage(type=wire.HopMessage.CONNECT, peer=_relay_peer(peer)))
            answer = await call.receive(wire.HopMessage, deadline=CONNECT_DEADLINE)
            if answer.type != wire.HopMessage.STATUS or answer.status != wire.RelayStatus.OK:
                raise PeerUnreachableError(f"the relay {relay.peer_id} says {_name(answer.status)} of {peer}")
        except BaseException:
            await call.reset()
            raise
        return await self._links.adopt(RelayedConnection(call, relay.peer_id, initiator=True), peer, called=False)

    async def _ask(self, link: Link, request: wire.HopMessage) -> wire.HopMessage:
        call = await self._links.call(link, HOP)
        try:
            await call.send(request)
            return await call.receive(wire.HopMessage)
        finally:
            await call.close()

    async def _take(self, call: Call) -> None:
        """Takes a call that a relay hands over."""
        request = await call.receive(wire.StopMessage)
        if call.peer not in self.relays or call.endpoint is None:
            await _refuse(call, wire.RelayStatus.PERMISSION_DENIED)
            raise ProtocolError(f"peer {call.peer} hands over a call, but is no relay of this peer")
        if request.type != wire.StopMessage.CONNECT or not request.peer.id:
            await _refuse(call, wire.RelayStatus.UNEXPECTED_MESSAGE)
            return
        if self._handshakes >= MOST_HANDSHAKES:
            await _refuse(call, wire.RelayStatus.RESOURCE_LIMIT_EXCEEDED)
            return
        caller = PeerId(base58.b58encode(request.peer.id).decode())
        await call.send(wire.StopMessage(type=wire.StopMessage.STATUS, status=wire.RelayStatus.OK))
        self._handshakes += 1
        try:
            await self._links.adopt(RelayedConnection(call, call.peer, initiator=False), caller, called=True)
        finally:
            self._handshakes -= 1
        _events.info("call_taken", caller=caller, relay=call.peer)
        if self._taken is not None:
            await self._taken(caller)


async def _refuse(call: Call, status: wire.RelayStatus) -> None:
    try:
        await call.send(wire.StopMessage(type=wire.StopMessage.STATUS, status=status))
    except NetworkError:
        _events.debug("refusal_unheard", relay=call.peer)


def _relay_peer(peer: PeerId) -> wire.RelayPeer:
    return wire.RelayPeer(id=base58.b58decode(peer))


def _name(status: int) -> str:
    known: Sequence[int] = wire.RelayStatus.values()
    return wire.RelayStatus.Name(status) if status in known else str(status)


def _raw_error(error: StreamClosedError) -> Exception:
    from libp2p.network.connection.exceptions import RawConnError

    broken: Exception = RawConnError(error.message)
    return broken
