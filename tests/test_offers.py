"""The offer book: cached, fresh when asked, and not to be upset by nonsense."""

import math
from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p import defaults, offers
from hivemind_p2p.errors import NetworkError, RecordError
from hivemind_p2p.identity import Identity
from hivemind_p2p.proto import offers_pb2
from hivemind_p2p.types import Credits, LayerSpan, Link, Offer, PeerInfo, Prices, Record, StageOffer

ME, ADA, BOB = (Identity(bytes([number]) * 32).peer_id for number in (1, 2, 3))
LINK = Link("magnet:?xt=urn:btmh:1220" + "ab" * 32 + "&dn=model")


def record(peer, value):
    return Record(defaults.OFFERS_KEY, peer, value, sequence=1, expires_at=2e9)


def offer(peer, **what):
    return Offer(PeerInfo(peer, ("/ip4/127.0.0.1/tcp/4001",)), **what)


class FakeDirectory:
    """Holds one record a peer under the one key that offers use."""

    def __init__(self):
        self.values = {}
        self.lookups = 0
        self.published = []
        self.withdrawn = []
        self.fails = False
        self.slow = trio.Event()
        self.slow.set()

    async def publish(self, key, value, *, lifetime):
        self.published.append((key, value, lifetime))
        self.values[ME] = value

    async def withdraw(self, key):
        self.withdrawn.append(key)
        self.values.pop(ME, None)

    async def lookup(self, key):
        assert key == defaults.OFFERS_KEY
        self.lookups += 1
        found = dict(self.values)
        await self.slow.wait()
        if self.fails:
            raise NetworkError("nobody answers")
        return tuple(record(peer, value) for peer, value in found.items())


class FakeNetwork:
    def __init__(self):
        self.learnt = {}

    def learn(self, peer):
        self.learnt[peer.peer_id] = peer.addresses


@pytest.fixture
def directory():
    return FakeDirectory()


@pytest.fixture
def network():
    return FakeNetwork()


@pytest.fixture
def book(directory, network):
    return offers.OfferService(network, directory, offer(ME, name="me"))


async def test_the_cache_answers_for_a_while(book, directory, autojump_clock):
    directory.values[ADA] = offers.encode(offer(ADA, cpus=2.0))
    assert [found.peer.peer_id for found in await book.offers()] == [ADA]
    directory.values[BOB] = offers.encode(offer(BOB))
    assert len(await book.offers()) == 1
    assert directory.lookups == 1
    await trio.sleep(offers.CACHE_SECONDS + 1)
    assert {found.peer.peer_id for found in await book.offers()} == {ADA, BOB}


async def test_fresh_is_fresh(book, directory):
    await book.offers()
    directory.values[ADA] = offers.encode(offer(ADA))
    assert len(await book.offers(fresh=True)) == 1
    assert directory.lookups == 2


async def test_those_who_wait_share_one_lookup(book, directory):
    directory.slow = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(book.offers)
        await trio.testing.wait_all_tasks_blocked()
        directory.slow.set()
    assert directory.lookups == 1


async def test_fresh_does_not_share_a_lookup_that_began_before(book, directory, autojump_clock):
    directory.slow = trio.Event()
    found = []

    async def ask_fresh():
        found.extend(await book.offers(fresh=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(book.offers)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0.1)
        # Published after that lookup had read what there was.
        directory.values[ADA] = offers.encode(offer(ADA))
        nursery.start_soon(ask_fresh)
        await trio.testing.wait_all_tasks_blocked()
        directory.slow.set()
    assert [each.peer.peer_id for each in found] == [ADA]


async def test_a_failed_lookup_keeps_nothing_locked(book, directory):
    directory.fails = True
    with pytest.raises(NetworkError):
        await book.offers()
    directory.fails = False
    assert await book.offers() == ()


async def test_addresses_are_learnt(book, directory, network):
    directory.values[ADA] = offers.encode(offer(ADA))
    await book.offers()
    assert network.learnt[ADA] == ("/ip4/127.0.0.1/tcp/4001",)


async def test_nonsense_hides_nobody(book, directory):
    directory.values[BOB] = b"\xff\xff\xff"
    directory.values[ADA] = offers.encode(offer(ADA))
    assert [found.peer.peer_id for found in await book.offers()] == [ADA]
    assert book.statistics() == offers.OfferStatistics(lookups=1, known=1, malformed=1)


async def test_an_offer_speaks_for_its_signer_only(book, directory):
    directory.values[BOB] = offers.encode(offer(ADA, name="ada"))
    assert [found.peer.peer_id for found in await book.offers()] == [BOB]


async def test_publishing_and_withdrawing(book, directory):
    await book.publish()
    (key, value, lifetime), *_ = directory.published
    assert (key, lifetime) == (defaults.OFFERS_KEY, defaults.OFFER_LIFETIME)
    assert offers.decode(record(ME, value)) == book.own
    assert [found.name for found in await book.offers()] == ["me"]
    await book.withdraw()
    assert directory.withdrawn == [defaults.OFFERS_KEY]
    assert await book.offers(fresh=True) == ()


async def test_who_published_nothing_withdraws_nothing(book, directory):
    await book.withdraw()
    assert directory.withdrawn == []


async def test_the_own_offer_is_shown_as_it_is_now(book, directory):
    await book.publish()
    stages = [StageOffer(LINK, LayerSpan(0, 2), ready=True)]
    stale = directory.values[ME]
    await book.set_stages(stages)
    directory.values[ME] = stale  # the directory's copy lags behind
    assert [found.stages for found in await book.offers()] == [tuple(stages)]


async def test_a_peer_that_moved_is_published_anew_only_if_it_was_published(book, directory):
    moved = ("/ip4/9.9.9.9/tcp/4001",)
    await book.set_addresses(moved)
    assert directory.published == []
    assert book.own.peer == PeerInfo(ME, moved)
    await book.publish()
    await book.set_addresses(())
    assert offers.decode(record(ME, directory.values[ME])).peer.addresses == ()


texts = st.text(max_size=20)
spans = st.tuples(st.integers(0, 500), st.integers(1, 500)).map(lambda pair: LayerSpan(pair[0], pair[0] + pair[1]))
amounts = st.integers(0, 2**63 - 1).map(Credits)
any_offer = st.builds(
    Offer,
    peer=st.builds(PeerInfo, st.just(ADA), st.lists(texts, max_size=4).map(tuple)),
    name=texts,
    relays=st.booleans(),
    cpus=st.floats(0, 1e6),
    memory_bytes=st.integers(0, 2**63 - 1),
    task_types=st.lists(texts, max_size=4).map(tuple),
    prices=st.builds(Prices, amounts, amounts, amounts),
    serves_models=st.booleans(),
    stages=st.lists(st.builds(StageOffer, texts.map(Link), spans, st.booleans()), max_size=4).map(tuple),
)


@given(any_offer)
def test_what_is_encoded_comes_back(given_offer):
    assert offers.decode(record(ADA, offers.encode(given_offer))) == given_offer


@given(st.binary(max_size=300))
def test_any_bytes_are_an_offer_or_a_record_error(value):
    try:
        found = offers.decode(record(ADA, value))
    except RecordError:
        return
    assert math.isfinite(found.cpus)
    assert found.peer.peer_id == ADA


@given(any_offer, st.data())
def test_any_change_of_bytes_is_an_offer_or_a_record_error(given_offer, data):
    value = bytearray(offers.encode(given_offer))
    if value:
        value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = offers.decode(record(ADA, bytes(value)))
    except RecordError:
        return
    assert all(len(stage.span) > 0 for stage in found.stages)
    assert found.cpus >= 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"cpus": math.nan},
        {"cpus": math.inf},
        {"cpus": -1.0},
        {"name": "x" * (offers.LONGEST_TEXT + 1)},
        {"addresses": ["a"] * (offers.MOST_ADDRESSES + 1)},
        {"addresses": ["a" * (offers.LONGEST_TEXT + 1)]},
        {"task_types": ["t"] * (offers.MOST_TASK_TYPES + 1)},
        {"stages": [offers_pb2.Stage(stop=1)] * (offers.MOST_STAGES + 1)},
        {"stages": [offers_pb2.Stage(start=2, stop=2)]},
        {"stages": [offers_pb2.Stage(start=3, stop=2)]},
        {"stages": [offers_pb2.Stage(stop=1, link="x" * (offers.LONGEST_TEXT + 1))]},
        {"memory_bytes": 2**64 - 1},
        {"prices": offers_pb2.Prices(per_task=2**64 - 1)},
        {"prices": offers_pb2.Prices(per_cpu_second=2**63)},
        {"prices": offers_pb2.Prices(per_layer_token=2**63)},
    ],
)
def test_values_that_no_honest_peer_sends(wrong):
    value = offers_pb2.Offer(**wrong).SerializeToString()
    with pytest.raises(RecordError, match=ADA):
        offers.decode(record(ADA, value))


def test_the_bounds_leave_room_for_honest_peers():
    largest = offer(ADA, name="x" * offers.LONGEST_TEXT, stages=(StageOffer(LINK, LayerSpan(0, 1), True),) * 256)
    assert offers.decode(record(ADA, offers.encode(largest))) == largest
    assert replace(largest, name="") != largest
