"""Copies of records that lookups leave on their way, so that a key which many ask for is answered sooner.

A copy is served while nothing newer is known, never republished or handed on, and gone after a short time or when
room is needed: the copies that were asked for longest ago go first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from hivemind_p2p.dht.records import SignedRecord
from hivemind_p2p.types import PeerId

MOST_KEYS = 256
"""Keys of which copies are kept."""

MOST_OF_KEY = 64
"""Copies under one key: a key with more records than this is not worth copying."""

MOST_BYTES = 4 * 1024 * 1024
"""Bytes of all copies."""


@dataclass(frozen=True, slots=True)
class _Copy:
    signed: SignedRecord
    until: float


class RecordCache:
    """Copies by key, the key that was asked for longest ago first. Every `now` is in seconds since the epoch."""

    def __init__(self) -> None:
        self._copies: OrderedDict[str, dict[PeerId, _Copy]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._copies.values()))

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self._bytes

    def put(self, signed: SignedRecord, until: float) -> None:
        """Keeps a copy that was checked, unless one that is newer, or lives longer, is kept."""
        key, signer = signed.record.key, signed.record.signer
        former = self._copies.get(key, {}).get(signer)
        if former is not None:
            if (former.signed.record.sequence, former.until) >= (signed.record.sequence, until):
                return
            self._remove(key, signer)
        copies = self._copies.setdefault(key, {})
        if len(copies) >= MOST_OF_KEY:
            return
        copies[signer] = _Copy(signed, until)
        self._bytes += signed.size
        self._copies.move_to_end(key)
        while len(self._copies) > MOST_KEYS or self._bytes > MOST_BYTES:
            _, gone = self._copies.popitem(last=False)
            self._bytes -= sum(copy.signed.size for copy in gone.values())

    def get(self, key: str, now: float) -> tuple[SignedRecord, ...]:
        """The copies under a key whose time is not over."""
        copies = self._copies.get(key)
        if copies is None:
            return ()
        self._copies.move_to_end(key)
        return tuple(copy.signed for copy in copies.values() if copy.until > now)

    def expire(self, now: float) -> None:
        """Forgets the copies whose time is over."""
        gone = [
            (key, signer)
            for key, copies in self._copies.items()
            for signer, copy in copies.items()
            if copy.until <= now
        ]
        for key, signer in gone:
            self._remove(key, signer)

    def _remove(self, key: str, signer: PeerId) -> None:
        copies = self._copies[key]
        self._bytes -= copies.pop(signer).signed.size
        if not copies:
            del self._copies[key]
