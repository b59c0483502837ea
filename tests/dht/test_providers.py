import pytest

from hivemind_p2p.dht import providers
from hivemind_p2p.dht.providers import ProviderStore
from hivemind_p2p.errors import RecordError
from hivemind_p2p.types import PeerInfo

NOW = 1_700_000_000.0


def test_providers_are_named_until_they_expire(info):
    store = ProviderStore()
    store.add(b"key", info(1), NOW)
    store.add(b"key", info(2), NOW + 1)
    assert store.get(b"key", NOW + 2, 9) == (info(2), info(1))
    assert store.get(b"key", NOW + 2, 1) == (info(2),)
    assert store.get(b"key", NOW + providers.LIFETIME, 9) == (info(2),)
    assert store.get(b"other", NOW, 9) == ()
    assert store.expire(NOW + providers.LIFETIME) == 1
    assert len(store) == 1


def test_who_provides_again_lives_longer_and_counts_once(info):
    store = ProviderStore()
    store.add(b"key", info(1), NOW)
    moved = PeerInfo(info(1).peer_id, ("/ip4/10.9.9.9/tcp/1",))
    store.add(b"key", moved, NOW + 10)
    assert len(store) == 1
    assert store.get(b"key", NOW + providers.LIFETIME, 9) == (moved,)


@pytest.mark.parametrize(
    ("bounds", "complaint"),
    [({"most_of_key": 1}, "of this key"), ({"most_of_provider": 1}, "provides 1 keys"), ({"most": 1}, "are known")],
)
def test_bounds_hold_until_something_expires(info, bounds, complaint):
    store = ProviderStore(**bounds)
    store.add(b"a", info(1), NOW)
    key, peer = (b"b", info(1)) if "most_of_provider" in bounds else (b"a", info(2))
    with pytest.raises(RecordError, match=complaint):
        store.add(key, peer, NOW)
    store.add(b"a", info(1), NOW)
    store.add(key, peer, NOW + providers.LIFETIME)


@pytest.mark.parametrize("key", [b"", bytes(providers.MAX_KEY + 1)])
def test_keys_are_bounded(info, key):
    with pytest.raises(RecordError, match="key"):
        ProviderStore().add(key, info(1), NOW)


def test_who_cannot_be_dialled_provides_nothing(info):
    with pytest.raises(RecordError, match="address"):
        ProviderStore().add(b"key", PeerInfo(info(1).peer_id), NOW)
    ProviderStore().remove(b"key", info(1).peer_id)


def test_a_flood_at_a_full_store_looks_through_it_once_a_second(info, monkeypatch):
    store = ProviderStore(most=1)
    swept = []
    expire = store.expire
    monkeypatch.setattr(store, "expire", lambda now: swept.append(now) or expire(now))
    store.add(b"a", info(1), NOW)
    for number in range(20):
        with pytest.raises(RecordError, match="no room"):
            store.add(b"%d" % number, info(2), NOW + number / 10)
    assert swept == [NOW, NOW + 1]
