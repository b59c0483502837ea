"""Places at relays: which relays to ask, when to renew, what to do when one has gone.

Goals: a peer that needs a place has one within seconds of needing it, and again within seconds of its relay's restart;
a relay that says no, or nothing, is asked less and less often; one slow relay keeps no other waiting.
Non-goals: whether a place is needed (`reachability.decide`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import NetworkError
from hivemind_p2p.interfaces import Clock
from hivemind_p2p.net.addresses import circuit_addresses
from hivemind_p2p.net.backoff import Backoff
from hivemind_p2p.net.circuit import Circuits, Reservation
from hivemind_p2p.net.links import Links
from hivemind_p2p.types import PeerId, PeerInfo

SHORTEST_RENEWAL: Final = 30.0
"""Seconds between two renewals, whatever a relay (or its clock) says."""

LONGEST_RENEWAL: Final = 1800.0
"""The same at the most: half of what relays give. Where one of the clocks is off, the place seems to last for days."""

FIRST_RETRY: Final = 2.0
LONGEST_RETRY: Final = 30.0
"""Seconds at most until a relay is asked again, doubling with each failure. The hundreds that have a place at one relay
come back over these seconds, not at one moment."""

GIVEN_UP_AFTER: Final = 4
"""Failures after which another relay is looked for in the place of one that nobody vouches for."""

_events = telemetry.source("places")


@dataclass(slots=True)
class _Place:
    """A place at a relay, or the wish for one."""

    relay: PeerInfo
    retry: Backoff
    held: Reservation | None = None
    renew_at: float = -math.inf


class Places:
    """Keeps places.

    Args:
        links: This peer's connections.
        circuits: Asks relays.
        clock: Seconds since the epoch.
        trusted: Relays to ask first: the bootstrap.
        others: Other relays, by and by.
        most: How many places are wanted.
        chance: Numbers from 0 to 1, evenly spread, for the time until a relay is asked again.
    """

    def __init__(
        self,
        links: Links,
        circuits: Circuits,
        *,
        clock: Clock,
        trusted: Sequence[PeerInfo],
        others: Callable[[], Awaitable[Sequence[PeerInfo]]],
        most: int,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._links = links
        self._circuits = circuits
        self._clock = clock
        self._trusted = trusted
        self._others = others
        self._most = most
        self._chance = chance
        self._places: dict[PeerId, _Place] = {}

    @property
    def held(self) -> tuple[PeerId, ...]:
        """The relays that have a place for this peer."""
        return tuple(peer for peer, place in self._places.items() if place.held)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this peer can be called through them: one address a relay."""
        return tuple(
            address for place in self._places.values() if place.held for address in circuit_addresses(place.relay)[:1]
        )

    def give_up(self) -> None:
        """Wants no places any more."""
        self._places.clear()
        self._circuits.relays.clear()

    async def look(self, changed: Callable[[], object]) -> None:
        """Sees to it that there are places; calls `changed` as soon as one was won or lost."""
        await self._choose()
        async with trio.open_nursery() as nursery:
            for place in self._places.values():
                nursery.start_soon(self._keep, place, changed)

    async def _choose(self) -> None:
        """Chooses relays: the trusted ones, and others where those have none left or as a second."""
        trusted = {relay.peer_id for relay in self._trusted}
        for peer, place in list(self._places.items()):
            if place.retry.failures >= GIVEN_UP_AFTER and peer not in trusted:
                del self._places[peer]
        for relay in self._trusted:
            self._wish(relay)
        if len(self.held) >= self._most:
            return
        for relay in await self._others():
            if relay.peer_id != self._links.peer_id and len(self._places) <= self._most:
                self._wish(relay)

    def _wish(self, relay: PeerInfo) -> None:
        retry = Backoff(self._chance, first=FIRST_RETRY, most=LONGEST_RETRY)
        self._places.setdefault(relay.peer_id, _Place(relay, retry))

    async def _keep(self, place: _Place, changed: Callable[[], object]) -> None:
        if place.held and self._links.direct(place.relay.peer_id) is None:
            # The relay forgets a peer that has hung up; a restarted one never knew it.
            place.renew_at = -math.inf
            place.retry.reset()
        if trio.current_time() < max(place.renew_at, place.retry.next_try):
            return
        had = place.held is not None
        try:
            place.held = await self._circuits.reserve(place.relay)
        except NetworkError as error:
            _events.info("no_place", relay=place.relay.peer_id, reason=error.message)
            place.held = None
            place.retry.failed(trio.current_time())
        else:
            place.retry.reset()
            lifetime = place.held.expires - self._clock()
            place.renew_at = trio.current_time() + min(max(lifetime / 2, SHORTEST_RENEWAL), LONGEST_RENEWAL)
        if had != (place.held is not None):
            changed()
