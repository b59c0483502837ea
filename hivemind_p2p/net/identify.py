"""What a peer says it sees of this one: the part of libp2p's identify that reachability needs.

The answering side is libp2p's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hivemind_p2p.errors import AddressError
from hivemind_p2p.net.addresses import ip_endpoint
from hivemind_p2p.net.binary_addresses import to_text
from hivemind_p2p.net.calls import Link
from hivemind_p2p.net.links import Links
from hivemind_p2p.proto import reachability_pb2 as wire

IDENTIFY: Final = "/ipfs/id/1.0.0"

LARGEST: Final = 64 * 1024
"""Bytes of an answer: a public key, some addresses, and a few hundred names of protocols."""

MOST_ADDRESSES: Final = 16


@dataclass(frozen=True, slots=True)
class Identified:
    """What a peer said.

    Attributes:
        observed: The plain TCP address at which it sees this peer; None if it gave none that can be understood.
        listening: Where it listens itself, as far as these are plain TCP addresses.
        protocols: What it speaks.
    """

    observed: str | None
    listening: tuple[str, ...]
    protocols: frozenset[str]


async def ask(links: Links, link: Link) -> Identified:
    """Asks the peer at the other end of a connection.

    Raises:
        NetworkError: It does not answer.
    """
    call = await links.call(link, IDENTIFY)
    try:
        answer = await call.receive(wire.Identify, largest=LARGEST)
    finally:
        await call.close()
    told = [address for raw in answer.listen_addrs[:MOST_ADDRESSES] if (address := _plain_tcp(raw))]
    return Identified(_plain_tcp(answer.observed_addr), tuple(told), frozenset(answer.protocols))


def _plain_tcp(raw: bytes) -> str | None:
    try:
        address = to_text(raw)
        _, port = ip_endpoint(address)
    except AddressError:
        return None
    return address if port else None
