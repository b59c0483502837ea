"""TCP connections by address: names are looked up, and what went wrong is said in a few plain words."""

from __future__ import annotations

import errno
import socket
from typing import Final

import trio

from hivemind_p2p.errors import NetworkError
from hivemind_p2p.net.addresses import ip_address, ip_endpoint, parse, tcp_endpoint

MOST_RESOLVED: Final = 4
"""IP addresses of one name that are tried."""

_FAMILIES: Final = {
    "ip4": socket.AF_INET,
    "dns4": socket.AF_INET,
    "ip6": socket.AF_INET6,
    "dns6": socket.AF_INET6,
}
_NO_WAY: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})


async def open_socket(address: str, source: tuple[str, int] | None = None) -> trio.SocketStream:
    """Connects to a plain TCP address.

    Of a name that has several IP addresses, all are tried, IPv4 and IPv6: who is there is proven afterwards.

    Args:
        address: Where to.
        source: The IP address and port to call from, shared with a listener; the address is then no name.

    Raises:
        AddressError: It is no plain TCP address, or a name where an IP address is needed.
        NetworkError: Nobody answers; the message says how, but not where.
    """
    try:
        if source is not None:
            return await _open_from(source, ip_endpoint(address))
        host, port = tcp_endpoint(address)
        return await trio.open_tcp_stream(host, port)
    except OSError as error:
        raise NetworkError(_in_words(cause_of(error))) from error
    except UnicodeError as error:
        raise NetworkError("the name cannot be looked up") from error


async def resolved(address: str) -> tuple[str, ...]:
    """The same plain TCP address with IP addresses for a name, the system's favourite first; at least one.

    Raises:
        AddressError: It is no plain TCP address.
        NetworkError: The name has no address.
    """
    host, port = tcp_endpoint(address)
    family = _FAMILIES.get(parse(address)[0][0], socket.AF_UNSPEC)
    try:
        found = await trio.socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NetworkError(_in_words(error)) from error
    except UnicodeError as error:
        raise NetworkError("the name cannot be looked up") from error
    return tuple(dict.fromkeys(ip_address(str(entry[4][0]), port) for entry in found))[:MOST_RESOLVED]


def shared_socket(family: int) -> trio.socket.SocketType:
    """A TCP socket that can be bound to a port at which this process listens, too: so a hole can be punched from it."""
    opened = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        opened.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        if hasattr(trio.socket, "SO_REUSEPORT"):
            opened.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEPORT, 1)
    except BaseException:
        opened.close()
        raise
    return opened


async def _open_from(source: tuple[str, int], target: tuple[str, int]) -> trio.SocketStream:
    opened = shared_socket(trio.socket.AF_INET6 if ":" in target[0] else trio.socket.AF_INET)
    try:
        await opened.bind(source)
        await opened.connect(target)
    except BaseException:
        opened.close()
        raise
    return trio.SocketStream(opened)


def cause_of(error: OSError) -> BaseException:
    """What the system has said: trio wraps it, in a group where there was more than one try."""
    cause: BaseException = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause


def port_is_taken(error: BaseException) -> bool:
    """Whether a connection failed because there is one from this port to there already."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.EADDRNOTAVAIL, errno.EADDRINUSE):
            return True
        cause = cause.__cause__
    return False


def _in_words(cause: BaseException) -> str:
    if isinstance(cause, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(cause, socket.gaierror):
        return "the name has no address"
    if isinstance(cause, TimeoutError):
        return "no answer"
    if isinstance(cause, OSError) and cause.errno in _NO_WAY:
        return "there is no way to that network"
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
