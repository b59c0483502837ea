"""What a relay has promised to whom: places and circuits, within limits. Pure.

A place (reservation) lets a peer be called through this relay; a circuit is one such call. Both are bounded in number
for all and for each peer and host, so that one peer cannot take what is there for everybody.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.types import PeerId


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """How much a relay gives.

    Attributes:
        reservations: Places at once. One costs a connection, which a peer of this hive has anyway.
        reservations_a_host: Places of peers with one IP address: a classroom, not a farm.
        reservation_seconds: How long a place lasts unless it is renewed.
        circuits: Calls at once.
        circuits_a_peer: Calls at once from or to one peer.
        circuit_bytes: Bytes of one call in each direction. 0 for any number: a model's stages exchange a few GiB an
            hour, and what is larger had better move directly.
        circuit_seconds: How long a call may take. 0 for ever.
    """

    reservations: int = 1024
    reservations_a_host: int = 64
    reservation_seconds: int = 3600
    circuits: int = 512
    circuits_a_peer: int = 64
    circuit_bytes: int = 16 << 30
    circuit_seconds: int = 12 * 3600

    def __post_init__(self) -> None:
        if min(self.reservations, self.reservations_a_host, self.circuits, self.circuits_a_peer) < 0:
            raise ConfigurationError("a relay's limits cannot be below zero")
        if self.reservation_seconds < 1 or self.circuit_bytes < 0 or self.circuit_seconds < 0:
            raise ConfigurationError("a relay's places last a second or more, and no limit is below zero")


class Refusal(Enum):
    """Why a relay says no."""

    FULL = "full"
    NO_PLACE = "no place"


@dataclass(frozen=True, slots=True)
class Place:
    """One peer's place."""

    host: str
    expires: float


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """What a relay has done since it was started."""

    places: int
    circuits: int
    relayed_circuits: int
    relayed_bytes: int
    refused: int


class RelayBook:
    """Keeps the count."""

    def __init__(self, limits: RelayLimits) -> None:
        self.limits = limits
        self._places: dict[PeerId, Place] = {}
        self._circuits: Counter[PeerId] = Counter()
        self._open = self._done = self._bytes = self._refused = 0

    def reserve(self, peer: PeerId, host: str, now: float) -> float | Refusal:
        """Gives a peer a place, or renews it; until when it lasts."""
        self._forget_expired(now)
        others = [place for holder, place in self._places.items() if holder != peer]
        taken_there = sum(place.host == host for place in others)
        if len(others) >= self.limits.reservations or taken_there >= self.limits.reservations_a_host:
            self._refused += 1
            return Refusal.FULL
        expires = now + self.limits.reservation_seconds
        self._places[peer] = Place(host, expires)
        return expires

    def give_up(self, peer: PeerId) -> None:
        """Takes back the place of a peer that has gone."""
        self._places.pop(peer, None)

    def holders(self) -> tuple[PeerId, ...]:
        """Who has a place."""
        return tuple(self._places)

    def open_circuit(self, caller: PeerId, called: PeerId, now: float) -> Refusal | None:
        """Begins a call, unless it is refused."""
        place = self._places.get(called)
        if place is None or place.expires <= now:
            self._refused += 1
            return Refusal.NO_PLACE
        busiest = max(self._circuits[caller], self._circuits[called])
        if self._open >= self.limits.circuits or busiest >= self.limits.circuits_a_peer:
            self._refused += 1
            return Refusal.FULL
        self._open += 1
        self._circuits.update((caller, called))
        return None

    def close_circuit(self, caller: PeerId, called: PeerId, relayed_bytes: int) -> None:
        """Ends a call that was begun."""
        self._open -= 1
        self._done += relayed_bytes > 0
        self._bytes += relayed_bytes
        self._circuits.subtract((caller, called))
        for peer in (caller, called):
            if self._circuits[peer] <= 0:
                del self._circuits[peer]

    def statistics(self) -> RelayStatistics:
        """The counts so far."""
        return RelayStatistics(len(self._places), self._open, self._done, self._bytes, self._refused)

    def _forget_expired(self, now: float) -> None:
        for peer in [peer for peer, place in self._places.items() if place.expires <= now]:
            del self._places[peer]
