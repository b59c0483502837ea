"""Links: the magnet URI of a content (BEP 9, BEP 52, BEP 53's `x.pe`).

    magnet:?xt=urn:btmh:1220<info hash>&dn=<name>&tr=<tracker>&x.pe=<host>:<port>

Our own links hold the info hash and the name. What else a link of others says is read as far as it is understood;
nothing of it is trusted but the info hash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlsplit

from hivemind_p2p.errors import LinkError
from hivemind_p2p.types import Link

LONGEST_LINK = 4096
"""Characters: a link may name trackers and peers, and has to stay one line."""

MOST_PLACES = 32
"""Trackers, and peers, that are taken from a link or a ``.torrent`` file; what is named beyond that is left out."""

LONGEST_TRACKER = 1024
"""Characters of a tracker's URL."""

# Multihash: SHA-256 (0x12) of 32 bytes (0x20).
_TOPIC = re.compile(r"^urn:btmh:1220([0-9a-fA-F]{64})$")
_PEER = re.compile(r"^(\[[0-9a-fA-F:.]{2,45}\]|[0-9A-Za-z.-]{1,253}):([0-9]{1,5})$")
_HIGHEST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Magnet:
    """What a link says.

    Example:
        >>> str(Magnet(bytes(32), "a b", peers=("192.0.2.7:6881",)))[-30:]
        '&dn=a%20b&x.pe=192.0.2.7:6881'

    Attributes:
        infohash: SHA-256 of the info dictionary.
        name: For people; empty where the link has none.
        trackers: URLs of trackers.
        peers: ``host:port`` of peers that speak the standard BitTorrent protocol.
    """

    infohash: bytes
    name: str = ""
    trackers: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"xt=urn:btmh:1220{self.infohash.hex()}"]
        parts += [f"dn={quote(self.name, safe='')}"] if self.name else []
        parts += [f"tr={quote(tracker, safe='')}" for tracker in self.trackers]
        parts += [f"x.pe={quote(peer, safe=':[]')}" for peer in self.peers]
        return f"magnet:?{'&'.join(parts)}"

    @property
    def link(self) -> Link:
        """Our own link to the same content."""
        return make_link(self.infohash, self.name)


def make_link(infohash: bytes, name: str) -> Link:
    """The magnet URI of an info hash; the name is for people only."""
    return Link(str(Magnet(infohash, name)))


def infohash_of(link: str) -> bytes:
    """The 32-byte info hash that a link stands for.

    Raises:
        LinkError: It is no magnet link, or has no BitTorrent v2 info hash.
    """
    return parse_magnet(link).infohash


def parse_magnet(link: str) -> Magnet:
    """What a link says. Trackers and peers that are none are left out.

    Raises:
        LinkError: It is no magnet link, or has no BitTorrent v2 info hash.
    """
    if len(link) > LONGEST_LINK:
        raise LinkError(f"a link of {len(link)} characters is too long")
    try:
        address = urlsplit(link.strip())
        said = parse_qs(address.query, max_num_fields=64)
    except ValueError as error:
        raise LinkError(f"not a link: {link[:80]!r}") from error
    found = [match[1] for match in map(_TOPIC.match, said.get("xt", [])) if match]
    if address.scheme != "magnet" or len(found) != 1:
        old = any(topic.startswith("urn:btih:") for topic in said.get("xt", []))
        hint = "It is one of BitTorrent version 1. Ask for a link of version 2: urn:btmh." if old else None
        raise LinkError(f"not a link: {link[:80]!r}", hint=hint)
    return Magnet(
        bytes.fromhex(found[0]),
        said.get("dn", [""])[0],
        trackers_among(said.get("tr", [])),
        tuple(peer for peer in said.get("x.pe", [])[:MOST_PLACES] if _is_peer(peer)),
    )


def is_magnet(text: str) -> bool:
    """Whether somebody meant a magnet link: that, and not the path of a file."""
    return text.strip()[:7].lower() == "magnet:"


def trackers_among(urls: list[str]) -> tuple[str, ...]:
    """Those of some texts that are URLs of trackers, each once."""
    return tuple(url for url in dict.fromkeys(urls[:MOST_PLACES]) if _is_tracker(url))


def _is_tracker(url: str) -> bool:
    if len(url) > LONGEST_TRACKER or not url.isprintable():
        return False
    try:
        address = urlsplit(url)
        return address.scheme in {"http", "https", "udp"} and bool(address.hostname) and address.port != 0
    except ValueError:
        return False


def _is_peer(text: str) -> bool:
    match = _PEER.match(text)
    return match is not None and 0 < int(match[2]) <= _HIGHEST_PORT
