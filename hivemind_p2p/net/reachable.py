"""Joins a transport and what makes it reachable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from hivemind_p2p.interfaces import Clock
from hivemind_p2p.net import listening
from hivemind_p2p.net.addresses import tcp_endpoint
from hivemind_p2p.net.reachability_service import ReachabilityService, ReachabilitySettings
from hivemind_p2p.types import PeerId, PeerInfo

if TYPE_CHECKING:
    from libp2p.host.basic_host import BasicHost

LOOPBACK = ("127.", "::1", "localhost")


class Joinable(Protocol):
    """What is needed of a transport: `transport.LibP2PTransport`."""

    host: BasicHost
    bound: tuple[str, ...]

    def set_addresses(self, addresses: tuple[str, ...]) -> None:
        """Tells where this peer can be dialled."""

    def dial_with(self, dial: Callable[[PeerId, str], Awaitable[Any]]) -> None:
        """Dials by this function from now on."""

    def keep_only(self, peers: frozenset[PeerId]) -> None:
        """Says whose connections must not be closed for being idle."""


def make_reachable(
    transport: Joinable,
    settings: ReachabilitySettings,
    *,
    clock: Clock,
    moved: Callable[[tuple[str, ...]], object] = tuple,
) -> ReachabilityService:
    """A service that finds out how a transport can be reached, and takes part in making others reachable; not running.

    Args:
        transport: Listens already.
        settings: What to do.
        clock: Seconds since the epoch.
        moved: Told where this peer can be dialled, each time that changes.
    """

    def advertise(addresses: tuple[str, ...]) -> None:
        transport.set_addresses(addresses)
        moved(addresses)

    service = ReachabilityService(
        transport.host,
        transport.bound,
        settings,
        clock=clock,
        listening=lambda: listening.dialable(transport.bound),
        advertise=advertise,
        keep=transport.keep_only,
    )
    transport.dial_with(service.dial)
    return service


def is_local(peer: PeerInfo) -> bool:
    """Whether a peer is on this very machine: then there is nothing to find out about the way to it."""
    hosts = [tcp_endpoint(address)[0] for address in peer.addresses]
    return bool(hosts) and all(host.startswith(LOOPBACK) for host in hosts)
