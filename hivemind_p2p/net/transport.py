"""The network that production uses: libp2p over TCP, with Noise and Yamux.

    async with open_transport(identity, ["/ip4/127.0.0.1/tcp/0"]) as transport:
        transport.set_handler("/hivemind/echo/1", echo)
        stream = await transport.open_stream(peer, "/hivemind/echo/1")

Whom a connection reaches is proven by Noise with the key inside the peer id. libp2p is loaded when a transport is
opened, not when this module is. Nothing here discovers, maps ports or dials unasked: mDNS, UPnP and libp2p's
auto-connector are off, and its address book is not used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import NetworkError, PeerUnreachableError, ProtocolError
from hivemind_p2p.identity import Identity
from hivemind_p2p.interfaces import StreamHandler
from hivemind_p2p.net import libp2p_host, listening
from hivemind_p2p.net.background import Background
from hivemind_p2p.net.dialing import Dialler
from hivemind_p2p.net.transport_stream import LibP2PStream, libp2p_errors
from hivemind_p2p.types import PeerId, PeerInfo

if TYPE_CHECKING:
    from libp2p.host.basic_host import BasicHost
    from libp2p.network.stream.net_stream import NetStream

CLOSE_TIMEOUT: Final = 1.0
"""Seconds for saying goodbye to all connections at once; after that their sockets are just closed."""

LONGEST_STORY: Final = 160
"""Characters of what libp2p says about an error: some of it quotes what the other side has sent."""

NOT_SPOKEN: Final = "The service behind it is not switched on there, or that peer runs another version."

_events = telemetry.source("transport")


@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """What a transport has done since it was opened.

    Attributes:
        connections: Connections now, in both directions.
        dials: Peers dialled.
        failed_dials: Peers of which no address answered.
        opened: Streams that this peer opened.
        accepted: Streams that others opened to it.
    """

    connections: int
    dials: int
    failed_dials: int
    opened: int
    accepted: int


class LibP2PTransport:
    """Dials peers and accepts streams over libp2p; implements `hivemind_p2p.interfaces.Transport`.

    Made by `open_transport`.
    """

    def __init__(self, host: BasicHost, peer_id: PeerId, background: Background) -> None:
        self._host = host
        self._swarm: Any = host.get_network()
        self._peer_id = peer_id
        self._background = background
        self._dialler: Dialler[Any] = Dialler(background, dial=self._dial, hang_up=_hang_up)
        self._learned: dict[PeerId, tuple[str, ...]] = {}
        self._addresses: tuple[str, ...] = ()
        self._opened = self._accepted = 0

    @property
    def peer_id(self) -> PeerId:
        """Who this peer is."""
        return self._peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this peer can be dialled: the actual ports, one address an interface."""
        return self._addresses

    def statistics(self) -> TransportStatistics:
        """What this transport has done so far."""
        return TransportStatistics(
            connections=len(self._swarm.get_connections()),
            dials=self._dialler.dials,
            failed_dials=self._dialler.failures,
            opened=self._opened,
            accepted=self._accepted,
        )

    def learn(self, peer: PeerInfo) -> None:
        """Remembers where a peer can be dialled, in place of what was known before."""
        if peer.addresses:
            self._learned[peer.peer_id] = peer.addresses

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Calls `handler` in a task of its own for each stream that a peer opens under `protocol`."""
        from libp2p.custom_types import TProtocol

        async def accept(net_stream: Any) -> None:
            self._accepted += 1
            stream = self._wrap(net_stream, _peer_id_of(net_stream.muxed_conn), protocol)
            try:
                await handler(stream)
            except Exception as error:
                # What leaves a handler would end libp2p's own loop, and this peer with it.
                _events.error("handler_failed", peer=stream.remote, protocol=protocol, error=repr(error))
                await stream.aclose()

        self._host.set_stream_handler(TProtocol(protocol), accept)

    async def open_stream(self, peer: PeerId, protocol: str) -> LibP2PStream:
        """Opens a stream, dialling the peer first where there is no connection.

        Raises:
            PeerUnreachableError: None of its addresses answered, or none is known.
            ProtocolError: It does not speak the protocol.
        """
        try:
            net_stream = await self._background.complete(lambda: self._open(peer, protocol), unwanted=_reset)
        except trio.ClosedResourceError as error:
            raise PeerUnreachableError(f"peer {peer} cannot be reached: this peer's transport is closed") from error
        self._opened += 1
        return self._wrap(net_stream, peer, protocol)

    def _wrap(self, net_stream: NetStream, remote: PeerId, protocol: str) -> LibP2PStream:
        return LibP2PStream(
            net_stream,
            remote=remote,
            protocol=protocol,
            background=self._background,
            give_up=lambda: _cut(net_stream.muxed_conn),
        )

    async def _open(self, peer: PeerId, protocol: str) -> NetStream:
        """One try over the connection there is, which may turn out to be dead, and one over a new one."""
        connected = self._connection(peer) is not None
        try:
            return await self._open_once(peer, protocol)
        except PeerUnreachableError:
            if not connected:
                raise
        return await self._open_once(peer, protocol)

    async def _open_once(self, peer: PeerId, protocol: str) -> NetStream:
        from libp2p.custom_types import TProtocol
        from libp2p.peer.id import ID

        connection = self._connection(peer)
        if connection is None:
            connection = await self._dialler.connect(peer, self._learned.get(peer, ()))
        try:
            return await self._host.new_stream(ID.from_base58(peer), [TProtocol(protocol)])
        except libp2p_errors() as error:
            story = _story(error)
            if story.startswith("protocols not supported"):
                raise ProtocolError(f"peer {peer} does not speak {protocol}", hint=NOT_SPOKEN) from error
            if "timed out" in story:
                await _cut(connection.muxed_conn)
            raise PeerUnreachableError(f"peer {peer} did not open {protocol}: {story}") from error

    def _connection(self, peer: PeerId) -> Any | None:
        from libp2p.peer.id import ID

        if peer == self._peer_id:
            raise PeerUnreachableError(f"{peer} is this peer: it cannot dial itself")
        connections = self._swarm.get_connections(ID.from_base58(peer))
        alive = [c for c in connections if not (c.is_closed or c.muxed_conn.event_shutting_down.is_set())]
        return alive[0] if alive else None

    async def _dial(self, peer: PeerId, address: str) -> Any:
        from libp2p.peer.id import ID
        from multiaddr import Multiaddr

        try:
            return await self._swarm.dial_addr(Multiaddr(address), ID.from_base58(peer))
        except Exception as error:
            # libp2p and what it builds on raise many kinds here; all of them mean that this address is of no use.
            raise NetworkError(_story(error)) from error

    async def close(self) -> None:
        """Says goodbye to all connections and ends all tasks, within about `CLOSE_TIMEOUT`."""
        self._background.close()
        connections = self._swarm.get_connections()
        with trio.CancelScope(deadline=trio.current_time() + CLOSE_TIMEOUT, shield=True):
            async with trio.open_nursery() as nursery:
                for connection in connections:
                    nursery.start_soon(_hang_up, connection)
        for connection in connections:
            await _cut(connection.muxed_conn)
        with trio.CancelScope(deadline=trio.current_time() + CLOSE_TIMEOUT, shield=True):
            await self._host.close()

    def set_addresses(self, addresses: tuple[str, ...]) -> None:
        """Tells where this peer listens, once it does."""
        self._addresses = addresses


@asynccontextmanager
async def open_transport(identity: Identity, listen: Sequence[str]) -> AsyncIterator[LibP2PTransport]:
    """A libp2p transport, listening; closed in good order when the block ends.

    Args:
        identity: Who this peer is; its seed becomes libp2p's key pair.
        listen: Plain TCP multiaddrs, port 0 for any free one. Empty for a peer that only dials.

    Raises:
        AddressError: An address is malformed, not plain TCP, or not one of this machine's.
        PortInUseError: Another process listens on a port.
    """
    for address in listen:
        await listening.check_free(address)
    failure: Exception | None = None
    host = libp2p_host.new_host(identity)
    # The host runs in a task of its own, so that an error of the block is raised as it is, not inside libp2p's groups.
    async with trio.open_nursery() as hosting, trio.open_nursery() as working:
        transport = LibP2PTransport(host, identity.peer_id, Background(working))
        try:
            await hosting.start(libp2p_host.run_host, host, tuple(listen))
            transport.set_addresses(listening.dialable(libp2p_host.bound_addresses(host, listen)))
            yield transport
        except Exception as error:
            failure = error
        finally:
            with trio.CancelScope(shield=True):
                await transport.close()
            hosting.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _peer_id_of(muxed: Any) -> PeerId:
    return PeerId(muxed.peer_id.to_base58())


async def _hang_up(connection: Any) -> None:
    """Closes a connection, telling the other side."""
    try:
        await connection.close()
    except libp2p_errors() as error:
        _events.debug("hang_up_failed", error=repr(error))


async def _reset(net_stream: Any) -> None:
    """Disposes of a stream that nobody has taken."""
    try:
        await net_stream.reset()
    except libp2p_errors() as error:
        _events.debug("reset_failed", error=repr(error))


async def _cut(muxed: Any) -> None:
    """Closes a connection's socket at once; whoever waits on one of its streams is told that it is broken."""
    muxed.event_shutting_down.set()
    with trio.CancelScope(shield=True) as scope:
        scope.cancel()
        try:
            await muxed.secured_conn.close()
        except libp2p_errors() as error:
            _events.debug("cut_failed", error=repr(error))


def _story(error: BaseException) -> str:
    """What happened in the end: libp2p wraps an error many times, and the innermost one says it."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text if len(text) <= LONGEST_STORY else f"{text[:LONGEST_STORY]}..."
