"""Who can reach this peer, and how: evidence in, a view of the network out. Pure.

A peer behind a router with address translation (NAT) can call others but not be called. Nothing tells it so: it has
to put together what its own interfaces say, what others say they see (identify), whether others could call it back
(AutoNAT), whether its router opened a port (UPnP), and who relays for it (circuit relay v2).

What others say may be a lie, so their word is weighed: the bootstrap, whom the hive trusts anyway, decides alone;
of strangers two have to agree.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from hivemind_p2p.errors import AddressError
from hivemind_p2p.net.addresses import ip_address, ip_endpoint, is_global
from hivemind_p2p.types import PeerId

STRANGERS: Final = 2
"""How many peers that nobody vouches for have to say the same before it counts."""

MOST_ADVERTISED: Final = 8
"""Addresses that a peer tells about itself: as many as others try."""


MOST_TRIED: Final = 4
"""Addresses that others are asked to call back: a failure takes them seconds each."""


class Reachability(Enum):
    """Whether the hive can call this peer."""

    PUBLIC = "public"
    PRIVATE = "private"
    UNKNOWN = "unknown"


class NatKind(Enum):
    """What stands between this peer and the hive (RFC 4787 calls the middle two mappings by their long names)."""

    NONE = "none"
    """Others see the address that this peer's own interface has."""

    CONE = "cone"
    """Endpoint-independent mapping: everybody sees the same port, so two such peers can punch a hole."""

    SYMMETRIC = "symmetric"
    """Address-and-port-dependent mapping: everybody sees another port, which nobody can foretell."""

    BLOCKED = "blocked"
    """No translation, but a firewall that lets no call in."""

    UNKNOWN = "unknown"


class Gateway(Enum):
    """What came of asking the router to open a port (UPnP)."""

    UNTRIED = "untried"
    ABSENT = "absent"
    REFUSED = "refused"
    MAPPED = "mapped"


@dataclass(frozen=True, slots=True)
class Observation:
    """What one peer says it sees of this one.

    Attributes:
        observer: Who says so.
        address: A plain TCP address.
        from_port: The local port that this peer called from: only calls from the port it listens on tell what
            callers will find there.
    """

    observer: PeerId
    address: str
    from_port: int


@dataclass(frozen=True, slots=True)
class DialBack:
    """What came of one peer calling this one back (AutoNAT).

    Attributes:
        by: Who called.
        address: Where it called; of a failure, each address that it was asked to try.
        reached: Whether this peer answered.
    """

    by: PeerId
    address: str
    reached: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is known at one moment; the newest word of each peer only.

    Attributes:
        listening: Plain TCP addresses of this machine's interfaces, with the ports listened on.
        observations: What others see.
        dial_backs: Who could call back.
        gateway: What the router answered.
        mapped: The address that the router forwards here.
        circuits: Addresses through relays that hold a place for this peer.
        trusted: Peers whose word decides alone: the bootstrap.
    """

    listening: tuple[str, ...] = ()
    observations: tuple[Observation, ...] = ()
    dial_backs: tuple[DialBack, ...] = ()
    gateway: Gateway = Gateway.UNTRIED
    mapped: str | None = None
    circuits: tuple[str, ...] = ()
    trusted: frozenset[PeerId] = frozenset()


@dataclass(frozen=True, slots=True)
class NetworkView:
    """What this peer's network looks like from inside the hive; `decide` makes it.

    Attributes:
        reachability: Whether others can call this peer directly.
        nat: What stands between.
        advertised: The addresses to tell others, the best first, relayed ones last.
        needs_relay: Whether this peer should have a place at a relay.
        observed: The addresses at which others see it, the most often seen first.
        gateway: What came of asking the router for a port.
        mapped: The address that the router forwards here.
        circuits: Addresses through relays.
        ip6: Whether one of its interfaces has a public IPv6 address.
        witnesses: How many peers have tried to call it back.
    """

    reachability: Reachability = Reachability.UNKNOWN
    nat: NatKind = NatKind.UNKNOWN
    advertised: tuple[str, ...] = ()
    needs_relay: bool = False
    observed: tuple[str, ...] = ()
    gateway: Gateway = Gateway.UNTRIED
    mapped: str | None = None
    circuits: tuple[str, ...] = ()
    ip6: bool = False
    witnesses: int = 0

    @property
    def relayed(self) -> bool:
        """Whether others reach this peer through a relay only."""
        return self.needs_relay and bool(self.circuits)

    @property
    def can_punch(self) -> bool:
        """Whether an upgrade from a relayed to a direct connection may work (DCUtR)."""
        return self.nat is not NatKind.SYMMETRIC and bool(self.observed)


def decide(evidence: Evidence) -> NetworkView:
    """What the evidence amounts to."""
    confirmed, refuted = _judge_addresses(evidence)
    nat = _nat_kind(evidence, bool(confirmed), bool(refuted))
    reachability = Reachability.UNKNOWN
    if confirmed:
        reachability = Reachability.PUBLIC
    elif refuted:
        reachability = Reachability.PRIVATE
    behind_nat = nat in (NatKind.CONE, NatKind.SYMMETRIC) or _is_translated(evidence)
    needs_relay = reachability is Reachability.PRIVATE or (reachability is Reachability.UNKNOWN and behind_nat)
    return NetworkView(
        reachability=reachability,
        nat=nat,
        advertised=_advertised(evidence, confirmed, refuted, needs_relay),
        needs_relay=needs_relay,
        observed=_most_seen(seen.address for seen in _from_listening_port(evidence)),
        gateway=evidence.gateway,
        mapped=evidence.mapped,
        circuits=evidence.circuits,
        ip6=any(address.startswith("/ip6/") and is_global(address) for address in evidence.listening),
        witnesses=len({tried.by for tried in evidence.dial_backs}),
    )


def candidates(evidence: Evidence) -> tuple[str, ...]:
    """The addresses worth asking others to call back: the router's word, what others see, public interfaces."""
    seen = _most_seen(seen.address for seen in _from_listening_port(evidence))
    if len(seen) > 1:
        seen = ()  # another port for each: none of them is there for others
    mapped = (evidence.mapped,) if evidence.mapped else ()
    own = tuple(filter(is_global, evidence.listening))
    # A port that somebody has forwarded by hand is found at the router, wherever calls leave from.
    hosts = dict.fromkeys(_host(each.address) for each in evidence.observations)
    ports = dict.fromkeys(_port(address) for address in evidence.listening)
    by_hand = tuple(ip_address(host, port) for host in hosts for port in ports if host and port)
    return tuple(dict.fromkeys((*mapped, *seen, *own, *by_hand)))[:MOST_TRIED]


def _judge_addresses(evidence: Evidence) -> tuple[list[str], list[str]]:
    """The addresses at which this peer can be called for certain, and those at which it cannot."""
    confirmed, refuted = [], []
    for address in dict.fromkeys(tried.address for tried in evidence.dial_backs):
        tries = [tried for tried in evidence.dial_backs if tried.address == address]
        trusted = [tried.reached for tried in tries if tried.by in evidence.trusted]
        yes = sum(tried.reached for tried in tries)
        no = len(tries) - yes
        if any(trusted) or (not trusted and yes >= STRANGERS and yes > no):
            confirmed.append(address)
        elif trusted or (no >= STRANGERS and no > yes):
            refuted.append(address)
    return confirmed, refuted


def _nat_kind(evidence: Evidence, reached: bool, refused: bool) -> NatKind:
    if not evidence.observations:
        return NatKind.UNKNOWN
    if not _is_translated(evidence):
        return NatKind.BLOCKED if refused and not reached else NatKind.NONE
    calls = _from_listening_port(evidence)
    if len({seen.address for seen in calls}) > 1:
        return NatKind.SYMMETRIC
    if len({seen.observer for seen in calls}) > 1:
        return NatKind.CONE
    # One witness: a router that keeps the port is the same for everybody, as far as anyone has seen.
    kept = any(_port(seen.address) == seen.from_port for seen in calls)
    return NatKind.CONE if kept else NatKind.UNKNOWN


def _is_translated(evidence: Evidence) -> bool:
    """Whether others see hosts that are none of this machine's."""
    own = {_host(address) for address in evidence.listening}
    hosts = {_host(seen.address) for seen in evidence.observations}
    return bool(hosts) and not hosts & own


def _from_listening_port(evidence: Evidence) -> list[Observation]:
    ports = {_port(address) for address in evidence.listening}
    return [seen for seen in evidence.observations if seen.from_port in ports]


def _advertised(
    evidence: Evidence, confirmed: Sequence[str], refuted: Sequence[str], needs_relay: bool
) -> tuple[str, ...]:
    mapped = [evidence.mapped] if evidence.mapped and evidence.mapped not in refuted else []
    own = [address for address in evidence.listening if not (is_global(address) and address in refuted)]
    own.sort(key=lambda address: not is_global(address))
    circuits = evidence.circuits if needs_relay else ()
    direct = tuple(dict.fromkeys((*confirmed, *mapped, *own)))
    return (*direct[: MOST_ADVERTISED - len(circuits)], *circuits)[:MOST_ADVERTISED]


def _most_seen(addresses: Iterable[str]) -> tuple[str, ...]:
    counted: dict[str, int] = {}
    for address in addresses:
        counted[address] = counted.get(address, 0) + 1
    return tuple(sorted(counted, key=lambda address: -counted[address]))


def _host(address: str) -> str:
    """The host of an address in one spelling; empty for one that names none."""
    try:
        host, _ = ip_endpoint(address)
    except AddressError:
        return ""
    ip = ipaddress.ip_address(host)
    mapped = getattr(ip, "ipv4_mapped", None)
    return str(mapped or ip)


def _port(address: str) -> int:
    try:
        return ip_endpoint(address)[1]
    except AddressError:
        return 0
