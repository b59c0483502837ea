"""What the reachability protocols need of libp2p's host: calls over chosen connections, and connections made by hand.

The rest of a peer opens streams by peer id and does not care which connection carries them. Relaying, hole punching
and calling back do care: a relay is asked directly or not at all, an upgrade is agreed on over the relayed connection,
and a proof that a peer listens somewhere must not become a connection that others then use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import (
    AddressError,
    DeadlineExceededError,
    HivemindError,
    NetworkError,
    PeerUnreachableError,
    ProtocolError,
)
from hivemind_p2p.net import libp2p_host
from hivemind_p2p.net.addresses import ip_endpoint, is_circuit
from hivemind_p2p.net.calls import CALL_DEADLINE, Call, Link
from hivemind_p2p.net.seldom import Seldom
from hivemind_p2p.net.sockets import open_socket, port_is_taken, resolved
from hivemind_p2p.types import PeerId, PeerInfo

if TYPE_CHECKING:
    from libp2p.host.basic_host import BasicHost

    from hivemind_p2p.net.circuit import RelayedConnection

MOST_CALLS: Final = 256
"""Calls of one protocol that are answered at once."""

PROOF_DEADLINE: Final = 5.0
"""Seconds for calling somebody back: TCP and Noise take three round trips."""

PATIENCE_WITH_ONE: Final = 2.0
"""Seconds for one of several IP addresses that a name has: it may be IPv6 on a machine without a way there."""

MOST_TRIED: Final = 4
"""Addresses of a relay or witness that are tried."""

_events = telemetry.source("links")


CallHandler: TypeAlias = Callable[[Call], Awaitable[None]]


class Links:
    """Calls and connections of one libp2p host.

    Args:
        host: A host that runs, or will.
        listen: The addresses it listens at, wildcards among them.
    """

    def __init__(self, host: BasicHost, listen: Sequence[str]) -> None:
        self._host = host
        self._swarm: Any = host.get_network()
        self._sources = tuple(ip_endpoint(address) for address in listen)
        self._dialled_from: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self.reuse_port_to: set[PeerId] = set()
        """Peers that are dialled from the port that this peer listens on, because they say how they see it."""

    @property
    def peer_id(self) -> PeerId:
        """Who this peer is."""
        return PeerId(self._host.get_id().to_base58())

    def of(self, peer: PeerId) -> tuple[Link, ...]:
        """The connections to a peer that can be used: direct ones first, then the oldest."""
        from libp2p.peer.id import ID

        links = [Link(each) for each in self._swarm.get_connections(ID.from_base58(peer))]
        return tuple(sorted((link for link in links if link.alive), key=lambda link: link.relayed))

    def direct(self, peer: PeerId) -> Link | None:
        """A direct connection to a peer, if there is one."""
        return next((link for link in self.of(peer) if not link.relayed), None)

    def serve(self, protocol: str, handler: CallHandler) -> None:
        """Answers a protocol. A handler that raises costs its own call only."""
        from libp2p.custom_types import TProtocol

        answering = 0
        failures = Seldom(_events, "call_failed", "calls_failed")

        async def answer(stream: Any) -> None:
            nonlocal answering
            call = Call(stream)
            if answering >= MOST_CALLS:
                await call.reset()
                return
            answering += 1
            try:
                await handler(call)
            except HivemindError as error:
                failures.tell(peer=call.peer, protocol=protocol, reason=error.message)
            except Exception as error:
                # What leaves a handler would end libp2p's own loop, and this peer with it.
                _events.error("handler_failed", peer=call.peer, protocol=protocol, error=repr(error))
            finally:
                answering -= 1
                if not call.kept:
                    await call.close()

        self._host.set_stream_handler(TProtocol(protocol), answer)

    async def call(self, link: Link, protocol: str, *, deadline: float = CALL_DEADLINE) -> Call:
        """Opens a stream over a connection.

        Raises:
            ProtocolError: The other side does not speak the protocol.
            PeerUnreachableError: The connection is of no use any more.
            DeadlineExceededError: There was no answer in time.
        """
        from libp2p.custom_types import TProtocol
        from libp2p.protocol_muxer.exceptions import MultiselectClientError
        from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

        try:
            with trio.fail_after(deadline):
                stream = await link.connection.new_stream()
                chosen = await self._host.multiselect_client.select_one_of(
                    [TProtocol(protocol)], MultiselectCommunicator(stream), int(deadline) + 1
                )
                stream.set_protocol(chosen)
        except trio.TooSlowError as error:
            raise DeadlineExceededError(f"peer {link.peer} did not open {protocol} in {deadline:g} s") from error
        except MultiselectClientError as error:
            raise ProtocolError(f"peer {link.peer} does not speak {protocol}") from error
        except libp2p_host.errors() as error:
            raise PeerUnreachableError(f"the connection to {link.peer} broke: {libp2p_host.story(error)}") from error
        return Call(stream)

    async def connect(self, peer: PeerInfo) -> Link:
        """A direct connection to a peer: the one there is, or a new one to the first address that answers.

        Raises:
            PeerUnreachableError: None answers.
        """
        link = self.direct(peer.peer_id)
        reasons = []
        for address in peer.addresses[:MOST_TRIED]:
            if link is not None:
                break
            try:
                with trio.fail_after(CALL_DEADLINE):
                    link = Link(await self.dial(peer.peer_id, address))
            except NetworkError as error:
                reasons.append(f"{address}: {error.message}")
            except trio.TooSlowError:
                reasons.append(f"{address}: no answer within {CALL_DEADLINE:g} s")
        if link is None:
            raise PeerUnreachableError(f"peer {peer.peer_id} did not answer ({'; '.join(reasons) or 'no address'})")
        return link

    async def dial(self, peer: PeerId, address: str) -> Any:
        """Connects to a peer at a plain TCP address; libp2p's connection.

        Raises:
            NetworkError: There is no answer, or somebody else is there.
        """
        if peer not in self.reuse_port_to:
            return await libp2p_host.dial(self._swarm, peer, address)
        *others, last = await resolved(address)
        for place in others:
            with trio.move_on_after(PATIENCE_WITH_ONE):
                try:
                    return await self._dial_from_listener(peer, place)
                except NetworkError as error:
                    _events.debug("dial_failed", peer=peer, address=place, reason=error.message)
        return await self._dial_from_listener(peer, last)

    async def _dial_from_listener(self, peer: PeerId, address: str) -> Any:
        source = self.source_for(address)
        if source is None:
            return await libp2p_host.dial(self._swarm, peer, address)
        try:
            connection = await libp2p_host.dial(self._swarm, peer, address, source)
        except NetworkError as error:
            if not port_is_taken(error):
                raise
            # A connection from here to there has just ended, or another one exists.
            return await libp2p_host.dial(self._swarm, peer, address)
        self._dialled_from[connection.muxed_conn] = source[1]
        return connection

    async def punch(self, peer: PeerId, address: str, *, as_server: bool) -> Any:
        """Dials from the port that this peer listens on, while the other side does the same (DCUtR).

        Both SYN packets may meet and become one connection: which of the two then speaks first in Noise is agreed on
        beforehand.

        Raises:
            NetworkError: No connection came of it.
        """
        source = self.source_for(address)
        if source is None:
            raise NetworkError(f"this peer listens at no address from which {address} can be dialled")
        if not as_server:
            return await libp2p_host.dial(self._swarm, peer, address, source)
        return await self._dial_as_server(peer, address, source)

    async def _dial_as_server(self, peer: PeerId, address: str, source: tuple[str, int]) -> Any:
        """Dials, and from there on behaves as the side that was dialled, in Noise and in Yamux.

        libp2p's own way of doing so changes the role in Noise only.
        """
        from libp2p.io.trio import TrioTCPStream
        from libp2p.network.connection.raw_connection import RawConnection
        from multiaddr import Multiaddr

        stream = None
        muxed = None
        try:
            stream = await open_socket(address, source)
            raw = RawConnection(TrioTCPStream(stream), False)
            muxed = await self._swarm.upgrade_inbound_raw_conn(raw, Multiaddr(address))
        except Exception as error:
            raise NetworkError(libp2p_host.story(error)) from error
        finally:
            if stream is not None and muxed is None:
                stream.socket.close()
        if muxed.peer_id.to_base58() != peer:
            await muxed.close()
            raise NetworkError(f"peer {muxed.peer_id} answered where {peer} was expected")
        return muxed

    def source_for(self, address: str) -> tuple[str, int] | None:
        """The IP address and port that this peer listens on, for dialling an address of the same family."""
        try:
            host, _ = ip_endpoint(address)
        except AddressError:
            return None
        same = [source for source in self._sources if (":" in source[0]) == (":" in host) and source[1]]
        return next((source for source in same if not source[0].startswith("127.") and source[0] != "::1"), None)

    def dialled_from(self, link: Link) -> int:
        """The local port of a connection, as far as it was chosen; 0 otherwise."""
        return self._dialled_from.get(link.connection.muxed_conn, 0)

    async def prove(self, peer: PeerId, address: str, *, deadline: float = PROOF_DEADLINE) -> bool:
        """Whether a peer listens at an address: calls it there, checks its identity, and hangs up."""
        from libp2p.io.trio import TrioTCPStream
        from libp2p.network.connection.raw_connection import RawConnection
        from libp2p.peer.id import ID

        host, port = ip_endpoint(address)
        with trio.move_on_after(deadline):
            try:
                stream = await trio.open_tcp_stream(host, port)
            except OSError:
                return False
            try:
                raw = RawConnection(TrioTCPStream(stream), True)
                await self._swarm.upgrader.upgrade_security(raw, True, ID.from_base58(peer))
            except Exception as error:
                # Whatever it was: nobody there could say that it is this peer.
                _events.debug("proof_failed", peer=peer, address=address, error=repr(error))
                return False
            finally:
                await trio.aclose_forcefully(stream)
            return True
        return False

    async def adopt(self, raw: RelayedConnection, peer: PeerId, *, called: bool) -> Any:
        """Makes a connection of a stream through a relay: encrypted end to end, with streams of its own.

        Args:
            raw: The stream.
            peer: Who is at the other end; proven before this returns.
            called: Whether the other side called.

        Raises:
            NetworkError: It is not that peer, or the stream broke.
        """
        from libp2p.peer.id import ID
        from multiaddr import Multiaddr

        upgraded = False
        try:
            if called:
                place = Multiaddr(f"/p2p/{raw.relay}/p2p-circuit/p2p/{peer}")
                muxed = await self._swarm.upgrade_inbound_raw_conn(raw, place)
            else:
                connection = await self._swarm.upgrade_outbound_raw_conn(raw, ID.from_base58(peer))
            upgraded = True
        except Exception as error:
            raise NetworkError(f"no connection to {peer} through {raw.relay}: {libp2p_host.story(error)}") from error
        finally:
            if not upgraded:
                await raw.close()
        if not called:
            return connection
        if muxed.peer_id.to_base58() != peer:
            await muxed.close()
            raise NetworkError(f"the relay {raw.relay} announced {peer}, but {muxed.peer_id} called")
        return muxed

    def announce(self, addresses: Sequence[str]) -> None:
        """Sets what libp2p's identify tells others; its host takes it when it is made, and not later."""
        from multiaddr import Multiaddr

        # Not the relayed ones: of those libp2p would tell the relay's place as this peer's own.
        announced = [Multiaddr(address) for address in addresses if not is_circuit(address)]
        self._host._addrs_factory = lambda _: list(announced)
