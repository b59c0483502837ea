"""Being called back: libp2p's AutoNAT v1, both sides.

Participants: a peer that wants to know whether it can be called; any other peer, which tries.
Messages: ``AutoNat`` (DIAL with the addresses to try; DIAL_RESPONSE with what came of it).
Goals: the answer is proven (Noise shows that it is this peer which listens there, not its neighbour); nobody is made
    to call a third party: a server calls only the IP address that the request comes from, a few times a minute.
Non-goals: weighing the answers (`reachability.decide`).

Why not libp2p's own: it calls back as an ordinary connection, which then takes the place of the one in use, and
answers as many requests as come.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Sequence
from typing import Final

import base58
import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import AddressError, ProtocolError
from hivemind_p2p.net.addresses import ip_endpoint
from hivemind_p2p.net.binary_addresses import to_bytes, to_text
from hivemind_p2p.net.calls import Call, Link
from hivemind_p2p.net.links import PROOF_DEADLINE, Links
from hivemind_p2p.net.reachability import MOST_ADVERTISED, DialBack
from hivemind_p2p.proto import reachability_pb2 as wire
from hivemind_p2p.types import PeerId

AUTONAT: Final = "/libp2p/autonat/1.0.0"

MOST_A_MINUTE: Final = 60
"""Requests that are tried in a minute, all peers together."""

MOST_A_HOST: Final = 12
"""Of them, requests from one IP address."""

MINUTE: Final = 60.0
"""Seconds."""

_events = telemetry.source("autonat")


class DialBackQuota:
    """How many requests are tried; pure."""

    def __init__(self, most: int = MOST_A_MINUTE, most_a_host: int = MOST_A_HOST) -> None:
        self._most = most
        self._most_a_host = most_a_host
        self._tried: deque[tuple[float, str]] = deque()

    def admit(self, host: str, now: float) -> bool:
        """Whether one more request of a host is tried now; counts it if so."""
        while self._tried and self._tried[0][0] <= now - MINUTE:
            self._tried.popleft()
        from_there = sum(other == host for _, other in self._tried)
        if len(self._tried) >= self._most or from_there >= self._most_a_host:
            return False
        self._tried.append((now, host))
        return True


class AutoNat:
    """Calls others back, and asks to be called.

    Args:
        links: This peer's connections.
        quota: How many requests are tried.
    """

    def __init__(self, links: Links, quota: DialBackQuota | None = None) -> None:
        self._links = links
        self._quota = quota or DialBackQuota()
        links.serve(AUTONAT, self._answer)

    async def ask(self, link: Link, addresses: Sequence[str]) -> tuple[DialBack, ...]:
        """Asks a peer to call this one at each address that may work.

        Returns:
            What is now known of the addresses: nothing where the other side did not want to try.

        Raises:
            NetworkError: It does not answer.
        """
        found: list[DialBack] = []
        for address in addresses[:MOST_ADVERTISED]:
            # One at a time: of several the protocol says only that one of them works.
            found += await self._ask_one(link, address)
        return tuple(found)

    async def _ask_one(self, link: Link, address: str) -> tuple[DialBack, ...]:
        me = wire.RelayPeer(id=base58.b58decode(self._links.peer_id), addrs=[to_bytes(address)])
        call = await self._links.call(link, AUTONAT)
        try:
            await call.send(wire.AutoNat(type=wire.AutoNat.DIAL, dial=wire.AutoNat.Dial(peer=me)))
            answer = await call.receive(wire.AutoNat, deadline=PROOF_DEADLINE * 2)
        finally:
            await call.close()
        if answer.type != wire.AutoNat.DIAL_RESPONSE:
            raise ProtocolError(f"peer {link.peer} answered an AutoNAT request with something else")
        if answer.dial_response.status not in (wire.AutoNat.REACHED, wire.AutoNat.E_DIAL_ERROR):
            return ()
        return (DialBack(link.peer, address, answer.dial_response.status == wire.AutoNat.REACHED),)

    async def _answer(self, call: Call) -> None:
        request = await call.receive(wire.AutoNat)
        status, address = await self._try(call, request)
        response = wire.AutoNat.DialResponse(status=status)
        if address is not None:
            response.addr = to_bytes(address)
        await call.send(wire.AutoNat(type=wire.AutoNat.DIAL_RESPONSE, dial_response=response))

    async def _try(self, call: Call, request: wire.AutoNat) -> tuple[wire.AutoNat.Status, str | None]:
        if request.type != wire.AutoNat.DIAL or not request.HasField("dial"):
            return wire.AutoNat.E_BAD_REQUEST, None
        named = PeerId(base58.b58encode(request.dial.peer.id[:64]).decode())
        usable = at_host(request.dial.peer.addrs, call.endpoint[0]) if call.endpoint else []
        if call.endpoint is None or named != call.peer or not usable:
            return wire.AutoNat.E_DIAL_REFUSED, None
        if not self._quota.admit(call.endpoint[0], trio.current_time()):
            return wire.AutoNat.E_DIAL_REFUSED, None
        for address in usable:
            if await self._links.prove(call.peer, address, deadline=PROOF_DEADLINE / len(usable)):
                return wire.AutoNat.REACHED, address
        _events.debug("not_reached", peer=call.peer, addresses=usable)
        return wire.AutoNat.E_DIAL_ERROR, None


def at_host(addresses: Sequence[bytes], host: str) -> list[str]:
    """The addresses that are at the IP address that the request comes from."""
    here = _plain(host)
    found = []
    for raw in addresses[:MOST_ADVERTISED]:
        try:
            address = to_text(raw)
            there, port = ip_endpoint(address)
        except AddressError:
            continue
        if port and _plain(there) == here:
            found.append(address)
    return found


def _plain(host: str) -> str:
    ip = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(ip, "ipv4_mapped", None) or ip)
