"""Signed, expiring records: how one is made, how it is checked, and the store that a replica keeps.

A record is a value that one signer has put under a key. Replicas are not trusted with anything: a record carries
its key, signer, sequence and expiry under its signature, so a replica can lose records but can neither make nor
change nor prolong them. Under one key every signer has one record, the one with the highest sequence.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from google.protobuf.message import DecodeError

from hivemind_p2p import identity
from hivemind_p2p.errors import RecordError
from hivemind_p2p.identity import Identity
from hivemind_p2p.proto import dht_pb2
from hivemind_p2p.types import PeerId, Record

DOMAIN = "record"
"""What the signature of a record is for (see `identity`)."""

MAX_VALUE = 16 * 1024
"""Bytes of a value: room for any offer, and far too little to use the directory as a disk."""

MAX_KEY = 256
"""Bytes of a key as UTF-8."""

MAX_BODY = MAX_VALUE + MAX_KEY + 128
"""Bytes of a record's body: value, key, the signer's id and two numbers."""

MAX_LIFETIME = 24 * 3600.0
"""Seconds that a record may live; who wants more republishes."""

MOST_SIGNERS = 512
"""Records under one key at one replica."""

MOST_OF_SIGNER = 2048
"""Records of one signer at one replica: more than any peer shares contents today."""

MOST_RECORDS = 32 * 1024
MOST_BYTES = 64 * 1024 * 1024
"""Records, and bytes of bodies and signatures, at one replica: memory that any machine can spare."""


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A record with the bytes that its signer has signed."""

    record: Record
    body: bytes
    signature: bytes

    @property
    def size(self) -> int:
        """Bytes that it takes on the wire and in the store, but for some framing."""
        return len(self.body) + len(self.signature)


def sign(signer: Identity, key: str, value: bytes, *, sequence: int, expires_at: float) -> SignedRecord:
    """A new record.

    Args:
        signer: Whose record.
        key: What it stands under.
        value: Its bytes; empty for a tombstone, which withdraws what was there.
        sequence: Higher than that of any record that this signer has put under the key.
        expires_at: Seconds since the epoch; kept to the millisecond.

    Raises:
        RecordError: The key or the value is too large.
    """
    body = dht_pb2.RecordBody(
        key=key, signer=signer.peer_id, value=value, sequence=sequence, expires_at=round(expires_at * 1000)
    ).SerializeToString()
    return SignedRecord(read_body(body), body, signer.sign(DOMAIN, body))


def read_body(body: bytes) -> Record:
    """What a body says; its signature is not looked at.

    Raises:
        RecordError: It is malformed, or larger than a record can be.
    """
    if len(body) > MAX_BODY:
        raise RecordError(f"a record of {len(body)} bytes is too large: the most is {MAX_BODY}")
    try:
        message = dht_pb2.RecordBody.FromString(body)
    except DecodeError as error:
        raise RecordError(f"a record is malformed: {error}") from error
    if not 0 < len(message.key.encode()) <= MAX_KEY:
        raise RecordError(f"a key has 1 to {MAX_KEY} bytes, this has {len(message.key.encode())}")
    if len(message.value) > MAX_VALUE:
        raise RecordError(f"a value of {len(message.value)} bytes is too large: the most is {MAX_VALUE}")
    if message.sequence == 0:
        raise RecordError(f"the record of {message.signer!r} has no sequence")
    return Record(
        key=message.key,
        signer=PeerId(message.signer),
        value=message.value,
        sequence=message.sequence,
        expires_at=message.expires_at / 1000,
    )


def verify(record: Record, body: bytes, signature: bytes) -> None:
    """Checks that the signer that a body names has signed it.

    Raises:
        RecordError: It has not.
    """
    if not _is_genuine(record.signer, body, signature):
        raise RecordError(f"the record under {record.key!r} was not signed by {record.signer!r}")


@lru_cache(maxsize=512)
def _is_genuine(signer: PeerId, body: bytes, signature: bytes) -> bool:
    """Remembers the last checks (8 MiB at the most), because the same offers are looked up every few seconds."""
    return identity.verify(signer, DOMAIN, body, signature)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A record and how long to remember it: as long as any older one of its signer could still be replayed."""

    signed: SignedRecord
    forget_at: float


class RecordStore:
    """The newest record of each signer under each key. Every `now` is in seconds since the epoch.

    The same class merges the answers of several replicas in a lookup.

    Args:
        most_signers: Records under one key.
        most_of_signer: Records of one signer.
        most_records: Records in total.
        most_bytes: Bytes in total.
    """

    def __init__(
        self,
        *,
        most_signers: int = MOST_SIGNERS,
        most_of_signer: int = MOST_OF_SIGNER,
        most_records: int = MOST_RECORDS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._most_signers = most_signers
        self._most_of_signer = most_of_signer
        self._most_records = most_records
        self._most_bytes = most_bytes
        self._kept: dict[str, dict[PeerId, _Kept]] = {}
        self._of_signer: Counter[PeerId] = Counter()
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._count

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self._bytes

    def put(self, body: bytes, signature: bytes, now: float, *, under: str | None = None) -> bool:
        """Keeps a record, unless an equally new or newer one of its signer is kept already.

        Args:
            body: What was signed.
            signature: Over it.
            now: Seconds since the epoch.
            under: The only key that it may stand under; None for any.

        Returns:
            Whether it was news.

        Raises:
            RecordError: It is malformed, forged, expired, or there is no room for it.
        """
        record = read_body(body)
        if under is not None and record.key != under:
            raise RecordError(f"the record of {record.signer} stands under {record.key!r}, not {under!r}")
        if record.expires_at <= now:
            raise RecordError(f"the record of {record.signer} under {record.key!r} has expired")
        if record.expires_at > now + MAX_LIFETIME:
            raise RecordError(f"the record of {record.signer} under {record.key!r} lives too long")
        # Before the signature: what comes again from the next replica costs no second check.
        if not self._is_news(record):
            return False
        verify(record, body, signature)
        return self.adopt(SignedRecord(record, body, signature), now)

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
        self._keep(signed, record.expires_at if former is None else max(record.expires_at, former.forget_at))
        return True

    def get(self, key: str, now: float) -> tuple[SignedRecord, ...]:
        """The records under a key that have not expired, tombstones among them, by their signers' ids."""
        kept = sorted(self._kept.get(key, {}).items())
        return tuple(entry.signed for _, entry in kept if entry.signed.record.expires_at > now)

    def page(
        self, key: str, after: str, now: float, *, most_bytes: int, most_records: int
    ) -> tuple[tuple[SignedRecord, ...], str]:
        """A part of `get`.

        Args:
            key: Which records.
            after: The signer after whose id to begin.
            now: Seconds since the epoch.
            most_bytes: Bytes of the page; one record always fits.
            most_records: Records of the page.

        Returns:
            The records, and the signer to go on after: empty if these were the last.
        """
        page: list[SignedRecord] = []
        size = 0
        for signed in self.get(key, now):
            if signed.record.signer <= after:
                continue
            if page and (size + signed.size > most_bytes or len(page) == most_records):
                return tuple(page), page[-1].record.signer
            page.append(signed)
            size += signed.size
        return tuple(page), ""

    def expire(self, now: float) -> int:
        """Forgets what has expired; returns how many records that were."""
        gone = [
            entry.signed.record for kept in self._kept.values() for entry in kept.values() if entry.forget_at <= now
        ]
        for record in gone:
            self._forget(record.key, record.signer)
        return len(gone)

    def _former(self, record: Record) -> _Kept | None:
        return self._kept.get(record.key, {}).get(record.signer)

    def _is_news(self, record: Record) -> bool:
        former = self._former(record)
        return former is None or record.sequence > former.signed.record.sequence

    def _make_room(self, signed: SignedRecord, now: float) -> None:
        """Raises unless there is room, having thrown out what has expired."""
        if self._obstacle(signed) is None:
            return
        self.expire(now)
        if (obstacle := self._obstacle(signed)) is not None:
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

    def _keep(self, signed: SignedRecord, forget_at: float) -> None:
        record = signed.record
        self._forget(record.key, record.signer)
        self._kept.setdefault(record.key, {})[record.signer] = _Kept(signed, forget_at)
        self._of_signer[record.signer] += 1
        self._count += 1
        self._bytes += signed.size

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
