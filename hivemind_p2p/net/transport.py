"""The network that production uses: libp2p over TCP, with Noise and Yamux of our own.

    async with open_transport(identity, ["/ip4/127.0.0.1/tcp/0"]) as transport:
        transport.set_handler("/hivemind/echo/1", echo)
        stream = await transport.open_stream(peer, "/hivemind/echo/1")

libp2p's swarm upgrades and keeps the connections, and its own protocols (identify, ping) are answered by its
host. What is said on each byte of the way, the encryption, the streams and the agreement on their protocol, is this
package's: on the wire it is what libp2p's specifications say.

Whom a connection reaches is proven by Noise with the key inside the peer id. libp2p is loaded when a transport is
opened, not when this module is. Nothing here discovers, maps ports or dials unasked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import PeerUnreachableError, ProtocolError
from hivemind_p2p.identity import Identity
from hivemind_p2p.interfaces import StreamHandler
from hivemind_p2p.net import libp2p_host, listening
from hivemind_p2p.net.background import Background
from hivemind_p2p.net.connection_budget import BUDGET
from hivemind_p2p.net.dialing import Dialler
from hivemind_p2p.net.liveness import Liveness
from hivemind_p2p.net.stream_negotiation import choose, propose
from hivemind_p2p.types import PeerId, PeerInfo

if TYPE_CHECKING:
    from libp2p.host.basic_host import BasicHost

    from hivemind_p2p.net.accepting import Acceptor
    from hivemind_p2p.net.muxed_connection import MuxedConnection
    from hivemind_p2p.net.muxed_stream import MuxedStream

CLOSE_TIMEOUT: Final = 1.0
"""Seconds for saying goodbye to all connections at once; after that their sockets are just closed."""

MOST_LEARNED: Final = 16_384
"""Peers whose addresses are remembered, about 1 KiB each: others tell of peers without end."""

MOST_CHOOSING: Final = 4096
"""Streams at once whose protocol is not agreed on yet, over all connections: each costs 8 KiB, for 10 s at the most."""

FEW_CHOOSING: Final = 8
"""Such streams that each connection may have even then: somebody who only says nothing shuts nobody else out."""

_events = telemetry.source("transport")


@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """What a transport has done since it was opened.

    Attributes:
        connections: Connections now, in both directions.
        relayed: Those of them that lead through a relay.
        dials: Peers dialled.
        failed_dials: Peers of which no address answered.
        opened: Streams that this peer opened.
        accepted: Streams that others opened to it.
        refused: Connections that were no peer's, or were not upgraded in time.
        died: Connections that were cut because the other side had fallen silent.
        let_go: Connections that were closed because there were too many.
    """

    connections: int
    relayed: int
    dials: int
    failed_dials: int
    opened: int
    accepted: int
    refused: int
    died: int
    let_go: int


class LibP2PTransport:
    """Dials peers and accepts streams over libp2p; implements `hivemind_p2p.interfaces.Transport`.

    Made by `open_transport`.
    """

    def __init__(self, host: BasicHost, peer_id: PeerId, background: Background, *, budget: int = BUDGET) -> None:
        from hivemind_p2p.net.accepting import Acceptor

        self.host = host
        self._swarm: Any = host.get_network()
        self._swarm.set_stream_handler(self._accept)
        self._peer_id = peer_id
        self._background = background
        self._dialler: Dialler[Any] = Dialler(background, dial=self._dial, hang_up=_hang_up)
        self._liveness = Liveness(peer_id, self._connections, self._let_go, background, budget=budget)
        self.acceptor: Acceptor = Acceptor(self._swarm)
        self._handlers: dict[str, StreamHandler] = {}
        self._dial_by: Callable[[PeerId, str], Awaitable[Any]] | None = None
        self._learned: OrderedDict[PeerId, tuple[str, ...]] = OrderedDict()
        self._addresses: tuple[str, ...] = ()
        self.bound: tuple[str, ...] = ()
        """Where it listens, with the ports, wildcards as they are."""
        self._opened = self._accepted = self._choosing = 0

    @property
    def peer_id(self) -> PeerId:
        """Who this peer is."""
        return self._peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this peer can be dialled: the actual ports, one address an interface."""
        return self._addresses

    def set_addresses(self, addresses: tuple[str, ...]) -> None:
        """Tells where this peer can be dialled, once that is known or has changed."""
        self._addresses = addresses

    def statistics(self) -> TransportStatistics:
        """What this transport has done so far."""
        connections = list(self._connections())
        return TransportStatistics(
            connections=len(connections),
            relayed=sum(connection.relayed for connection in connections),
            dials=self._dialler.dials,
            failed_dials=self._dialler.failures,
            opened=self._opened,
            accepted=self._accepted,
            refused=self.acceptor.refused,
            died=self._liveness.died,
            let_go=self._liveness.let_go,
        )

    def learn(self, peer: PeerInfo) -> None:
        """Remembers where a peer can be dialled, in place of what was known before.

        Of more than `MOST_LEARNED` peers, the one that was used or told of least recently is forgotten.
        """
        if not peer.addresses:
            return
        self._learned[peer.peer_id] = peer.addresses
        self._learned.move_to_end(peer.peer_id)
        if len(self._learned) > MOST_LEARNED:
            self._learned.popitem(last=False)

    def keep_only(self, peers: frozenset[PeerId]) -> None:
        """Says whose connections are never closed only because there are too many: the bootstrap's, relays'."""
        self._liveness.kept = set(peers)

    def dial_with(self, dial: Callable[[PeerId, str], Awaitable[Any]]) -> None:
        """Dials by a function that also knows the way through relays; by plain TCP before."""
        self._dial_by = dial

    def round_trip(self, peer: PeerId) -> float | None:
        """The measured round trip to a connected peer in seconds; None if there is no connection, or no figure yet."""
        connection = self._connection(peer)
        return None if connection is None else connection.rtt

    def is_relayed(self, peer: PeerId) -> bool:
        """Whether the way to a connected peer leads through a relay."""
        connection = self._connection(peer)
        return connection is not None and connection.relayed

    # -- connections -------------------------------------------------------------------------------------------------

    async def connect(self, peer: PeerId) -> MuxedConnection:
        """The best connection with a peer, dialled if there is none.

        Raises:
            PeerUnreachableError: None of its addresses answered, or none is known.
        """
        if peer == self._peer_id:
            raise PeerUnreachableError(f"{peer} is this peer: it cannot dial itself")
        connection = self._connection(peer)
        if connection is None:
            if peer in self._learned:
                self._learned.move_to_end(peer)
            connection = (await self._dialler.connect(peer, self._learned.get(peer, ()))).muxed_conn
        return connection

    async def disconnect(self, peer: PeerId) -> None:
        """Closes all connections with a peer, telling it; the next stream dials it anew."""
        for connection in self._connections(peer):
            await self._let_go(connection)

    def _connections(self, peer: PeerId | None = None) -> Iterator[MuxedConnection]:
        from libp2p.peer.id import ID

        for connection in self._swarm.get_connections(None if peer is None else ID.from_base58(peer)):
            muxed = connection.muxed_conn
            if not (connection.is_closed or muxed.event_shutting_down.is_set()):
                yield muxed

    def _connection(self, peer: PeerId) -> MuxedConnection | None:
        """A direct one before a relayed one, and then the oldest, as the other side chooses, too."""
        alive = [connection for connection in self._connections(peer) if connection.takes_streams]
        return next((connection for connection in alive if not connection.relayed), alive[0] if alive else None)

    async def _dial(self, peer: PeerId, address: str) -> Any:
        if self._dial_by is not None:
            return await self._dial_by(peer, address)
        return await libp2p_host.dial(self._swarm, peer, address)

    async def _let_go(self, connection: Any) -> None:
        """Closes a connection whatever libp2p's swarm thinks of it."""
        await connection.go_away()
        await _hang_up(connection)

    # -- streams -----------------------------------------------------------------------------------------------------

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Calls `handler` in a task of its own for each stream that a peer opens under `protocol`."""
        from libp2p.custom_types import TProtocol

        self._handlers[protocol] = handler
        # So that libp2p's identify tells of it; streams come through `_accept`.
        self.host.set_stream_handler(TProtocol(protocol), self._accept)

    async def open_stream(self, peer: PeerId, protocol: str) -> MuxedStream:
        """Opens a stream, dialling the peer first where there is no connection.

        Raises:
            PeerUnreachableError: None of its addresses answered, or none is known.
            ProtocolError: It does not speak the protocol.
        """
        connected = self._connection(peer)
        if connected is not None:
            try:
                return await self._open_on(connected, peer, protocol)
            except PeerUnreachableError as error:
                _events.debug("dialled_anew", peer=peer, reason=error.message)
        return await self._open_on(await self.connect(peer), peer, protocol)

    async def _open_on(self, connection: MuxedConnection, peer: PeerId, protocol: str) -> MuxedStream:
        agreed = False
        stream = None
        try:
            stream = await connection.open_stream()
            await propose(stream, protocol)
            agreed = True
        except ProtocolError as error:
            raise type(error)(f"peer {peer} did not open {protocol}: {error.message}") from error
        except libp2p_host.errors() as error:
            raise PeerUnreachableError(f"peer {peer} did not open {protocol}: {libp2p_host.story(error)}") from error
        finally:
            if stream is not None and not agreed:
                stream.abort()
        self._opened += 1
        stream.protocol = protocol
        return stream

    async def _accept(self, net_stream: Any) -> None:
        """Answers one stream; raises nothing but cancellation, because that would end libp2p's loop, and this peer."""
        stream = net_stream.muxed_stream
        self._dialler.heard_from(stream.remote)
        try:
            protocol = await self._choose(stream)
            stream.protocol = protocol
            if handler := self._handlers.get(protocol):
                self._accepted += 1
                await handler(stream)
            else:
                net_stream.set_protocol(protocol)
                await self.host.multiselect.handlers[protocol](net_stream)
        except (ProtocolError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            _events.debug("stream_refused", peer=stream.remote, reason=str(error))
            stream.abort()
        except Exception as error:
            # Not aborted: that would overtake what the handler has sent.
            _events.error("handler_failed", peer=stream.remote, protocol=stream.protocol, error=repr(error))
            await stream.aclose()

    async def _choose(self, stream: MuxedStream) -> str:
        """Agrees on a protocol, unless there are too many streams without one: then the loudest peers' are refused."""
        if self._choosing >= MOST_CHOOSING and stream.rivals > FEW_CHOOSING:
            raise ProtocolError("there are too many streams that are not said to be for anything")
        self._choosing += 1
        try:
            return await choose(stream, self._speaks)
        finally:
            self._choosing -= 1

    def _speaks(self, protocol: str) -> bool:
        return protocol in self._handlers or protocol in self.host.multiselect.handlers

    # -- the end -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Looks after the connections, until cancelled."""
        await self._liveness.run()

    async def close(self) -> None:
        """Says goodbye to all connections and ends all tasks, within about `CLOSE_TIMEOUT`."""
        self._background.close()
        connections = self._swarm.get_connections()
        with trio.CancelScope(deadline=trio.current_time() + CLOSE_TIMEOUT, shield=True):
            async with trio.open_nursery() as nursery:
                for connection in connections:
                    nursery.start_soon(self._let_go, connection.muxed_conn)
        for connection in connections:
            connection.muxed_conn.cut()
        with trio.CancelScope(deadline=trio.current_time() + CLOSE_TIMEOUT, shield=True):
            await self.host.close()


@asynccontextmanager
async def open_transport(
    identity: Identity, listen: Sequence[str], *, psk: bytes | None = None, budget: int = BUDGET
) -> AsyncIterator[LibP2PTransport]:
    """A libp2p transport, listening; closed in good order when the block ends.

    Args:
        identity: Who this peer is; its seed becomes libp2p's key pair.
        listen: Plain TCP multiaddrs, port 0 for any free one. Empty for a peer that only dials.
        psk: The key that the peers of a private hive share: strangers are refused at the handshake.
        budget: Connections to keep; those that are of no use are closed beyond it.

    Raises:
        AddressError: An address is malformed, not plain TCP, or not one of this machine's.
        PortInUseError: Another process listens on a port.
        ConfigurationError: The key is too short.
    """
    for address in listen:
        await listening.check_free(address)
    failure: Exception | None = None
    host = libp2p_host.new_host(identity, psk)
    # The host runs in a task of its own, so that an error of the block is raised as it is, not inside libp2p's groups.
    async with trio.open_nursery() as hosting, trio.open_nursery() as working:
        transport = LibP2PTransport(host, identity.peer_id, Background(working), budget=budget)
        try:
            await hosting.start(libp2p_host.run_host, host)
            places = await hosting.start(transport.acceptor.listen, listen) if listen else ()
            transport.bound = places
            transport.set_addresses(listening.dialable(places))
            hosting.start_soon(transport.run)
            yield transport
        except Exception as error:
            failure = error
        finally:
            with trio.CancelScope(shield=True):
                await transport.close()
            hosting.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _hang_up(connection: Any) -> None:
    """Closes a connection, telling the other side."""
    try:
        await connection.close()
    except libp2p_host.errors() as error:
        _events.debug("hang_up_failed", error=repr(error))
