"""From a relayed connection to a direct one: libp2p's DCUtR, both sides.

Participants: two peers with a relayed connection. The one that was called begins.
Messages: ``HolePunch``: CONNECT with the addresses at which others see the sender, CONNECT back, SYNC.
Goals: both dial each other at the same moment, from the ports that they listen on. Each router then takes the other
    side's SYN packet for the answer to its own (TCP simultaneous open), and a direct connection stands; the relayed
    one is closed once its streams have ended. Where it does not work the relayed one goes on.
Non-goals: routers with a random port for each destination: nobody can foretell where they would have to be dialled.

Why not libp2p's own: it looks for relayed connections every two seconds, believes any address that it is told (and
would scan a stranger's network for another stranger), and cannot tell which port its router uses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import AddressError, NetworkError, ProtocolError
from hivemind_p2p.net.addresses import ip_endpoint, is_global
from hivemind_p2p.net.binary_addresses import to_bytes, to_text
from hivemind_p2p.net.calls import Call, Link
from hivemind_p2p.net.identify import ask
from hivemind_p2p.net.links import Links
from hivemind_p2p.proto import reachability_pb2 as wire
from hivemind_p2p.types import PeerId

DCUTR: Final = "/libp2p/dcutr"

ATTEMPTS: Final = 3
"""Tries of one upgrade, as the specification says."""

MOST_ADDRESSES: Final = 4
"""Addresses of the other side that are dialled."""

DIAL_DEADLINE: Final = 4.0
"""Seconds for the two SYN packets to meet: the first may be lost, and is sent again after one second and three."""

REVERSAL_DEADLINE: Final = 3.0
"""Seconds for simply dialling a caller that may be reachable itself."""

HESITATION: Final = 0.02
"""Seconds that the side which is the server waits on top of half a round trip: were its SYN the first to come to a
listener, that listener would take itself for the server as well, and nobody would begin."""

_events = telemetry.source("hole_punch")


class HolePunch:
    """Upgrades relayed connections.

    Args:
        links: This peer's connections.
        observed: The addresses at which others see this peer, asked anew for each upgrade; the best first.
    """

    def __init__(self, links: Links, *, observed: Callable[[], Sequence[str]]) -> None:
        self._links = links
        self._observed = observed
        self._under_way: set[PeerId] = set()
        self.succeeded = self.failed = 0
        links.serve(DCUTR, self._answer)

    async def upgrade(self, peer: PeerId) -> bool:
        """Tries to get a direct connection to a peer that has called through a relay; whether there is one now."""
        if self._links.direct(peer) is not None or peer in self._under_way:
            return self._links.direct(peer) is not None
        self._under_way.add(peer)
        try:
            done = await self._upgrade(peer)
        finally:
            self._under_way.discard(peer)
        self.succeeded += done
        self.failed += not done
        _events.info("upgraded" if done else "upgrade_failed", peer=peer)
        return done

    async def _upgrade(self, peer: PeerId) -> bool:
        if await self._reverse(peer):
            return True
        for _ in range(ATTEMPTS):
            link = next((link for link in self._links.of(peer) if link.relayed), None)
            if link is None or not self._observed():
                break
            try:
                theirs = await self._agree(link)
            except NetworkError as error:
                _events.debug("not_agreed", peer=peer, reason=error.message)
                break
            if not theirs:
                break
            if await self._dial(peer, theirs, as_server=True):
                return True
        return self._links.direct(peer) is not None

    async def _reverse(self, peer: PeerId) -> bool:
        """Dials the caller, which may be reachable although this peer is not."""
        link = next((link for link in self._links.of(peer) if link.relayed), None)
        if link is None:
            return self._links.direct(peer) is not None
        try:
            told = await ask(self._links, link)
        except NetworkError:
            return False
        public = [address for address in told.listening if is_global(address)][:MOST_ADDRESSES]
        for address in public:
            with trio.move_on_after(REVERSAL_DEADLINE):
                try:
                    await self._links.dial(peer, address)
                    return True
                except NetworkError as error:
                    _events.debug("not_reversed", peer=peer, reason=error.message)
        return False

    async def _agree(self, link: Link) -> list[str]:
        """Exchanges addresses and the moment to dial."""
        call = await self._links.call(link, DCUTR)
        try:
            started = trio.current_time()
            await call.send(self._connect_message())
            answer = await call.receive(wire.HolePunch)
            round_trip = trio.current_time() - started
            if answer.type != wire.HolePunch.CONNECT:
                raise ProtocolError(f"peer {link.peer} did not answer with its addresses")
            await call.send(wire.HolePunch(type=wire.HolePunch.SYNC))
        finally:
            await call.close()
        await trio.sleep(round_trip / 2 + HESITATION)
        return self._usable(answer.obs_addrs)

    async def _answer(self, call: Call) -> None:
        """The side that called: dials as soon as it is told to."""
        if call.endpoint is not None:
            raise ProtocolError(f"peer {call.peer} asks for an upgrade over a direct connection")
        request = await call.receive(wire.HolePunch)
        if request.type != wire.HolePunch.CONNECT:
            raise ProtocolError(f"peer {call.peer} began an upgrade without its addresses")
        await call.send(self._connect_message())
        sync = await call.receive(wire.HolePunch)
        if sync.type != wire.HolePunch.SYNC:
            raise ProtocolError(f"peer {call.peer} gave no sign to dial")
        await self._dial(call.peer, self._usable(request.obs_addrs), as_server=False)

    async def _dial(self, peer: PeerId, addresses: Sequence[str], *, as_server: bool) -> bool:
        with trio.move_on_after(DIAL_DEADLINE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, peer, nursery.cancel_scope)
                for address in addresses:
                    nursery.start_soon(self._try, peer, address, as_server)
        return self._links.direct(peer) is not None

    async def _watch(self, peer: PeerId, dialling: trio.CancelScope) -> None:
        """Ends the dialling once there is a connection, whichever side's it is."""
        while self._links.direct(peer) is None:  # noqa: ASYNC110 - libp2p has no event for it
            await trio.sleep(0.05)
        dialling.cancel()

    async def _try(self, peer: PeerId, address: str, as_server: bool) -> None:
        try:
            await self._links.punch(peer, address, as_server=as_server)
        except NetworkError as error:
            _events.debug("punch_failed", peer=peer, address=address, reason=error.message)

    def _connect_message(self) -> wire.HolePunch:
        seen = [to_bytes(address) for address in self._observed()[:MOST_ADDRESSES]]
        return wire.HolePunch(type=wire.HolePunch.CONNECT, obs_addrs=seen)

    def _usable(self, addresses: Sequence[bytes]) -> list[str]:
        # Where this peer itself is seen at a private address the whole hive is in a private network.
        return usable(addresses, private=any(not is_global(address) for address in self._observed()))


def usable(addresses: Sequence[bytes], *, private: bool) -> list[str]:
    """The addresses that may be dialled because another peer names them.

    Args:
        addresses: What it names.
        private: Whether private addresses may be; nobody shall make this peer scan its own network.
    """
    found = []
    for raw in addresses[:MOST_ADDRESSES]:
        try:
            address = to_text(raw)
            host, port = ip_endpoint(address)
        except AddressError:
            continue
        ip = ipaddress.ip_address(host)
        near = private and ip.is_private and not ip.is_loopback and not ip.is_link_local
        if port and (is_global(address) or near):
            found.append(address)
    return found
