from collections import OrderedDict
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hivemind_p2p.dht import records
from hivemind_p2p.dht.record_store import CLOCK_TOLERANCE, RecordStore
from hivemind_p2p.dht.records import MAX_KEY, MAX_LIFETIME, MAX_VALUE
from hivemind_p2p.errors import RecordError
from hivemind_p2p.identity import Identity
from hivemind_p2p.proto import dht_pb2

NOW = 1_000_000.0
SIGNERS = [Identity(bytes([number]) * 32) for number in range(1, 4)]
ALICE, BOB, CAROL = SIGNERS


def record(signer=ALICE, key="key", value=b"value", sequence=1, expires_at=NOW + 60):
    return records.sign(signer, key, value, sequence=sequence, expires_at=expires_at)


def put(store, signed, now=NOW, **bounds):
    return store.put(signed.body, signed.signature, now, **bounds)


def values(store, now=NOW, key="key"):
    return [signed.record.value for signed in store.get(key, now)]


def test_what_was_signed_is_what_is_read():
    signed = record(value=b"\x00\xff", sequence=2**63, expires_at=NOW + 0.25)
    assert records.read_body(signed.body) == signed.record
    assert (signed.record.signer, signed.record.value, signed.record.sequence) == (ALICE.peer_id, b"\x00\xff", 2**63)
    assert signed.record.expires_at == NOW + 0.25


def test_the_newest_of_each_signer_is_kept():
    store = RecordStore()
    assert put(store, record(value=b"old"))
    assert put(store, record(BOB, value=b"bob's"))
    assert put(store, record(value=b"new", sequence=2))
    assert sorted(values(store)) == [b"bob's", b"new"]
    assert len(store) == 2


def test_the_replay_of_an_older_record_changes_nothing():
    store = RecordStore()
    put(store, record(value=b"new", sequence=2))
    assert not put(store, record(value=b"old", sequence=1))
    assert values(store) == [b"new"]


def test_an_older_record_cannot_come_back_when_the_newer_one_has_expired():
    store = RecordStore()
    put(store, long := record(value=b"old", sequence=1, expires_at=NOW + 600))
    put(store, record(value=b"", sequence=2, expires_at=NOW + 10))
    store.expire(NOW + 20)
    assert not put(store, long, NOW + 20)
    assert values(store, NOW + 20) == []
    assert store.expire(NOW + 600) == 1


@pytest.mark.parametrize("position", [0, 5, -1])
def test_a_changed_record_is_refused(position):
    signed = record()
    body = bytearray(signed.body)
    body[position] ^= 1
    with pytest.raises(RecordError):
        RecordStore().put(bytes(body), signed.signature, NOW)
    with pytest.raises(RecordError, match="not signed"):
        RecordStore().put(signed.body, bytes(64), NOW)


def test_nobody_can_sign_for_somebody_else():
    body = record().body
    with pytest.raises(RecordError, match="not signed by"):
        RecordStore().put(body, BOB.sign(records.DOMAIN, body), NOW)


def test_a_signature_for_another_purpose_does_not_count():
    body = record().body
    with pytest.raises(RecordError, match="not signed by"):
        RecordStore().put(body, ALICE.sign("voucher", body), NOW)


def test_expired_and_everlasting_records_are_refused():
    with pytest.raises(RecordError, match="expired"):
        put(RecordStore(), record(expires_at=NOW))
    with pytest.raises(RecordError, match="too long"):
        put(RecordStore(), record(expires_at=NOW + MAX_LIFETIME + CLOCK_TOLERANCE + 1))


def test_expired_records_are_not_served_and_then_forgotten():
    store = RecordStore()
    put(store, record(expires_at=NOW + 10))
    assert values(store, NOW + 9.9) == [b"value"]
    assert values(store, NOW + 10) == []
    assert store.expire(NOW + 9.9) == 0
    assert store.expire(NOW + 10) == 1
    assert (len(store), store.size) == (0, 0)


def test_a_record_under_another_key_is_refused_where_one_was_asked_for():
    with pytest.raises(RecordError, match="stands under"):
        put(RecordStore(), record(key="other"), under="key")


@pytest.mark.parametrize(
    ("key", "value", "sequence", "complaint"),
    [
        ("", b"v", 1, "key"),
        ("k" * (MAX_KEY + 1), b"v", 1, "key"),
        ("k", bytes(MAX_VALUE + 1), 1, "too large"),
        ("k", b"v", 0, "sequence"),
    ],
)
def test_what_is_out_of_bounds_cannot_be_signed_or_read(key, value, sequence, complaint):
    with pytest.raises(RecordError, match=complaint):
        record(key=key, value=value, sequence=sequence)
    body = dht_pb2.RecordBody(key=key, signer=ALICE.peer_id, value=value, sequence=sequence).SerializeToString()
    with pytest.raises(RecordError, match=complaint):
        records.read_body(body)


def test_the_largest_record_fits():
    store = RecordStore()
    assert put(store, record(key="k" * MAX_KEY, value=bytes(MAX_VALUE), sequence=2**64 - 1))


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(body):
    try:
        RecordStore().put(body, bytes(64), NOW)
    except RecordError:
        return
    raise AssertionError("nobody signed this")


@pytest.mark.parametrize(
    ("bounds", "fits", "does_not"),
    [
        ({"most_signers": 1}, record(key="a"), record(BOB, key="a")),
        ({"most_of_signer": 1}, record(key="a"), record(key="b")),
        ({"most_records": 1}, record(key="a"), record(BOB, key="b")),
        ({"most_bytes": 1000}, record(key="a"), record(BOB, key="b", value=bytes(900))),
    ],
)
def test_bounds_hold_until_something_expires(bounds, fits, does_not):
    store = RecordStore(**bounds)
    put(store, fits)
    with pytest.raises(RecordError, match="no room"):
        put(store, does_not)
    # A newer record in place of an old one needs no more room.
    assert put(store, record(key="a", sequence=2))
    store.expire(NOW + 60)
    assert put(store, records.sign(BOB, "b", b"", sequence=9, expires_at=NOW + 99), NOW + 60)


def test_room_is_made_by_what_has_expired():
    store = RecordStore(most_signers=1)
    put(store, record(expires_at=NOW + 1))
    assert put(store, record(BOB), NOW + 1)
    assert values(store, NOW + 1) == [b"value"]


def test_pages_together_are_everything_in_order():
    store = RecordStore()
    for signer in SIGNERS:
        put(store, record(signer, value=bytes(300)))
    everything = store.get("key", NOW)
    seen, after, pages = [], "", 0
    while True:
        page, after = store.page("key", after, NOW, most_bytes=500, most_records=9)
        seen += page
        pages += 1
        if not after:
            break
    assert tuple(seen) == everything
    assert pages == 3
    assert [len(store.page("key", "", NOW, most_bytes=9999, most_records=most)[0]) for most in (1, 2, 9)] == [1, 2, 3]


class StoreMachine(RuleBasedStateMachine):
    """The store against a model that remembers everything it was given."""

    @dataclass
    class Newest:
        sequence: int = 0
        value: bytes = b""
        expires_at: float = 0.0
        forget_at: float = field(default=0.0)

    def __init__(self):
        super().__init__()
        self.store = RecordStore()
        self.now = NOW
        self.newest = {}

    @rule(
        signer=st.sampled_from(SIGNERS),
        key=st.sampled_from(["a", "b"]),
        value=st.binary(max_size=3),
        sequence=st.integers(1, 6),
        lifetime=st.integers(1, 20),
    )
    def put(self, signer, key, value, sequence, lifetime):
        signed = record(signer, key, value, sequence, self.now + lifetime)
        model = self.newest.setdefault((key, signer.peer_id), self.Newest())
        if model.forget_at <= self.now and model.sequence:
            self.store.expire(self.now)
            model = self.newest[key, signer.peer_id] = self.Newest()
        assert put(self.store, signed, self.now) == (sequence > model.sequence)
        if sequence > model.sequence:
            expires_at = self.now + lifetime
            forget_at = max(model.forget_at, expires_at)
            self.newest[key, signer.peer_id] = self.Newest(sequence, value, expires_at, forget_at)

    @rule(seconds=st.integers(1, 10))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def expire(self):
        self.store.expire(self.now)
        self.newest = {name: model for name, model in self.newest.items() if model.forget_at > self.now}

    @invariant()
    def serves_the_newest(self):
        for key in ("a", "b"):
            served = {signed.record.signer: signed.record.value for signed in self.store.get(key, self.now)}
            expected = {
                signer: model.value
                for (name, signer), model in self.newest.items()
                if name == key and model.expires_at > self.now
            }
            assert served == expected


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_checks_are_remembered_for_what_was_checked_and_nothing_else(monkeypatch):
    monkeypatch.setattr(records, "MOST_REMEMBERED", 3)
    monkeypatch.setattr(records, "_checked", OrderedDict())
    checked = []
    verify = records.identity.verify
    monkeypatch.setattr(records.identity, "verify", lambda *about: checked.append(about) or verify(*about))
    signed = record(value=b"checked once")
    for _ in range(3):
        records.verify(signed.record, signed.body, signed.signature)
    assert len(checked) == 1
    for body, signature in ((signed.body, bytes(64)), (signed.body + b"\x00", signed.signature)):
        with pytest.raises(RecordError, match="not signed"):
            records.verify(signed.record, body, signature)
    for number in range(9):
        records.check(record(value=b"%d" % number).body, bytes(64))
    records.verify(signed.record, signed.body, signed.signature)
    assert len(checked) == 13, "it was forgotten for later ones"
