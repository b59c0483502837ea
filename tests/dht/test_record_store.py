"""Copies beside originals, name spaces, and pages that leave out what the asker knows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.dht import record_cache, records
from hivemind_p2p.dht.record_cache import RecordCache
from hivemind_p2p.dht.record_store import RecordStore
from hivemind_p2p.dht.validators import Validators, name_space
from hivemind_p2p.errors import RecordError
from hivemind_p2p.identity import Identity

NOW = 1_000_000.0
ALICE, BOB, CAROL = (Identity(bytes([number]) * 32) for number in range(1, 4))


def record(signer=ALICE, key="key", value=b"value", sequence=1, expires_at=NOW + 60):
    return records.sign(signer, key, value, sequence=sequence, expires_at=expires_at)


def put(store, signed, now=NOW):
    return store.put(signed.body, signed.signature, now)


def copy(store, signed, seconds=30.0, now=NOW):
    return store.put_copy(signed.body, signed.signature, now, seconds)


def values(store, now=NOW, key="key"):
    return [signed.record.value for signed in store.get(key, now)]


def test_copies_are_served_for_their_time_and_handed_on_never():
    store = RecordStore(journal=True)
    assert copy(store, record())
    assert values(store, NOW + 29) == [b"value"]
    assert store.originals("key", NOW) == ()
    assert store.keys() == ()
    assert store.take_changes(9) == ()
    assert (len(store), store.size) == (0, 0)
    assert values(store, NOW + 30) == []
    store.expire(NOW + 30)
    assert (len(store.cache), store.cache.size) == (0, 0)


def test_a_copy_never_outlives_its_record():
    store = RecordStore()
    copy(store, record(expires_at=NOW + 5), seconds=600)
    assert values(store, NOW + 5) == []


def test_a_copy_never_stands_in_an_originals_place():
    store = RecordStore()
    put(store, record(value=b"new", sequence=2))
    assert not copy(store, record(value=b"old", sequence=1))
    assert not copy(store, record(value=b"new", sequence=2))
    assert copy(store, record(value=b"newer", sequence=3))
    assert values(store) == [b"newer"]
    put(store, record(value=b"newest", sequence=4))
    assert values(store) == [b"newest"]
    assert values(store, NOW + 40) == [b"newest"]


def test_a_copy_brings_back_nothing_that_was_withdrawn():
    store = RecordStore()
    copy(store, record())
    put(store, record(value=b"", sequence=2))
    assert values(store) == [b""]


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_copy_for_no_time_is_not_kept(seconds):
    assert not copy(RecordStore(), record(), seconds)


def test_forged_and_expired_copies_are_refused():
    signed = record()
    with pytest.raises(RecordError, match="not signed"):
        RecordStore().put_copy(signed.body, bytes(64), NOW, 30)
    with pytest.raises(RecordError, match="expired"):
        copy(RecordStore(), signed, now=NOW + 60)


def test_the_cache_keeps_what_was_asked_for_last(monkeypatch):
    monkeypatch.setattr(record_cache, "MOST_KEYS", 2)
    monkeypatch.setattr(record_cache, "MOST_OF_KEY", 1)
    cache = RecordCache()
    for key in "ab":
        cache.put(record(key=key), NOW + 30)
    assert cache.get("a", NOW)
    cache.put(record(key="c"), NOW + 30)
    cache.put(record(BOB, key="c"), NOW + 30)
    assert [bool(cache.get(key, NOW)) for key in "abc"] == [True, False, True]
    assert len(cache) == 2
    monkeypatch.setattr(record_cache, "MOST_BYTES", 10)
    cache.put(record(key="d"), NOW + 30)
    assert (len(cache), cache.size) == (0, 0)


def test_pages_leave_out_what_the_asker_knows():
    store = RecordStore()
    signed = [record(signer, sequence=2) for signer in (ALICE, BOB, CAROL)]
    for one in signed:
        put(store, one)
    known = frozenset({signed[0].mark, record(BOB, sequence=1).mark})
    page, following = store.page("key", "", NOW, most_bytes=9999, most_records=9, known=known)
    assert {one.record.signer for one in page} == {BOB.peer_id, CAROL.peer_id}
    assert following == ""


def only_small(record):
    if len(record.value) > 3:
        raise RecordError("larger than three bytes")


def test_a_name_space_holds_what_its_validator_lets_pass():
    store = RecordStore(validators=Validators({"small": only_small}))
    assert put(store, record(key="small:1", value=b"abc"))
    assert put(store, record(key="other", value=b"abcd"))
    assert put(store, record(key="small:2", value=b""))
    with pytest.raises(RecordError, match="larger than three"):
        put(store, record(key="small:1", value=b"abcd", sequence=2))
    with pytest.raises(RecordError, match="larger than three"):
        copy(store, record(key="small", value=b"abcd"))
    assert values(store, key="small:1") == [b"abc"]


def test_the_name_space_of_a_key():
    assert [name_space(key) for key in ("offers", "content:ab:cd", ":x", "")] == ["offers", "content", "", ""]


def test_a_flood_by_one_signer_leaves_room_for_others():
    store = RecordStore(most_of_signer=50, most_records=100)
    for number in range(200):
        try:
            put(store, record(key=f"key {number}"))
        except RecordError:
            assert number >= 50
    assert len(store) == 50
    assert put(store, record(BOB, key="bob's"))


def test_a_record_of_another_signer_is_refused_where_one_was_asked_for():
    signed = record()
    with pytest.raises(RecordError, match="not of"):
        RecordStore().put(signed.body, signed.signature, NOW, of=BOB.peer_id)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_store(body):
    for attempt in (
        lambda: RecordStore().put_copy(body, bytes(64), NOW, 9),
        lambda: RecordStore().restore(body, bytes(64), NOW + 9, NOW),
        lambda: records.check(body, bytes(64)),
    ):
        try:
            assert not attempt()
        except RecordError:
            continue


def test_a_flood_at_a_full_store_looks_through_it_once_a_second(monkeypatch):
    store = RecordStore(most_records=1)
    swept = []
    expire = store.expire
    monkeypatch.setattr(store, "expire", lambda now: swept.append(now) or expire(now))
    put(store, record())
    for number in range(20):
        with pytest.raises(RecordError, match="no room"):
            put(store, record(BOB, key=f"key {number}"), NOW + number / 10)
    assert swept == [NOW, NOW + 1]
    assert put(store, record(BOB, expires_at=NOW + 99), NOW + 60)
