import pytest

from hivemind_p2p.dht.publications import LONGEST_RETRY, RETRY_AFTER, Publications
from hivemind_p2p.dht.records import MAX_LIFETIME, MAX_VALUE
from hivemind_p2p.errors import RecordError
from hivemind_p2p.identity import Identity

ME = Identity(bytes(32))
NOW = 1_700_000_000.0


def test_sequences_rise_even_when_the_clock_goes_back():
    publications = Publications(ME)
    sequences = [
        publications.publish("key", b"v", 30, now=now, at=0).record.sequence for now in (NOW, NOW, NOW - 3600, NOW + 1)
    ]
    assert sequences == sorted(set(sequences))
    assert sequences[0] == NOW * 1000
    assert sequences[-1] == (NOW + 1) * 1000


def test_a_record_is_due_every_third_of_its_lifetime():
    publications = Publications(ME)
    publications.publish("key", b"v", 30, now=NOW, at=5)
    assert publications.next_due() == 15
    assert publications.due(14) == ()
    assert publications.due(15) == ("key",)
    (renewed,) = publications.renew(["key"], now=NOW + 10, at=15)
    assert (renewed.record.value, renewed.record.expires_at) == (b"v", NOW + 40)
    assert publications.next_due() == 25


def test_only_what_is_due_is_renewed():
    publications = Publications(ME)
    publications.publish("soon", b"v", 30, now=NOW, at=0)
    publications.publish("late", b"v", 300, now=NOW, at=0)
    assert publications.due(10) == ("soon",)


def test_what_was_withdrawn_while_others_were_signed_is_not_renewed():
    publications = Publications(ME)
    publications.publish("kept", b"v", 30, now=NOW, at=0)
    publications.publish("gone", b"v", 30, now=NOW, at=0)
    due = publications.due(10)
    publications.withdraw("gone", now=NOW + 1)
    assert [signed.record.key for signed in publications.renew(due, now=NOW + 10, at=10)] == ["kept"]


def test_what_found_no_replica_is_soon_due_again():
    publications = Publications(ME)
    publications.publish("key", b"v", 600, now=NOW, at=0)
    publications.unreplicated("key", 1, refused=False)
    publications.unreplicated("unknown", 1, refused=False)
    assert publications.next_due() == 1 + RETRY_AFTER


def waits(publications, refused, times=12):
    """Seconds between a try and the next, while nobody takes the record."""
    at, found = 0.0, []
    for _ in range(times):
        publications.renew(["key"], now=NOW + at, at=at)
        publications.unreplicated("key", at, refused=refused)
        found.append(publications.next_due() - at)
        at = publications.next_due()
    return found


def test_what_cannot_be_stored_is_tried_less_and_less_often():
    publications = Publications(ME)
    publications.publish("key", b"v", 3600, now=NOW, at=0)
    unreachable = waits(publications, refused=False)
    assert unreachable[:5] == [2, 4, 8, 16, 30]
    assert max(unreachable) == LONGEST_RETRY
    publications.replicated("key")
    refused = waits(publications, refused=True)
    assert refused[:5] == [2, 4, 8, 16, 32]
    assert max(refused) == 1200


def test_a_tombstone_outlives_every_copy_of_what_it_withdraws():
    publications = Publications(ME)
    published = publications.publish("key", b"v", 30, now=NOW, at=0).record
    tombstone = publications.withdraw("key", now=NOW + 1)
    assert tombstone is not None
    assert tombstone.record.value == b""
    assert tombstone.record.sequence > published.sequence
    assert tombstone.record.expires_at == published.expires_at
    assert publications.next_due() is None
    assert publications.withdraw("key", now=NOW + 2) is None


def test_what_has_expired_needs_no_tombstone():
    publications = Publications(ME)
    publications.publish("key", b"v", 30, now=NOW, at=0)
    assert publications.withdraw("key", now=NOW + 30) is None


@pytest.mark.parametrize(
    ("value", "lifetime", "complaint"),
    [
        (b"", 30, "empty"),
        (bytes(MAX_VALUE + 1), 30, "too large"),
        (b"v", 0, "lives"),
        (b"v", MAX_LIFETIME + 1, "lives"),
    ],
)
def test_what_no_replica_would_keep_is_refused_at_once(value, lifetime, complaint):
    publications = Publications(ME)
    with pytest.raises(RecordError, match=complaint):
        publications.publish("key", value, lifetime, now=NOW, at=0)
    assert len(publications) == 0
