"""Signed, expiring records: how one is made and how it is checked. `record_store` keeps them.

A record is a value that one signer has put under a key. Replicas are not trusted with anything: a record carries
its key, signer, sequence and expiry under its signature, so a replica can lose records but can neither make nor
change nor prolong them. Under one key every signer has one record, the one with the highest sequence.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

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

MARK_BYTES = 8
"""Bytes of a record's mark: among 8192 records, two share one once in 10^11 tries."""

MAX_LIFETIME = 24 * 3600.0
"""Seconds that a record may live; who wants more republishes."""

MOST_REMEMBERED = 16 * 1024
"""Checks remembered, by their hashes (2 MiB): what 20 replicas tell of a full key, and some more."""

_checked: OrderedDict[bytes, bool] = OrderedDict()


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

    @property
    def mark(self) -> bytes:
        """Eight bytes that tell it from every other record: the first of its signature, which are as good as random."""
        return self.signature[:MARK_BYTES]


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


def check(body: bytes, signature: bytes) -> None:
    """Checks a signature ahead of the time at which it counts; what is wrong is found again then."""
    with suppress(RecordError):
        _is_genuine(read_body(body).signer, body, signature)


def _is_genuine(signer: PeerId, body: bytes, signature: bytes) -> bool:
    """Remembers the last checks by their hashes, because the same offers are looked up every few seconds."""
    name = signer.encode()
    digest = hashlib.sha256(b"%d %d %b%b%b" % (len(name), len(signature), name, signature, body)).digest()
    if (known := _checked.get(digest)) is not None:
        _checked.move_to_end(digest)
        return known
    _checked[digest] = genuine = identity.verify(signer, DOMAIN, body, signature)
    if len(_checked) > MOST_REMEMBERED:
        _checked.popitem(last=False)
    return genuine
