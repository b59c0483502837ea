"""Multiaddrs as bytes, the form in which libp2p's own protocols carry them. Pure, and without libp2p.

A part is the number of its protocol as an unsigned varint, then its value: of a fixed size, or behind its length as
another varint (https://github.com/multiformats/multiaddr, protocols.csv).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import base58

from hivemind_p2p.errors import AddressError
from hivemind_p2p.net import addresses

LONGEST: Final = 256
"""Bytes; a relayed address with two peer ids has about 100."""

_LONGEST_VARINT: Final = 9
"""Bytes (63 bits), as the multiformats' unsigned varints are bounded."""


@dataclass(frozen=True, slots=True)
class _Protocol:
    """How the value of a protocol is written.

    Attributes:
        name: As text.
        code: As a number.
        size: Bytes of its value; None where its length stands before it.
    """

    name: str
    code: int
    size: int | None


_PROTOCOLS: Final = (
    _Protocol("ip4", 4, 4),
    _Protocol("tcp", 6, 2),
    _Protocol("ip6", 41, 16),
    _Protocol("dns", 53, None),
    _Protocol("dns4", 54, None),
    _Protocol("dns6", 55, None),
    _Protocol("udp", 273, 2),
    _Protocol("p2p-circuit", 290, 0),
    _Protocol("p2p", 421, None),
    _Protocol("quic-v1", 461, 0),
    _Protocol("webtransport", 465, 0),
    _Protocol("ws", 477, 0),
    _Protocol("wss", 478, 0),
    _Protocol("memory", 777, 8),
)
_BY_NAME: Final = {protocol.name: protocol for protocol in _PROTOCOLS}
_BY_CODE: Final = {protocol.code: protocol for protocol in _PROTOCOLS}


def to_bytes(address: str) -> bytes:
    """A multiaddr as bytes.

    Raises:
        AddressError: It is no multiaddr.
    """
    encoded = bytearray()
    for name, value in addresses.parse(address):
        protocol = _BY_NAME[name]
        data = _encode_value(protocol, value)
        encoded += write_varint(protocol.code)
        if protocol.size is None:
            encoded += write_varint(len(data))
        encoded += data
    return bytes(encoded)


def to_text(data: bytes) -> str:
    """A multiaddr as text.

    Raises:
        AddressError: It is malformed, too long, or has a part that this version does not know.
    """
    if len(data) > LONGEST:
        raise AddressError(f"a binary multiaddr of {len(data)} bytes: the most is {LONGEST}")
    parts: list[tuple[str, str]] = []
    position = 0
    while position < len(data):
        code, position = read_varint(data, position)
        protocol = _BY_CODE.get(code)
        if protocol is None:
            raise AddressError(f"a binary multiaddr has a part of the unknown protocol {code}")
        size = protocol.size
        if size is None:
            size, position = read_varint(data, position)
        value = data[position : position + size]
        if len(value) < size:
            raise AddressError("a binary multiaddr ends too early")
        parts.append((protocol.name, _decode_value(protocol, value)))
        position += size
    text = addresses.render(tuple(parts))
    addresses.parse(text)
    return text


def write_varint(number: int) -> bytes:
    """An unsigned varint: seven bits a byte, the lowest first, the eighth bit set on all but the last."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def read_varint(data: bytes | bytearray | memoryview, position: int = 0) -> tuple[int, int]:
    """The unsigned varint at a position, and the position behind it.

    Raises:
        AddressError: It ends too early, or is longer than nine bytes.
    """
    number = shift = 0
    for index in range(position, min(len(data), position + _LONGEST_VARINT)):
        number |= (data[index] & 0x7F) << shift
        if data[index] < 0x80:
            return number, index + 1
        shift += 7
    raise AddressError("an unsigned varint is cut off or too long")


def _encode_value(protocol: _Protocol, value: str) -> bytes:
    if protocol.name in _WRITERS:
        return _WRITERS[protocol.name](value)
    return int(value).to_bytes(protocol.size, "big") if protocol.size else value.encode()


def _decode_value(protocol: _Protocol, value: bytes) -> str:
    try:
        if protocol.name in _READERS:
            return _READERS[protocol.name](value)
        if protocol.size == 0:
            return ""
        return str(int.from_bytes(value, "big")) if protocol.size else value.decode()
    except ValueError as error:
        raise AddressError(f"a binary multiaddr has no proper /{protocol.name}: {error}") from error


_WRITERS: Final[dict[str, Callable[[str], bytes]]] = {
    "ip4": lambda value: ipaddress.IPv4Address(value).packed,
    "ip6": lambda value: ipaddress.IPv6Address(value).packed,
    "p2p": base58.b58decode,
}
_READERS: Final[dict[str, Callable[[bytes], str]]] = {
    "ip4": lambda value: str(ipaddress.IPv4Address(value)),
    "ip6": lambda value: str(ipaddress.IPv6Address(value)),
    "p2p": lambda value: base58.b58encode(value).decode(),
}
