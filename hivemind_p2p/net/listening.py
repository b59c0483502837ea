"""Where to listen: whether a port is free, and under which addresses a listener can be dialled."""

from __future__ import annotations

import errno
import socket

import trio

from hivemind_p2p.errors import AddressError, NetworkError, PortInUseError
from hivemind_p2p.net.addresses import on_each_interface, parse, tcp_endpoint


async def check_free(address: str) -> None:
    """Raises unless this peer can listen at an address.

    libp2p listens with SO_REUSEPORT, so two peers of one user would share a port without noticing, and each would
    get half of the other's callers. A plain bind, just before, does notice.

    Raises:
        AddressError: It is malformed, not plain TCP, or not an address of this machine.
        PortInUseError: Another process listens there.
        NetworkError: Listening there is not allowed.
    """
    host, port = tcp_endpoint(address)
    families = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}
    protocol = parse(address)[0][0]
    if protocol not in families:
        raise AddressError(f"cannot listen at a name: {address}", hint="Listen at an IP address.")
    with trio.socket.socket(families[protocol], socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            await probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise _explained(address, error) from error


def _explained(address: str, error: OSError) -> NetworkError:
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(f"another process listens at {address}")
    if error.errno == errno.EADDRNOTAVAIL:
        return AddressError(f"{address} is not an address of this machine", hint="Listen at /ip4/0.0.0.0/tcp/0.")
    return NetworkError(f"cannot listen at {address}: {error}", hint="Choose another address or port.")


def dialable(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Where listeners can be dialled: each interface in place of ``0.0.0.0`` and ``::``."""
    import psutil

    interfaces = tuple(
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    )
    found = (place for address in addresses for place in on_each_interface(address, interfaces))
    return tuple(dict.fromkeys(found))
