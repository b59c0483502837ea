"""What this peer has published, and when each record has to be published again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hivemind_p2p.dht import records
from hivemind_p2p.dht.records import MAX_LIFETIME, SignedRecord
from hivemind_p2p.errors import RecordError
from hivemind_p2p.identity import Identity

REPUBLISHED = 3
"""How often a record is stored in its lifetime: it outlives the failure of one attempt, and nearly of two."""

TOGETHER = 0.1
"""The share of the time between two publications by which one may come early, to come together with others."""

RETRY_AFTER = 2.0
"""Seconds after which a record that found no replica is tried again; doubled each time that nobody takes it."""

LONGEST_RETRY = 30.0
"""Seconds, where no replica could be reached: the network may come back at any moment. A record that all refuse is
refused again unless something expires there, so it waits for up to the time at which it would be due anyway."""


@dataclass(slots=True)
class _Publication:
    value: bytes
    lifetime: float
    expires_at: float
    due_at: float
    retry_after: float = RETRY_AFTER


class Publications:
    """The records of one signer, alive.

    Two clocks: `now` is seconds since the epoch, for what is signed; `at` is seconds on a clock that never jumps, for
    when to sign it again.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._publications: dict[str, _Publication] = {}
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._publications)

    def publish(self, key: str, value: bytes, lifetime: float, *, now: float, at: float) -> SignedRecord:
        """A new record, which from now on is due every third of its lifetime.

        Raises:
            RecordError: The key or value is too large, the value is empty, or the lifetime is out of bounds.
        """
        if not value:
            raise RecordError(f"the value under {key!r} is empty, which is how a withdrawn record looks")
        if not 0 < lifetime <= MAX_LIFETIME:
            raise RecordError(f"a record lives up to {MAX_LIFETIME:g} s, not {lifetime:g} s")
        signed = self._sign(key, value, now, now + lifetime)
        self._publications[key] = _Publication(value, lifetime, now + lifetime, at + lifetime / REPUBLISHED)
        return signed

    def withdraw(self, key: str, *, now: float) -> SignedRecord | None:
        """A tombstone that lives as long as the last record could have; None if there is nothing to withdraw."""
        publication = self._publications.pop(key, None)
        if publication is None or publication.expires_at <= now:
            return None
        return self._sign(key, b"", now, publication.expires_at)

    def due(self, at: float) -> tuple[str, ...]:
        """The keys that are due, and with them those that soon will be: they share requests."""
        if (first := self.next_due()) is None or first > at:
            return ()
        return tuple(key for key, publication in self._publications.items() if _is_due(publication, at))

    def renew(self, keys: Iterable[str], *, now: float, at: float) -> tuple[SignedRecord, ...]:
        """New records for those of these keys that are still published."""
        renewed: list[SignedRecord] = []
        for key in keys:
            if publication := self._publications.get(key):
                publication.expires_at = now + publication.lifetime
                publication.due_at = at + publication.lifetime / REPUBLISHED
                renewed.append(self._sign(key, publication.value, now, publication.expires_at))
        return tuple(renewed)

    def above(self, sequence: int) -> None:
        """Goes on above a sequence that this signer is known to have used."""
        self._sequence = max(self._sequence, sequence)

    def replicated(self, key: str) -> None:
        """Notes that somebody took a record."""
        if publication := self._publications.get(key):
            publication.retry_after = RETRY_AFTER

    def unreplicated(self, key: str, at: float, *, refused: bool) -> None:
        """Notes that nobody took a record, so that it is soon due again; not so soon where all have refused it."""
        if publication := self._publications.get(key):
            wait = publication.retry_after if refused else min(publication.retry_after, LONGEST_RETRY)
            publication.due_at = min(publication.due_at, at + wait)
            publication.retry_after = min(2 * wait, publication.lifetime)

    def next_due(self) -> float | None:
        """When the next record is due; None if nothing is published."""
        return min((publication.due_at for publication in self._publications.values()), default=None)

    def _sign(self, key: str, value: bytes, now: float, expires_at: float) -> SignedRecord:
        # Milliseconds, so that a peer which starts again goes on above the sequences of its former life.
        sequence = max(int(now * 1000), self._sequence + 1)
        signed = records.sign(self._identity, key, value, sequence=sequence, expires_at=expires_at)
        self._sequence = sequence
        return signed


def _is_due(publication: _Publication, at: float) -> bool:
    return publication.due_at <= at + TOGETHER * publication.lifetime / REPUBLISHED
