"""What clients ask a tracker, read from the query of a URL (BEP 3, 23, 48)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from hivemind_p2p.bt import bencode

USUALLY_WANTED: Final = 50
"""Peers in an answer where a client does not say how many it wants (BEP 3)."""

LOWEST_PORT: Final = 1024
"""Ports below belong to services of the machine: nobody should be sent to knock at those."""

_HIGHEST_PORT = 65_535
_INFOHASH = 20
_PEER_ID = 20
_EVENTS = {"", "started", "stopped", "completed", "paused"}
_MOST_FIELDS = 128
_MOST_DIGITS = 19


class TrackerError(Exception):
    """A request that is refused.

    Attributes:
        reason: For the client's user.
        retry_minutes: When to come again (BEP 31); None where that is no use.
    """

    def __init__(self, reason: str, *, retry_minutes: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_minutes = retry_minutes

    def encode(self) -> bytes:
        """The answer that says so."""
        answer: dict[bytes, bencode.Value] = {b"failure reason": self.reason.encode()}
        if self.retry_minutes is not None:
            answer[b"retry in"] = self.retry_minutes
        return bencode.encode(answer)


@dataclass(frozen=True, slots=True)
class Announce:
    """A client takes part in a swarm.

    Attributes:
        infohash: 20 bytes.
        port: Where it listens.
        left: Bytes that it lacks; 0 for a seed.
        event: ``started``, ``stopped``, ``completed``, ``paused``, or nothing.
        wanted: How many others it wants to hear of.
    """

    infohash: bytes
    port: int
    left: int
    event: str = ""
    wanted: int = USUALLY_WANTED


def parse_announce(query: bytes) -> Announce:
    """The announcement in a query. An address that a client claims to have (``ip``) is not even read.

    Raises:
        TrackerError: Something is missing or malformed.
    """
    fields = dict(reversed(_fields(query)))  # the first of each counts
    infohash, peer_id = fields.get("info_hash", b""), fields.get("peer_id", b"")
    if len(infohash) != _INFOHASH or len(peer_id) != _PEER_ID:
        raise TrackerError("info_hash and peer_id have 20 bytes each")
    port = _number(fields, "port", 0)
    if not LOWEST_PORT <= port <= _HIGHEST_PORT:
        raise TrackerError(f"port has to be {LOWEST_PORT} to {_HIGHEST_PORT}")
    event = fields.get("event", b"").decode("latin-1")
    if event not in _EVENTS:
        raise TrackerError("there is no such event")
    wanted = _number(fields, "numwant", USUALLY_WANTED)
    return Announce(infohash, port, _number(fields, "left", 1), event, wanted if wanted >= 0 else USUALLY_WANTED)


def parse_scrape(query: bytes) -> list[bytes]:
    """The info hashes in a query.

    Raises:
        TrackerError: There is none: the list of all swarms is not given out.
    """
    found = [value for name, value in _fields(query) if name == "info_hash" and len(value) == _INFOHASH]
    if not found:
        raise TrackerError("info_hash has 20 bytes, and there has to be one")
    return found


def _fields(query: bytes) -> list[tuple[str, bytes]]:
    """Names and values. Unlike in a form, a plus stands for itself: an info hash is bytes and no text."""
    pairs = query.split(b"&", _MOST_FIELDS)[:_MOST_FIELDS]
    split = (pair.partition(b"=") for pair in pairs)
    return [(name.decode("latin-1"), unquote_to_bytes(value)) for name, _, value in split]


def _number(fields: dict[str, bytes], name: str, missing: int) -> int:
    text = fields.get(name, b"")
    if not text:
        return missing
    digits = text.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > _MOST_DIGITS:
        raise TrackerError(f"{name} is no number")
    return int(text)
