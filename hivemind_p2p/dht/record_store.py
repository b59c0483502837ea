"""The records that a replica keeps: of each signer under each key the newest, within bounds.

What a replica was asked to store is an original: it counts towards the bounds, is remembered as long as an older one
could be replayed, and survives a restart (`record_database`). Copies that lookups left on their way are in the cache
(`record_cache`), which never stands in an original's place.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hivemind_p2p.dht.record_cache import RecordCache
from hivemind_p2p.dht.records import MAX_LIFETIME, SignedRecord, read_body, verify
from hivemind_p2p.dht.validators import Validators
from hivemind_p2p.errors import RecordError
from hivemind_p2p.types import PeerId, Record

MOST_SIGNERS = 512
"""Records under one key at one replica."""

MOST_OF_SIGNER = 2048
"""Records of one signer at one replica: more than any peer shares contents today."""

MOST_RECORDS = 32 * 1024
MOST_BYTES = 64 * 1024 * 1024
"""Records, and bytes of bodies and signatures, at one replica: memory that any machine can spare."""

CLOCK_TOLERANCE = 60.0
"""Seconds that a signer's clock may be ahead of a replica's before its longest records are refused."""

SWEEP_AGAIN_AFTER = 1.0
"""Seconds before a full store looks once more for what has expired: looking through all of it takes 10 ms, and a flood
of records that find no room would take that for each of them."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A record and how long to remember it: as long as any older one of its signer could still be replayed."""

    signed: SignedRecord
    forget_at: float


@dataclass(frozen=True, slots=True)
class Change:
    """What has become of the record of a signer under a key since it was last written down; None if forgotten."""

    key: str
    signer: PeerId
    kept: Kept | None


class RecordStore:
    """The newest record of each signer under each key. Every `now` is in seconds since the epoch.

    The same class merges the answers of several replicas in a lookup.

    Args:
        most_signers: Records under one key.
        most_of_signer: Records of one signer.
        most_records: Records in total.
        most_bytes: Bytes in total.
        validators: What may stand under which key.
        journal: Whether to remember changes for `take_changes`.
    """

    def __init__(
        self,
        *,
        most_signers: int = MOST_SIGNERS,
        most_of_signer: int = MOST_OF_SIGNER,
        most_records: int = MOST_RECORDS,
        most_bytes: int = MOST_BYTES,
        validators: Validators | None = None,
        journal: bool = False,
    ) -> None:
        self._most_signers = most_signers
        self._most_of_signer = most_of_signer
        self._most_records = most_records
        self._most_bytes = most_bytes
        self._validators = validators or Validators()
        self._journal: dict[tuple[str, PeerId], None] | None = {} if journal else None
        self._kept: dict[str, dict[PeerId, Kept]] = {}
        self._of_signer: Counter[PeerId] = Counter()
        self._count = 0
        self._bytes = 0
        self._swept_at = float("-inf")
        self.cache = RecordCache()

    def __len__(self) -> int:
        return self._count

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self._bytes

    # -- taking in ---------------------------------------------------------------------------------------------------

    def put(
        self, body: bytes, signature: bytes, now: float, *, under: str | None = None, of: PeerId | None = None
    ) -> bool:
        """Keeps a record, unless an equally new or newer one of its signer is kept already.

        Args:
            body: What was signed.
            signature: Over it.
            now: Seconds since the epoch.
            under: The only key that it may stand under; None for any.
            of: The only signer that it may have; None for any.

        Returns:
            Whether it was news.

        Raises:
            RecordError: It is malformed, forged, expired, or there is no room for it.
        """
        record = _read(body, now, under, of)
        # Before the signature: what comes again from the next replica costs no second check.
        if not self._is_news(record):
            return False
        verify(record, body, signature)
        self._validators.check(record)
        return self.adopt(SignedRecord(record, body, signature), now)

    def put_copy(self, body: bytes, signature: bytes, now: float, seconds: float) -> bool:
        """Keeps a copy that a lookup leaves behind, for so many seconds at the most.

        Returns:
            Whether it is kept: not beside an original that is as new.

        Raises:
            RecordError: It is malformed, forged or expired.
        """
        record = _read(body, now, None, None)
        if not self._is_news(record) or seconds <= 0:
            return False
        verify(record, body, signature)
        self._validators.check(record)
        self.cache.put(SignedRecord(record, body, signature), min(now + seconds, record.expires_at))
        return True

    def adopt(self, signed: SignedRecord, now: float) -> bool:
        """Does what `put` does with a record that was checked before, by this peer.

        Raises:
            RecordError: There is no room for it.
        """
        record = signed.record
        if not self._is_news(record):
            return False
        self._make_room(signed, now)
        former = self._former(record)
        self._keep(Kept(signed, record.expires_at if former is None else max(record.expires_at, former.forget_at)))
        self._note(record.key, record.signer)
        return True

    def restore(self, body: bytes, signature: bytes, forget_at: float, now: float) -> bool:
        """Takes back what was written down before a restart; what has expired meanwhile only keeps replays away.

        Raises:
            RecordError: It is damaged, or there is no room for it.
        """
        record = read_body(body)
        verify(record, body, signature)
        if forget_at <= now or not self._is_news(record):
            return False
        signed = SignedRecord(record, body, signature)
        self._make_room(signed, now)
        self._keep(Kept(signed, max(forget_at, record.expires_at)))
        return True

    # -- giving out --------------------------------------------------------------------------------------------------

    def get(self, key: str, now: float) -> tuple[SignedRecord, ...]:
        """The records under a key that have not expired, tombstones and copies among them, by their signers' ids."""
        kept = self._kept.get(key, {})
        found = {signer: entry.signed for signer, entry in kept.items() if entry.signed.record.expires_at > now}
        for signed in self.cache.get(key, now):
            if self._is_news(signed.record):
                found[signed.record.signer] = signed
        return tuple(signed for _, signed in sorted(found.items()))

    def page(
        self,
        key: str,
        after: str,
        now: float,
        *,
        most_bytes: int,
        most_records: int,
        known: frozenset[bytes] = frozenset(),
    ) -> tuple[tuple[SignedRecord, ...], str]:
        """A part of `get`.

        Args:
            key: Which records.
            after: The signer after whose id to begin.
            now: Seconds since the epoch.
            most_bytes: Bytes of the page; one record always fits.
            most_records: Records of the page.
            known: The marks of records (`SignedRecord.mark`) that are left out, since the asker has them.

        Returns:
            The records, and the signer to go on after: empty if these were the last.
        """
        page: list[SignedRecord] = []
        size = 0
        for signed in self.get(key, now):
            if signed.record.signer <= after or signed.mark in known:
                continue
            if page and (size + signed.size > most_bytes or len(page) == most_records):
                return tuple(page), page[-1].record.signer
            page.append(signed)
            size += signed.size
        return tuple(page), ""

    def keys(self) -> tuple[str, ...]:
        """The keys under which originals are kept."""
        return tuple(self._kept)

    def originals(self, key: str, now: float) -> tuple[SignedRecord, ...]:
        """What of `get` is no copy: what may be handed on."""
        kept = self._kept.get(key, {}).values()
        return tuple(entry.signed for entry in kept if entry.signed.record.expires_at > now)

    def newest(self, key: str, signer: PeerId) -> SignedRecord | None:
        """The newest record that is remembered of a signer under a key, expired or not."""
        entry = self._kept.get(key, {}).get(signer)
        return entry.signed if entry else None

    # -- forgetting and writing down ---------------------------------------------------------------------------------

    def expire(self, now: float) -> int:
        """Forgets what has expired; returns how many records that were."""
        self._swept_at = now
        self.cache.expire(now)
        gone = [
            entry.signed.record for kept in self._kept.values() for entry in kept.values() if entry.forget_at <= now
        ]
        for record in gone:
            self._forget(record.key, record.signer)
            self._note(record.key, record.signer)
        return len(gone)

    def take_changes(self, most: int) -> tuple[Change, ...]:
        """The oldest changes that were not taken yet, so many at the most."""
        if not self._journal:
            return ()
        names = [name for name, _ in zip(self._journal, range(most), strict=False)]
        for name in names:
            del self._journal[name]
        return tuple(Change(key, signer, self._kept.get(key, {}).get(signer)) for key, signer in names)

    def give_back(self, changes: tuple[Change, ...]) -> None:
        """Notes changes again that could not be written down."""
        for change in changes:
            self._note(change.key, change.signer)

    def note_everything(self) -> None:
        """Counts every record as changed, so that all is written down anew."""
        for key, kept in self._kept.items():
            for signer in kept:
                self._note(key, signer)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _former(self, record: Record) -> Kept | None:
        return self._kept.get(record.key, {}).get(record.signer)

    def _is_news(self, record: Record) -> bool:
        former = self._former(record)
        return former is None or record.sequence > former.signed.record.sequence

    def _make_room(self, signed: SignedRecord, now: float) -> None:
        """Raises unless there is room, having thrown out what has expired."""
        obstacle = self._obstacle(signed)
        if obstacle is not None and abs(now - self._swept_at) >= SWEEP_AGAIN_AFTER:
            self.expire(now)
            obstacle = self._obstacle(signed)
        if obstacle is not None:
            raise RecordError(f"no room for the record of {signed.record.signer}: {obstacle}")

    def _obstacle(self, signed: SignedRecord) -> str | None:
        record = signed.record
        former = self._former(record)
        freed = former.signed.size if former else 0
        if self._bytes - freed + signed.size > self._most_bytes:
            return f"{self._bytes} bytes are kept already"
        if former is not None:
            return None
        if len(self._kept.get(record.key, ())) >= self._most_signers:
            return f"{self._most_signers} records are kept under {record.key!r} already"
        if self._of_signer[record.signer] >= self._most_of_signer:
            return f"{self._most_of_signer} records of this signer are kept already"
        if self._count >= self._most_records:
            return f"{self._count} records are kept already"
        return None

    def _keep(self, kept: Kept) -> None:
        record = kept.signed.record
        self._forget(record.key, record.signer)
        self._kept.setdefault(record.key, {})[record.signer] = kept
        self._of_signer[record.signer] += 1
        self._count += 1
        self._bytes += kept.signed.size

    def _forget(self, key: str, signer: PeerId) -> None:
        kept = self._kept.get(key, {})
        entry = kept.pop(signer, None)
        if entry is None:
            return
        if not kept:
            del self._kept[key]
        self._count -= 1
        self._bytes -= entry.signed.size
        self._of_signer[signer] -= 1
        if not self._of_signer[signer]:
            del self._of_signer[signer]

    def _note(self, key: str, signer: PeerId) -> None:
        if self._journal is None:
            return
        self._journal[key, signer] = None
        if len(self._journal) > 2 * self._most_records:
            # Nobody takes them, as while the disk is full. What is forgotten by now need not be known: whatever is
            # forgotten has expired, and what has expired is purged when the file is read.
            self._journal.clear()
            self._journal.update(((key, signer), None) for key, kept in self._kept.items() for signer in kept)


def _read(body: bytes, now: float, under: str | None, of: PeerId | None) -> Record:
    """The record in a body, if it may be kept now."""
    record = read_body(body)
    if under is not None and record.key != under:
        raise RecordError(f"the record of {record.signer} stands under {record.key!r}, not {under!r}")
    if of is not None and record.signer != of:
        raise RecordError(f"the record under {record.key!r} is of {record.signer}, not of {of}")
    if record.expires_at <= now:
        raise RecordError(f"the record of {record.signer} under {record.key!r} has expired")
    if record.expires_at > now + MAX_LIFETIME + CLOCK_TOLERANCE:
        raise RecordError(f"the record of {record.signer} under {record.key!r} lives too long")
    return record
