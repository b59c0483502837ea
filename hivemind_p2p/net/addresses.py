"""Multiaddrs as text: parsing, checking, and telling the peer from the place. Pure, and without libp2p.

A multiaddr reads from the outside in: ``/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...`` is a host, a port and who is
expected there (https://github.com/multiformats/multiaddr). A part is a protocol and, for most protocols, a value.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from hivemind_p2p.errors import AddressError, IdentityError
from hivemind_p2p.identity import public_key_of
from hivemind_p2p.types import PeerId, PeerInfo

LONGEST: Final = 512
"""Characters; a relayed address with two peer ids has about 200."""

_DNS_NAME = re.compile(r"^(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?$")
_WITHOUT_VALUE: Final = frozenset({"quic-v1", "ws", "wss", "p2p-circuit", "webtransport"})
_HOSTS: Final = frozenset({"ip4", "ip6", "dns", "dns4", "dns6"})


def parse(address: str) -> tuple[tuple[str, str], ...]:
    """The parts of a multiaddr as (protocol, value); the value is empty for protocols that have none.

    Raises:
        AddressError: It is no multiaddr, or one of its values does not fit its protocol.
    """
    if len(address) > LONGEST or not address.startswith("/"):
        raise AddressError(f"not a multiaddr: {address[:LONGEST]!r}")
    words = address.rstrip("/").split("/")[1:]
    parts: list[tuple[str, str]] = []
    position = 0
    while position < len(words):
        protocol = words[position]
        takes = 1 if protocol in _WITHOUT_VALUE else 2
        value = "".join(words[position + 1 : position + takes])
        _check_part(protocol, value, address)
        parts.append((protocol, value))
        position += takes
    if not parts:
        raise AddressError(f"not a multiaddr: {address!r}")
    return tuple(parts)


def _check_part(protocol: str, value: str, address: str) -> None:
    """Raises unless the value is one that the protocol can have."""
    try:
        fits = _fits(protocol, value)
    except ValueError:
        fits = False
    except IdentityError as error:
        raise AddressError(f"{error} in {address!r}") from error
    if not fits:
        raise AddressError(f"cannot understand /{protocol}/{value} in {address!r}")


def _fits(protocol: str, value: str) -> bool:
    """Whether the value fits. A value that cannot even be read raises ValueError or IdentityError."""
    if protocol == "ip4":
        return bool(ipaddress.IPv4Address(value))
    if protocol == "ip6":
        return bool(ipaddress.IPv6Address(value))
    if protocol in ("tcp", "udp", "memory"):
        return value.isascii() and value.isdigit() and int(value) < 1 << 16
    if protocol == "p2p":
        return bool(public_key_of(PeerId(value)))
    if protocol.startswith("dns"):
        return protocol in _HOSTS and _DNS_NAME.match(value) is not None
    return protocol in _WITHOUT_VALUE


def split_peer(address: str) -> PeerInfo:
    """Who is expected at an address, and the address without that.

    Example:
        >>> split_peer("/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5").addresses
        ('/ip4/127.0.0.1/tcp/4001',)

    Raises:
        AddressError: It is no multiaddr, or names no peer at its end.
    """
    parts = parse(address)
    if parts[-1][0] != "p2p":
        raise AddressError(f"the address {address!r} does not end with the peer that is expected there (/p2p/...)")
    place = render(parts[:-1])
    return PeerInfo(PeerId(parts[-1][1]), (place,) if place else ())


def join_peer(peer: PeerInfo) -> tuple[str, ...]:
    """The addresses of a peer, each with the peer that is expected there."""
    return tuple(f"{address}/p2p/{peer.peer_id}" for address in peer.addresses)


def render(parts: tuple[tuple[str, str], ...]) -> str:
    """The multiaddr that has these parts."""
    return "".join(f"/{protocol}/{value}" if value else f"/{protocol}" for protocol, value in parts)


def tcp_endpoint(address: str) -> tuple[str, int]:
    """The host and the port of an address that is plain TCP: ``/ip4/.../tcp/...`` or the like, and nothing behind it.

    Raises:
        AddressError: It is no multiaddr, or something other than plain TCP.
    """
    parts = parse(address)
    if len(parts) != 2 or parts[0][0] not in _HOSTS or parts[1][0] != "tcp":
        raise AddressError(f"not a plain TCP address: {address!r}", hint="Use one like /ip4/127.0.0.1/tcp/4001.")
    return parts[0][1], int(parts[1][1])


def ip_endpoint(address: str) -> tuple[str, int]:
    """The IP address and the port of a plain TCP address that has no name to look up.

    Raises:
        AddressError: It is something else.
    """
    host, port = tcp_endpoint(address)
    if parse(address)[0][0] not in ("ip4", "ip6"):
        raise AddressError(f"names a host instead of an IP address: {address!r}")
    return host, port


def ip_address(host: str, port: int) -> str:
    """The plain TCP address of an IP address and a port.

    Raises:
        AddressError: The host is no IP address.
    """
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError as error:
        raise AddressError(f"not an IP address: {host!r}") from error
    plain = getattr(ip, "ipv4_mapped", None) or ip
    return f"/ip{plain.version}/{plain}/tcp/{port}"


def is_global(address: str) -> bool:
    """Whether a plain TCP address can be dialled from anywhere: a public IP address."""
    try:
        host, port = ip_endpoint(address)
    except AddressError:
        return False
    return ipaddress.ip_address(host).is_global and port > 0


def is_dialable(address: str) -> bool:
    """Whether the address is one that this version can dial: plain TCP to a port."""
    try:
        _, port = tcp_endpoint(address)
    except AddressError:
        return False
    return port > 0


def is_circuit(address: str) -> bool:
    """Whether an address leads through a relay: ``<where the relay is>/p2p/<relay>/p2p-circuit``."""
    try:
        relay_of(address)
    except AddressError:
        return False
    return True


def relay_of(address: str) -> PeerInfo:
    """The relay that a circuit address leads through.

    Args:
        address: ``/ip4/.../tcp/.../p2p/<relay>/p2p-circuit``, with or without the peer at its end. The place of the
            relay must be a plain TCP address: no relay behind a relay.

    Raises:
        AddressError: It is something else.
    """
    parts = parse(address)
    if parts[-1][0] == "p2p":
        parts = parts[:-1]
    if len(parts) != 4 or parts[3][0] != "p2p-circuit" or parts[2][0] != "p2p":
        raise AddressError(f"not an address through a relay: {address!r}")
    place = render(parts[:2])
    if not is_dialable(place):
        raise AddressError(f"the relay in {address!r} is not at a plain TCP address")
    return PeerInfo(PeerId(parts[2][1]), (place,))


def circuit_addresses(relay: PeerInfo) -> tuple[str, ...]:
    """Where a peer that has a place at a relay can be dialled."""
    direct = PeerInfo(relay.peer_id, tuple(filter(is_dialable, relay.addresses)))
    return tuple(f"{address}/p2p-circuit" for address in join_peer(direct))


def by_relay_only(addresses: tuple[str, ...]) -> bool:
    """Whether a peer with these addresses is reached from outside its own network through a relay only.

    Its private addresses don't count: they are of use to its neighbours at most.
    """
    return any(map(is_circuit, addresses)) and not any(map(is_global, addresses))


def on_each_interface(address: str, interfaces: tuple[str, ...]) -> tuple[str, ...]:
    """Where a listener on ``0.0.0.0`` or ``::`` can be dialled; any other address as it is.

    Args:
        address: A plain TCP address.
        interfaces: The IP addresses of this machine.

    Returns:
        One address an interface of the same family; loopback only where there is no other.
    """
    host, port = tcp_endpoint(address)
    family = parse(address)[0][0]
    if family not in ("ip4", "ip6") or not ipaddress.ip_address(host).is_unspecified:
        return (address,)
    version = 4 if family == "ip4" else 6
    usable = [ip for ip in map(ipaddress.ip_address, interfaces) if ip.version == version and not ip.is_link_local]
    outside = [ip for ip in usable if not ip.is_loopback]
    return tuple(f"/{family}/{ip}/tcp/{port}" for ip in outside or usable)
