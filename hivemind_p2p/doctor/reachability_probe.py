"""Measures who could call a peer of this machine: listens like one for a moment, and lets the bootstrap try."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import Final

import trio

from hivemind_p2p.config import Settings
from hivemind_p2p.doctor.machine_facts import ReachabilityFact
from hivemind_p2p.errors import AddressError, NetworkError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net import listening
from hivemind_p2p.net.addresses import parse, render, tcp_endpoint
from hivemind_p2p.net.reachability import NatKind, NetworkView, Reachability
from hivemind_p2p.net.reachability_service import ReachabilitySettings
from hivemind_p2p.net.reachable import make_reachable
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.types import PeerInfo

DEADLINE: Final = 4.0
"""Seconds for the bootstrap to say what it sees and to call back; a call that a firewall swallows takes longer."""

LOOK: Final = 0.05
"""Seconds between two looks at what is known."""


async def try_reachability(
    settings: Settings, bootstrap: PeerInfo, secret: bytes | None, local: bool, tell: Callable[[object], None]
) -> None:
    """Tells a `ReachabilityFact`."""
    addresses = [address for address in settings.listen if _is_open(address)]
    view = NetworkView()
    if addresses and not local:
        with trio.move_on_after(DEADLINE):
            view = await _look([await _free(address) for address in addresses], bootstrap, secret)
    tell(_fact(view, listens=bool(addresses), local=local))


async def _look(listen: list[str], bootstrap: PeerInfo, secret: bytes | None) -> NetworkView:
    """What the network looks like from there, as far as it is known soon."""
    async with open_transport(Identity.generate(), listen, psk=secret) as transport, trio.open_nursery() as nursery:
        settings = ReachabilitySettings(trusted=(bootstrap,), upnp=False, places=1)
        service = make_reachable(transport, settings, clock=time.time)
        await nursery.start(service.run)
        with trio.move_on_after(DEADLINE / 2):
            while service.view.reachability is Reachability.UNKNOWN:  # noqa: ASYNC110 - it has no event for this
                await trio.sleep(LOOK)
        with trio.move_on_after(DEADLINE / 4):
            while service.view.needs_relay and not service.view.circuits:  # noqa: ASYNC110 - nor for this
                await trio.sleep(LOOK)
        view = service.view
        nursery.cancel_scope.cancel()
    return view


def _fact(view: NetworkView, *, listens: bool, local: bool) -> ReachabilityFact:
    return ReachabilityFact(
        reachability=view.reachability.value,
        nat=view.nat.value,
        gateway=view.gateway.value,
        observed=next(iter((*view.observed, *view.advertised)), ""),
        relayed=view.relayed,
        can_punch=view.can_punch and view.nat is not NatKind.UNKNOWN,
        ip6=view.ip6,
        witnesses=view.witnesses,
        listens=listens,
        hive_is_local=local,
    )


async def _free(address: str) -> str:
    """The address, or where its port is taken, mostly by this folder's own peer, the same with any free port."""
    try:
        await listening.check_free(address)
    except NetworkError:
        return _with_port(address, 0)
    return address


def _with_port(address: str, port: int) -> str:
    host, _ = parse(address)
    return render((host, ("tcp", str(port))))


def _is_open(address: str) -> bool:
    """Whether others than this machine could call there."""
    try:
        return not ipaddress.ip_address(tcp_endpoint(address)[0]).is_loopback
    except (AddressError, ValueError):
        return False
