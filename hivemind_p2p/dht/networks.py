"""Which networks a peer's addresses lie in, so that nobody fills a routing table from one rack of rented machines.

A peer id costs nothing, an address in another network does. Peers are therefore counted by the network that their
public addresses lie in: the /24 of an IPv4 address, the /48 of an IPv6 address (what a site is given; a /64 is given
to every customer for nothing). Host names count as one network, because names are as cheap as ids.

Loopback, private and link-local addresses count for nothing: a hive on one machine or in one office has nothing else,
and nobody can be attacked with them from elsewhere, because a peer that can't be dialled isn't kept.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from hivemind_p2p.types import PeerInfo

IPV4_PREFIX = 24
"""Bits: the smallest network that is routed in the Internet, and what a hoster rents out in one piece."""

IPV6_PREFIX = 48
"""Bits: what one site is given (RFC 6177 allows for longer ones; shorter would lump strangers together)."""

NAMES = "names"
"""The network of every host name."""


@lru_cache(maxsize=4096)
def of_addresses(addresses: tuple[str, ...]) -> frozenset[str]:
    """The networks that addresses lie in; empty where all of them are private, or none can be understood."""
    return frozenset(network for network in map(_of_address, addresses) if network)


def of_peer(info: PeerInfo) -> frozenset[str]:
    """The networks that a peer can be dialled in."""
    return of_addresses(info.addresses)


def _of_address(address: str) -> str:
    words = address.split("/", 3)
    if len(words) < 3 or words[0]:
        return ""
    kind, host = words[1], words[2]
    if kind in ("dns", "dns4", "dns6"):
        return NAMES
    return _of_ip(host) if kind in ("ip4", "ip6") else ""


def _of_ip(host: str) -> str:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if not ip.is_global or ip.is_multicast:
        return ""
    prefix = IPV4_PREFIX if ip.version == 4 else IPV6_PREFIX
    return str(ipaddress.ip_network((ip, prefix), strict=False))
