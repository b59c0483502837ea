"""A port of the router for this peer: UPnP, by the miniupnpc library that libp2p brings.

Goals: nothing that the router does holds this peer up: each step runs in a thread that is left behind when it takes
    too long, and a router that answers nonsense counts as one that refuses. The port is asked for with a lifetime, so
    that a peer that was killed leaves no open port behind, and is given back when the peer ends.
Non-goals: NAT-PMP and PCP; routers behind routers (the outer one is never asked; AutoNAT tells that it did not help).

Why not libp2p's own `UpnpManager`: its threads cannot be left, its mappings last for ever, and it takes no other port
than the inner one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import AddressError
from hivemind_p2p.net.addresses import ip_address
from hivemind_p2p.net.reachability import Gateway

DISCOVERY_MILLISECONDS: Final = 2000
"""How long answers are waited for; a router in the same network takes a few."""

STEP_DEADLINE: Final = 5.0
"""Seconds for one question to the router."""

LEASE_SECONDS: Final = 3600
"""How long a port is asked for. It is asked for anew after half of that."""

TRIES: Final = 4
"""Outer ports that are tried: the inner one first, then ones further up."""

STEP: Final = 1009
"""How much further up: a prime, so that neighbours who all listen at 4001 do not meet again."""

HIGHEST_PORT: Final = 65_535

_DESCRIPTION: Final = "hivemind_p2p"

ResultType = TypeVar("ResultType")

_events = telemetry.source("upnp")


@dataclass(frozen=True, slots=True)
class Mapping:
    """What came of it: the state, and the outer address where there is one."""

    gateway: Gateway
    address: str | None = None
    port: int = 0


class PortMapper:
    """Asks the router of this machine's network.

    Args:
        make: Makes the library's object; replaced in tests.
    """

    def __init__(self, make: Callable[[], Any] | None = None) -> None:
        self._make = make or _miniupnpc
        self._router: Any = None

    async def map(self, port: int) -> Mapping:
        """Has the router forward a port to this machine, or says why it does not. Never fails."""
        if not await self._discover():
            return Mapping(Gateway.ABSENT)
        router = self._router
        host = await _step(lambda: str(router.externalipaddress()), "")
        for outer in range(port, min(port + TRIES * STEP, HIGHEST_PORT), STEP):
            try:
                outside = ip_address(host, outer)
            except AddressError:
                break
            if await _step(partial(_add, router, outer, port), False):
                _events.info("mapped", address=outside)
                return Mapping(Gateway.MAPPED, outside, outer)
        return Mapping(Gateway.REFUSED)

    async def unmap(self, mapping: Mapping) -> None:
        """Gives the port back. Never fails."""
        router = self._router
        if router is not None and mapping.gateway is Gateway.MAPPED:
            await _step(lambda: bool(router.deleteportmapping(mapping.port, "TCP", "")), False)

    async def _discover(self) -> bool:
        router = self._make()
        router.discoverdelay = DISCOVERY_MILLISECONDS
        found = await _step(lambda: _found(router), False)
        self._router = router if found else None
        return found


def _add(router: Any, outer: int, inner: int) -> bool:
    return bool(router.addportmapping(outer, "TCP", router.lanaddr, inner, _DESCRIPTION, "", LEASE_SECONDS))


def _found(router: Any) -> bool:
    router.discover()
    return bool(router.selectigd())


async def _step(work: Callable[[], ResultType], otherwise: ResultType) -> ResultType:
    """Runs one blocking question in a thread; what goes wrong, or takes too long, gives `otherwise`."""

    def run() -> ResultType:
        try:
            return work()
        except Exception as error:
            # miniupnpc raises bare `Exception` for everything, success of some kinds included.
            _events.debug("router_failed", reason=str(error))
            return otherwise

    with trio.move_on_after(STEP_DEADLINE):
        return await trio.to_thread.run_sync(run, abandon_on_cancel=True)
    return otherwise


def _miniupnpc() -> Any:
    import miniupnpc

    return miniupnpc.UPnP()
