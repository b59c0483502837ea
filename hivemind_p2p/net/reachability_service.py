"""Finds out who can reach this peer, and sees to it that everybody can.

Participants: this peer; the bootstrap and a few other peers as witnesses; relays; the router of this machine's network.
Messages: those of identify, AutoNAT, circuit relay v2, DCUtR (`reachability.proto`) and UPnP.
Goals:
    - A peer that can be called says where. One that cannot has a place at a relay within seconds, renews it, and
      takes another when the relay has gone; a call through a relay becomes direct where routers allow it.
    - What is told about this peer's addresses is what was proven, and follows when the network changes.
    - A relay that is restarted has its peers back within seconds.
Non-goals: deciding what the evidence means (`reachability.py`); finding witnesses and relays (the caller's part).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import AddressError, NetworkError
from hivemind_p2p.interfaces import Clock, TaskStatus
from hivemind_p2p.net import identify
from hivemind_p2p.net.addresses import ip_endpoint, is_circuit
from hivemind_p2p.net.autonat import AUTONAT, AutoNat
from hivemind_p2p.net.circuit import Circuits
from hivemind_p2p.net.hole_punch import HolePunch
from hivemind_p2p.net.links import Links
from hivemind_p2p.net.places import Places
from hivemind_p2p.net.reachability import (
    DialBack,
    Evidence,
    Gateway,
    NatKind,
    NetworkView,
    Observation,
    Reachability,
    candidates,
    decide,
)
from hivemind_p2p.net.relay import Relay
from hivemind_p2p.net.relay_book import RelayLimits, RelayStatistics
from hivemind_p2p.net.upnp import LEASE_SECONDS, Mapping, PortMapper
from hivemind_p2p.types import PeerId, PeerInfo

if TYPE_CHECKING:
    from libp2p.host.basic_host import BasicHost

EAGER: Final = 5.0
"""Seconds between two looks at the network as long as it is not understood."""

RARELY: Final = 600.0
"""Most seconds between two looks once it is, doubling up to here: each costs the witness a call back. A laptop that is
moved is noticed by its own interfaces, `EAGER` seconds later."""

TICK: Final = 1.0
"""Seconds between two looks at the places at relays."""

MOST_PLACES: Final = 2
"""Relays at which this peer keeps a place: one, and one more for when it goes."""

MOST_WITNESSES: Final = 3
"""Peers besides the bootstrap that are asked what they see."""

RETIRE_TICK: Final = 5.0
"""Seconds between two looks at a relayed connection that a direct one has replaced."""

_events = telemetry.source("reachability")


async def nobody() -> Sequence[PeerInfo]:
    """No peers: what a caller that knows none hands in."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachabilitySettings:
    """What a peer does to be reachable, and for others.

    Attributes:
        trusted: The bootstrap: a witness whose word counts alone, and the first relay to ask.
        witnesses: Other peers that can be asked, by and by.
        relays: Other peers that relay.
        limits: How much this peer relays for others; None for not at all.
        upnp: Whether the router is asked for a port.
        places: At how many relays a place is kept.
    """

    trusted: tuple[PeerInfo, ...] = ()
    witnesses: Callable[[], Awaitable[Sequence[PeerInfo]]] = nobody
    relays: Callable[[], Awaitable[Sequence[PeerInfo]]] = nobody
    limits: RelayLimits | None = None
    upnp: bool = True
    places: int = MOST_PLACES


@dataclass(frozen=True, slots=True)
class ReachabilityStatistics:
    """What this peer's network looks like, and what was done about it.

    Attributes:
        view: The network.
        places: Relays that hold a place for this peer.
        upgraded: Relayed connections that became direct.
        not_upgraded: Those that did not.
        relay: What this peer relays for others; None if it does not.
    """

    view: NetworkView
    places: tuple[PeerId, ...]
    upgraded: int
    not_upgraded: int
    relay: RelayStatistics | None


class ReachabilityService:
    """Runs beside a transport.

    Args:
        host: libp2p's host, listening.
        bound: The addresses that it listens at, with their ports, wildcards as they are.
        settings: What to do.
        clock: Seconds since the epoch.
        listening: Where the listeners can be dialled on each interface; asked anew at each look.
        advertise: Told where this peer can be dialled, each time that changes.
        keep: Told whose connections must not be closed for being idle: relays', and those of peers that this relay
            has given a place.
    """

    def __init__(
        self,
        host: BasicHost,
        bound: Sequence[str],
        settings: ReachabilitySettings,
        *,
        clock: Clock,
        listening: Callable[[], tuple[str, ...]],
        advertise: Callable[[tuple[str, ...]], object],
        keep: Callable[[frozenset[PeerId]], object] = frozenset,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._listening = listening
        self._advertise = advertise
        self._keep_connections = keep
        self._kept: frozenset[PeerId] = frozenset()
        self.links = Links(host, bound)
        self.links.reuse_port_to |= {peer.peer_id for peer in settings.trusted}
        self.circuits = Circuits(self.links, connect=self.links.connect, taken=self._taken)
        self._autonat = AutoNat(self.links)
        self._punch = HolePunch(self.links, observed=self._observed)
        self._relay = self._make_relay(settings.limits)
        self._mapper = PortMapper()
        self._mapping = Mapping(Gateway.UNTRIED)
        self._evidence = Evidence(listening(), trusted=frozenset(peer.peer_id for peer in settings.trusted))
        self._view = decide(self._evidence)
        self._places = Places(
            self.links,
            self.circuits,
            clock=clock,
            trusted=settings.trusted,
            others=settings.relays,
            most=settings.places,
        )
        self._look_again = trio.Event()
        self._needed = trio.Event()
        self._interval = EAGER
        self._nursery: trio.Nursery | None = None

    def _make_relay(self, limits: RelayLimits | None) -> Relay | None:
        if limits is None:
            return None
        return Relay(self.links, limits, clock=self._clock, addresses=lambda: self._view.advertised)

    @property
    def view(self) -> NetworkView:
        """What the network looks like now."""
        return self._view

    def statistics(self) -> ReachabilityStatistics:
        """What was found and done so far."""
        return ReachabilityStatistics(
            view=self._view,
            places=self._places.held,
            upgraded=self._punch.succeeded,
            not_upgraded=self._punch.failed,
            relay=self._relay.statistics() if self._relay else None,
        )

    async def dial(self, peer: PeerId, address: str) -> Any:
        """Connects to a peer at a plain TCP address or through a relay; libp2p's connection.

        Raises:
            NetworkError: There is no answer, or somebody else is there.
        """
        if is_circuit(address):
            return await self.circuits.dial(peer, address)
        return await self.links.dial(peer, address)

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Watches the network until cancelled."""
        self._tell()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._keep_places)
                if self._settings.upnp:
                    nursery.start_soon(self._keep_mapping)
                task_status.started()
                while True:
                    await self._look()
                    await self._rest()
        finally:
            self._nursery = None
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await self._mapper.unmap(self._mapping)

    async def _rest(self) -> None:
        """Waits until it is time to look again: rarely once nothing changes, at once in another network."""
        understood = self._view.reachability is not Reachability.UNKNOWN or not self._settings.trusted
        self._interval = min(self._interval * 2, RARELY) if understood else EAGER
        self._look_again = trio.Event()
        over = trio.current_time() + self._interval
        while trio.current_time() < over and self._listening() == self._evidence.listening:
            with trio.move_on_after(EAGER):
                await self._look_again.wait()
                return

    async def _look(self) -> None:
        """Asks the witnesses what they see, and whether they can call."""
        here = self._listening()
        if here != self._evidence.listening:
            # Another network: what was true in the old one says nothing of it.
            self._evidence = Evidence(here, trusted=self._evidence.trusted)
            self._conclude()
        known = self._settings.trusted
        others = [peer for peer in await self._settings.witnesses() if peer.peer_id not in self._evidence.trusted]
        async with trio.open_nursery() as nursery:
            for witness in (*known, *others[:MOST_WITNESSES]):
                self.links.reuse_port_to.add(witness.peer_id)
                nursery.start_soon(self._try_to_question, witness)

    async def _try_to_question(self, witness: PeerInfo) -> None:
        try:
            await self._question(witness)
        except NetworkError as error:
            _events.debug("no_witness", peer=witness.peer_id, reason=error.message)
        self._conclude()

    async def _question(self, witness: PeerInfo) -> None:
        link = await self.links.connect(witness)
        told = await identify.ask(self.links, link)
        if told.observed is not None:
            seen = Observation(witness.peer_id, told.observed, self.links.dialled_from(link))
            others = tuple(each for each in self._evidence.observations if each.observer != witness.peer_id)
            self._evidence = replace(self._evidence, observations=(*others, seen))
            # The kind of NAT is known before the calls back, which take long where they fail: a place can be taken.
            self._conclude()
        worth_trying = candidates(self._evidence)
        if AUTONAT not in told.protocols or not worth_trying:
            return
        tried: tuple[DialBack, ...] = await self._autonat.ask(link, worth_trying)
        if tried:
            others_tried = tuple(each for each in self._evidence.dial_backs if each.by != witness.peer_id)
            self._evidence = replace(self._evidence, dial_backs=(*others_tried, *tried))

    def _conclude(self) -> None:
        self._evidence = replace(
            self._evidence,
            circuits=self._places.addresses,
            gateway=self._mapping.gateway,
            mapped=self._mapping.address,
        )
        before, self._view = self._view, decide(self._evidence)
        if before != self._view:
            _events.info("network", reachability=self._view.reachability.value, nat=self._view.nat.value)
        if self._view.needs_relay and not before.needs_relay:
            self._needed.set()
        if before.advertised != self._view.advertised:
            self._tell()

    def _tell(self) -> None:
        self.links.announce(self._view.advertised)
        self._advertise(self._view.advertised)

    def _observed(self) -> Sequence[str]:
        return () if self._view.nat is NatKind.SYMMETRIC else candidates(self._evidence)

    async def _taken(self, peer: PeerId) -> None:
        """Another peer has called through a relay."""
        if self._nursery is not None:
            self._nursery.start_soon(self._upgrade, peer)

    async def _upgrade(self, peer: PeerId) -> None:
        """Makes a relayed connection that another peer opened direct, and closes it once nobody uses it."""
        if not await self._punch.upgrade(peer):
            return
        while relayed := [link for link in self.links.of(peer) if link.relayed]:
            if self.links.direct(peer) is None:
                return
            await trio.sleep(RETIRE_TICK)
            for link in relayed:
                if link.streams == 0:
                    await link.close()

    async def _keep_mapping(self) -> None:
        """Asks the router for a port once it is known that there is one, and again before it forgets."""
        while True:
            if self._view.needs_relay or self._mapping.gateway is Gateway.MAPPED:
                self._mapping = await self._mapper.map(self._port())
                self._conclude()
                self._look_again.set()
                await trio.sleep(LEASE_SECONDS / 2)
            await trio.sleep(TICK)

    def _port(self) -> int:
        for address in self._evidence.listening:
            try:
                return ip_endpoint(address)[1]
            except AddressError:
                continue
        return 0

    async def _keep_places(self) -> None:
        """Has a place at some relays as long as one is needed."""
        while True:
            if self._view.needs_relay:
                await self._places.look(self._conclude)
            elif self._places.held:
                self._places.give_up()
                self._conclude()
            self._say_whom_to_keep()
            with trio.move_on_after(TICK):
                await self._needed.wait()
            self._needed = trio.Event()

    def _say_whom_to_keep(self) -> None:
        holders = self._relay.holders() if self._relay else ()
        kept = self._evidence.trusted | frozenset((*self._places.held, *holders))
        if kept != self._kept:
            self._kept = kept
            self._keep_connections(kept)
