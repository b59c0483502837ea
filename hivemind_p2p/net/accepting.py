"""Accepts connections: sockets of our own that libp2p upgrades.

libp2p's own listener holds one of a fixed number of places for each connection that it has ever accepted, until the
host ends, so that a bootstrap would one day accept nobody; and it lets half-open connections pile up. Here a place
is given back with the connection, and `half_open` decides who has to go when there are too many.

Garbage is part of a public port's day: it is counted, and told once a minute at the most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import PortInUseError
from hivemind_p2p.net import libp2p_host
from hivemind_p2p.net.addresses import parse, tcp_endpoint
from hivemind_p2p.net.half_open import HalfOpen
from hivemind_p2p.net.seldom import Seldom
from hivemind_p2p.net.sockets import shared_socket

if TYPE_CHECKING:
    from multiaddr import Multiaddr

UPGRADE_TIMEOUT: Final = 10.0
"""Seconds for everything until a connection can carry streams: seven round trips at the most."""

BACKLOG: Final = 512
"""Connections that wait in the system for this peer to accept them; more are taken for a flood."""

PAUSE: Final = 0.1
"""Seconds until accepting is tried again after the system refused it."""

_events = telemetry.source("transport")


class Acceptor:
    """Listens at addresses and hands connections to libp2p's swarm.

    Args:
        swarm: Upgrades the connections and keeps them.
    """

    def __init__(self, swarm: Any) -> None:
        self._swarm = swarm
        self._half_open = HalfOpen()
        self._scopes: dict[int, trio.CancelScope] = {}
        self._refusals = Seldom(_events, "connection_refused", "connections_refused")
        self._failures = Seldom(_events, "accept_failed", "accepts_failed")
        self.accepted = self.refused = 0

    async def listen(
        self, addresses: Sequence[str], *, task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accepts until cancelled; `started` with the addresses, their ports as the system has given them.

        Raises:
            PortInUseError: One of them cannot be listened at.
        """
        sockets = []
        for address in addresses:
            sockets.append(await _listener(address))
        places = tuple(_with_port(address, listener) for address, listener in zip(addresses, sockets, strict=True))
        async with trio.open_nursery() as nursery:
            for listener in sockets:
                nursery.start_soon(self._serve, listener, nursery)
            task_status.started(places)

    async def _serve(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    # Mostly too many open files: other connections end soon.
                    self._failures.tell(error=repr(error))
                    await trio.sleep(PAUSE)
                    continue
                # Not trio's own serving of listeners, which closes a connection once its handler returns.
                nursery.start_soon(self._accept, stream)

    async def _accept(self, stream: trio.SocketStream) -> None:
        from multiaddr import Multiaddr

        try:
            host, port = stream.socket.getpeername()[:2]
            number, victim = self._half_open.enter(host)
        except OSError:
            await trio.aclose_forcefully(stream)
            return  # gone already
        if victim is not None and (scope := self._scopes.pop(victim, None)) is not None:
            scope.cancel()
        version = "ip6" if ":" in host else "ip4"
        place = Multiaddr(f"/{version}/{host.partition('%')[0]}/tcp/{port}")
        with trio.CancelScope(deadline=trio.current_time() + UPGRADE_TIMEOUT) as scope:
            self._scopes[number] = scope
            try:
                await self._upgrade(stream, place)
            finally:
                self._scopes.pop(number, None)
                self._half_open.leave(number)
        if scope.cancelled_caught:
            self._refuse(str(place), "it did not say in time who it is")

    async def _upgrade(self, stream: trio.SocketStream, place: Multiaddr) -> None:
        from libp2p.io.trio import TrioTCPStream
        from libp2p.network.connection.raw_connection import RawConnection

        upgraded = False
        try:
            await self._swarm.upgrade_inbound_raw_conn(RawConnection(TrioTCPStream(stream), False), place)
            upgraded = True
            self.accepted += 1
        except Exception as error:
            # Whatever a stranger can send, and libp2p can raise of it, costs that stranger's connection only.
            self._refuse(str(place), libp2p_host.story(error))
        finally:
            if not upgraded:
                stream.socket.close()

    def _refuse(self, place: str, reason: str) -> None:
        self.refused += 1
        self._refusals.tell(address=place, reason=reason)


async def _listener(address: str) -> trio.SocketListener:
    host, port = tcp_endpoint(address)
    family = trio.socket.AF_INET6 if parse(address)[0][0] == "ip6" else trio.socket.AF_INET
    listener = shared_socket(family)
    try:
        if family == trio.socket.AF_INET6:
            listener.setsockopt(trio.socket.IPPROTO_IPV6, trio.socket.IPV6_V6ONLY, 1)
        await listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise PortInUseError(f"cannot listen at {address}: {error}") from error
    except BaseException:
        listener.close()
        raise
    return trio.SocketListener(listener)


def _with_port(address: str, listener: trio.SocketListener) -> str:
    head, _, _ = address.rpartition("/")
    return f"{head}/{listener.socket.getsockname()[1]}"
