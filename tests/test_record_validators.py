import pytest

from hivemind_p2p import defaults, offers
from hivemind_p2p.bt.wire import directory_key, encode_record
from hivemind_p2p.dht import records
from hivemind_p2p.dht.record_store import RecordStore
from hivemind_p2p.dht.validators import Validators
from hivemind_p2p.errors import RecordError
from hivemind_p2p.identity import Identity
from hivemind_p2p.record_validators import record_validators
from hivemind_p2p.types import Offer, PeerInfo

NOW = 1_700_000_000.0
ME = Identity(b"m" * 32)
OFFER = offers.encode(Offer(PeerInfo(ME.peer_id, ("/ip4/192.0.2.7/tcp/1",)), name="mine"))
SOURCE = encode_record(complete=True)


def put(key, value):
    store = RecordStore(validators=Validators(record_validators()))
    signed = records.sign(ME, key, value, sequence=1, expires_at=NOW + 60)
    return store.put(signed.body, signed.signature, NOW)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (defaults.OFFERS_KEY, OFFER),
        (defaults.OFFERS_KEY, b""),
        (defaults.MODELS_KEY, b""),
        (directory_key(bytes(32)), SOURCE),
        ("of a program's own", b"anything"),
    ],
)
def test_what_belongs_under_a_key_is_kept(key, value):
    assert put(key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (defaults.OFFERS_KEY, b"\xff"),
        (defaults.OFFERS_KEY + ":2", OFFER),
        (defaults.OFFERS_KEY, offers.encode(Offer(PeerInfo(ME.peer_id, ("a" * 5000,))))),
        (defaults.MODELS_KEY, b"\xff"),
        (defaults.MODELS_KEY + ":x", b"x"),
        (directory_key(bytes(32)), b"\xff"),
        ("content:../../etc", SOURCE),
    ],
)
def test_what_does_not_is_refused(key, value):
    with pytest.raises(RecordError, match="not a record for"):
        put(key, value)
