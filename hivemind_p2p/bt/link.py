"""Links: the magnet URI of a content (BEP 9, BEP 52)."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, quote, urlsplit

from hivemind_p2p.errors import LinkError
from hivemind_p2p.types import Link

LONGEST_LINK = 4096
"""Characters: a link may name trackers, which this project does not use, and has to stay one line."""

# Multihash: SHA-256 (0x12) of 32 bytes (0x20).
_TOPIC = re.compile(r"^urn:btmh:1220([0-9a-fA-F]{64})$")


def make_link(infohash: bytes, name: str) -> Link:
    """The magnet URI of an info hash; the name is for people only."""
    return Link(f"magnet:?xt=urn:btmh:1220{infohash.hex()}&dn={quote(name, safe='')}")


def infohash_of(link: str) -> bytes:
    """The 32-byte info hash that a link stands for. What else the link says, a name for instance, is not trusted.

    Raises:
        LinkError: It is no magnet link, or has no BitTorrent v2 info hash.
    """
    if len(link) > LONGEST_LINK:
        raise LinkError(f"a link of {len(link)} characters is too long")
    try:
        address = urlsplit(link.strip())
        topics = parse_qs(address.query, max_num_fields=64).get("xt", [])
    except ValueError as error:
        raise LinkError(f"not a link: {link[:80]!r}") from error
    found = [match[1] for match in map(_TOPIC.match, topics) if match]
    if address.scheme != "magnet" or len(found) != 1:
        raise LinkError(f"not a link: {link[:80]!r}")
    return bytes.fromhex(found[0])
