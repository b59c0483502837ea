"""What several replicas say of one key where many are asked for at once: is it settled, and what is there?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from hivemind_p2p.dht.lookup import QUORUM
from hivemind_p2p.dht.messages import SignedBytes
from hivemind_p2p.dht.record_store import RecordStore
from hivemind_p2p.dht.records import SignedRecord, read_body
from hivemind_p2p.errors import RecordError
from hivemind_p2p.types import PeerId


def by_key(records: Sequence[SignedBytes]) -> dict[str, list[SignedBytes]]:
    """An answer's records by the keys that they stand under; what is malformed is left out."""
    found: dict[str, list[SignedBytes]] = {}
    for record in records:
        with suppress(RecordError):  # a replica that lies is found out by what it does not tell
            found.setdefault(read_body(record.body).key, []).append(record)
    return found


class Tally:
    """The answers for one key.

    Args:
        key: Which.
        own: What this peer keeps under it itself.
        now: Seconds since the epoch.
    """

    def __init__(self, key: str, own: Sequence[SignedRecord], now: float) -> None:
        self._key = key
        self._merged = RecordStore()
        self._told: dict[PeerId, frozenset[bytes]] = {}
        for signed in own:
            self._merged.adopt(signed, now)

    def take(self, replica: PeerId, records: Sequence[SignedBytes], now: float) -> None:
        """Takes an answer: of its records those that are sound and stand under the key."""
        told: set[bytes] = set()
        for record in records:
            try:
                self._merged.put(record.body, record.signature, now, under=self._key)
            except RecordError:
                continue  # of another key, or of a replica that lies
            told.add(record.body)
        self._told[replica] = frozenset(told)

    def settled(self, now: float) -> bool:
        """Whether there is something, and so many replicas as settle a lookup have told all of it."""
        everything = frozenset(signed.body for signed in self._merged.get(self._key, now))
        return bool(everything) and sum(told == everything for told in self._told.values()) >= QUORUM

    def found(self, now: float) -> tuple[SignedRecord, ...]:
        """The newest of each signer."""
        return self._merged.get(self._key, now)
