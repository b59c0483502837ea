"""Connections whose other side has not yet said who it is: bounded, and the oldest of the loudest makes room.

Whoever can reach the port can open connections and say nothing. Refusing newcomers when there are too many would let
a few hundred silent connections shut everybody out; so the newcomer is let in, and another one goes: the oldest of
the network that has the most of them. A real peer is through its handshake within some round trips, and a flood is
its own victim.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from typing import Final

MOST: Final = 256
"""Half-open connections at once: what a hive of thousands makes after a restart, within the time of a handshake."""

MOST_OF_ONE_NETWORK: Final = 64
"""Half-open connections of one network: that many peers behind one address translator start at the same moment."""


class HalfOpen:
    """The half-open connections of a peer, by number, the oldest first.

    Args:
        most: How many there may be.
        most_of_one_network: How many may come from one network.
    """

    def __init__(self, *, most: int = MOST, most_of_one_network: int = MOST_OF_ONE_NETWORK) -> None:
        self._most = most
        self._most_of_one = most_of_one_network
        self._networks: OrderedDict[int, str] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._next = 0

    def __len__(self) -> int:
        return len(self._networks)

    def enter(self, address: str) -> tuple[int, int | None]:
        """Takes a new connection in.

        Args:
            address: The other side's IP address.

        Returns:
            The connection's number, and the number of the one that has to go for it, if any.
        """
        network = network_of(address)
        victim = self._victim(network)
        if victim is not None:
            self.leave(victim)
        number, self._next = self._next, self._next + 1
        self._networks[number] = network
        self._counts[network] += 1
        return number, victim

    def leave(self, number: int) -> None:
        """Forgets a connection that is open now, or over."""
        network = self._networks.pop(number, None)
        if network is None:
            return
        self._counts[network] -= 1
        if not self._counts[network]:
            del self._counts[network]

    def _victim(self, network: str) -> int | None:
        if self._counts[network] >= self._most_of_one:
            return self._oldest_of(network)
        if len(self._networks) >= self._most:
            return self._oldest_of(self._counts.most_common(1)[0][0])
        return None

    def _oldest_of(self, network: str) -> int:
        return next(number for number, its_network in self._networks.items() if its_network == network)


def network_of(address: str) -> str:
    """What is taken for one network: an IPv4 address, or the /64 that an IPv6 host has for itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
