"""The tracker's decisions, and its routes asked through ASGI."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from starlette.applications import Starlette

from hivemind_bootstrap import tracker as module
from hivemind_bootstrap.app import _serve_http
from hivemind_bootstrap.config import BootstrapConfig
from hivemind_bootstrap.tracker import (
    INTERVAL,
    LIFETIME,
    MOST_WANTED,
    PEERS_AN_ADDRESS,
    REGISTERED,
    REQUESTS_AT_ONCE,
    Tracker,
    TrackerStatistics,
)
from hivemind_bootstrap.tracker_requests import Announce, TrackerError, parse_announce, parse_scrape
from hivemind_bootstrap.web.tracker_pages import announce_url, tracker_routes
from hivemind_p2p.bt import bencode
from hivemind_p2p.bt.tracker_address import register_with_tracker
from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.memory import MemoryNetwork
from hivemind_p2p.net.router import Router
from hivemind_p2p.types import PeerInfo

SWARM = bytes(range(100, 120))
PUBLIC = "198.41.0.4"
PUBLIC_6 = "2001:500:88:200::10"


@pytest.fixture
def tracker():
    return Tracker(open_to_all=True)


def announce(tracker, address, port=6881, *, left=1, now=0.0, swarm=SWARM, **more):
    return bencode.decode(tracker.announce(Announce(swarm, port, left, **more), address, now))


def peers(answer):
    four, six = answer[b"peers"], answer.get(b"peers6", b"")
    return {four[at : at + 6] for at in range(0, len(four), 6)} | {six[at : at + 18] for at in range(0, len(six), 18)}


def test_peers_hear_of_each_other(tracker):
    first = announce(tracker, PUBLIC, 6881, left=0, event="started")
    assert first == {b"complete": 1, b"incomplete": 0, b"interval": INTERVAL, b"min interval": 60, b"peers": b""}
    second = announce(tracker, "8.8.8.8", 7000)
    assert second[b"peers"] == bytes([198, 41, 0, 4]) + (6881).to_bytes(2, "big")
    third = announce(tracker, PUBLIC_6, 7001)
    assert peers(third) == {bytes([198, 41, 0, 4, 26, 225]), bytes([8, 8, 8, 8, 27, 88])}
    assert (third[b"complete"], third[b"incomplete"]) == (1, 2)
    six = bytes.fromhex("20010500008802000000000000000010") + (7001).to_bytes(2, "big")
    assert announce(tracker, "8.8.8.8", 7000)[b"peers6"] == six


def test_seeds_are_not_told_of_seeds_and_nobody_of_itself(tracker):
    for host in range(1, 4):
        announce(tracker, f"8.8.8.{host}", left=0)
    assert peers(announce(tracker, "8.8.8.1", left=0)) == set()
    assert len(peers(announce(tracker, "8.8.8.1", left=1))) == 2


def test_who_stops_or_falls_silent_is_forgotten(tracker):
    announce(tracker, "8.8.8.1")
    announce(tracker, "8.8.8.2")
    assert announce(tracker, "8.8.8.1", event="stopped")[b"peers"] == b""
    assert announce(tracker, "8.8.8.1", event="stopped")[b"incomplete"] == 1
    assert len(peers(announce(tracker, "8.8.8.3", now=LIFETIME - 1))) == 1
    assert len(peers(announce(tracker, "8.8.8.4", now=LIFETIME))) == 1
    assert tracker.statistics() == TrackerStatistics(swarms=1, peers=2)
    tracker.scrape([], "8.8.8.1", 3 * LIFETIME)
    assert tracker.statistics() == TrackerStatistics(swarms=0, peers=0)
    assert tracker._entries == {}


def test_public_clients_are_not_sent_into_private_networks(tracker):
    for address in ("127.0.0.1", "192.168.1.7", "10.0.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "fd00::1"):
        announce(tracker, address)
    announce(tracker, "8.8.8.8")
    assert peers(announce(tracker, PUBLIC)) == {bytes([8, 8, 8, 8, 26, 225])}
    assert len(peers(announce(tracker, "192.168.1.8"))) == 9


def test_an_address_in_another_coat_is_the_same(tracker):
    announce(tracker, "::ffff:8.8.8.8")
    announce(tracker, "8.8.8.8")
    assert tracker.statistics().peers == 1


def test_each_gets_its_turn(tracker):
    for host in range(1, 21):
        announce(tracker, f"8.8.8.{host}")
    told = set()
    for _ in range(4):
        told |= peers(announce(tracker, PUBLIC, wanted=5))
    assert len(told) == 20
    assert peers(announce(tracker, PUBLIC, wanted=0)) == set()


def test_an_answer_is_bounded(tracker):
    for host in range(MOST_WANTED + 50):
        announce(tracker, f"8.8.{host // 250}.{host % 250}")
    assert len(peers(announce(tracker, PUBLIC, wanted=10**9))) == MOST_WANTED


def test_downloads_are_counted_once(tracker):
    for _ in range(3):
        announce(tracker, PUBLIC, left=0, event="completed")
    announce(tracker, "8.8.8.8", left=5, event="completed")
    answer = bencode.decode(tracker.scrape([SWARM, bytes(20)], PUBLIC, 0.0))
    assert answer == {b"files": {SWARM: {b"complete": 1, b"downloaded": 1, b"incomplete": 1}}}


def test_one_address_cannot_fill_a_swarm_or_the_tracker(tracker, monkeypatch):
    for port in range(PEERS_AN_ADDRESS):
        announce(tracker, PUBLIC, 2000 + port)
    with pytest.raises(TrackerError, match="too many peers"):
        announce(tracker, PUBLIC, 3000)
    announce(tracker, PUBLIC, 2000)  # who is there already may go on
    monkeypatch.setattr(module, "ENTRIES_AN_ADDRESS", PEERS_AN_ADDRESS + 1)
    announce(tracker, PUBLIC, swarm=bytes(20))
    with pytest.raises(TrackerError, match="too many peers"):
        announce(tracker, PUBLIC, swarm=bytes(19) + b"x")
    for host in range(1, PEERS_AN_ADDRESS + 1):  # all of these are one owner's
        announce(tracker, f"2001:500:88:200::{host}")
    with pytest.raises(TrackerError, match="too many peers"):
        announce(tracker, "2001:500:88:200::ffff")


def test_memory_is_bounded(tracker, monkeypatch):
    monkeypatch.setattr(module, "PEERS_A_SWARM", 3)
    monkeypatch.setattr(module, "MOST_PEERS", 5)
    monkeypatch.setattr(module, "MOST_SWARMS", 2)
    monkeypatch.setattr(module, "MOST_ADDRESSES", 4)
    for host in range(1, 9):
        # Who finds no room is told of others all the same.
        assert len(peers(announce(tracker, f"8.8.8.{host}"))) == min(host - 1, 3)
    for host in range(1, 9):
        announce(tracker, f"8.8.8.{host}", swarm=bytes(20))
    assert tracker.statistics() == TrackerStatistics(swarms=2, peers=5)
    with pytest.raises(TrackerError, match="full"):
        announce(tracker, PUBLIC, swarm=b"x" * 20)
    assert len(tracker._budgets) == 4


def test_who_asks_too_often_is_told_to_wait(tracker):
    for _ in range(REQUESTS_AT_ONCE):
        announce(tracker, PUBLIC)
    with pytest.raises(TrackerError) as caught:
        announce(tracker, PUBLIC)
    assert bencode.decode(caught.value.encode())[b"retry in"] == 1
    with pytest.raises(TrackerError):
        tracker.scrape([SWARM], PUBLIC, 0.0)
    announce(tracker, "8.8.8.8")
    announce(tracker, PUBLIC, now=1.0)


def test_only_registered_swarms_are_tracked_in_a_hive(monkeypatch):
    tracker = Tracker()
    with pytest.raises(TrackerError, match="does not know the content"):
        announce(tracker, PUBLIC)
    assert tracker.register(SWARM + bytes(12), "owner", 0.0)
    announce(tracker, PUBLIC)
    announce(tracker, PUBLIC, now=REGISTERED - 1)
    announce(tracker, PUBLIC, now=2 * REGISTERED - 2)
    with pytest.raises(TrackerError):
        announce(tracker, PUBLIC, now=3 * REGISTERED)
    monkeypatch.setattr(module, "REGISTERED_BY_ONE", 2)
    now = 3 * REGISTERED
    assert [tracker.register(bytes([n]) * 32, "owner", now) for n in (1, 2, 3, 2)] == [True, True, False, True]
    assert tracker.register(bytes(32), "other", now)
    tracker.register(b"x" * 32, "another", 5 * REGISTERED)
    assert tracker._owned == {"another": 1}


# -- requests ----------------------------------------------------------------------------------------------------------


def query(**fields) -> bytes:
    fields = {"info_hash": SWARM, "peer_id": b"-XX0000-123456789012", "port": b"6881", "left": b"5", **fields}
    pairs = ((name, value) for name, value in fields.items() if value is not None)
    return "&".join(f"{name}={quote_from_bytes(value)}" for name, value in pairs).encode()


def test_an_announcement_is_read():
    assert parse_announce(query()) == Announce(SWARM, 6881, 5)
    full = query(event=b"started", numwant=b"7", compact=b"1", ip=b"8.8.8.8", key=b"x", uploaded=b"0")
    assert parse_announce(full) == Announce(SWARM, 6881, 5, "started", 7)
    assert parse_announce(query(left=None, numwant=b"-1")) == Announce(SWARM, 6881, 1)
    plus = b"+" * 20
    assert parse_announce(query(info_hash=None) + b"&info_hash=" + plus).infohash == plus


@pytest.mark.parametrize(
    "fields",
    [
        {"info_hash": None},
        {"info_hash": b"x" * 32},
        {"peer_id": None},
        {"peer_id": b"short"},
        {"port": None},
        {"port": b"0"},
        {"port": b"80"},
        {"port": b"65536"},
        {"port": b"x"},
        {"port": "²²²²".encode()},
        {"left": b"-"},
        {"left": b"9" * 30},
        {"numwant": b"many"},
        {"event": b"exploded"},
    ],
)
def test_malformed_announcements_are_refused(fields):
    with pytest.raises(TrackerError):
        parse_announce(query(**fields))


def test_a_scrape_names_its_swarms():
    assert parse_scrape(b"info_hash=" + b"a" * 20 + b"&info_hash=" + b"%62" * 20) == [b"a" * 20, b"b" * 20]
    for text in (b"", b"info_hash=short"):
        with pytest.raises(TrackerError):
            parse_scrape(text)


@given(
    st.binary(max_size=300) | st.lists(st.sampled_from([b"&", b"=", b"port", b"info_hash", b"%", b"9"])).map(b"".join)
)
def test_fuzz_requests(data):
    for text in (data, query(event=data), query(port=data), query() + b"&" + data, data + b"&" + query()):
        try:
            read = parse_announce(text)
        except TrackerError:
            continue
        assert 1024 <= read.port <= 65535
        assert len(read.infohash) == 20


class TrackerMachine(RuleBasedStateMachine):
    """Announcements of a few peers in any order, against a model that is one dictionary."""

    @initialize()
    def begin(self):
        self.tracker = Tracker(open_to_all=True)
        self.now = 0.0
        self.model: dict[tuple[bytes, int], tuple[float, bool]] = {}

    @rule(
        swarm=st.sampled_from([b"a" * 20, b"b" * 20]),
        host=st.integers(1, 5),
        left=st.integers(0, 1),
        event=st.sampled_from(["", "started", "stopped", "completed"]),
        after=st.sampled_from([1.0, 100.0, 900.0, LIFETIME]),
    )
    def announce(self, swarm, host, left, event, after):
        self.now += after
        self.model = {key: value for key, value in self.model.items() if self.now - value[0] < LIFETIME}
        answer = announce(self.tracker, f"8.8.8.{host}", left=left, event=event, now=self.now, swarm=swarm)
        self.model.pop((swarm, host), None)
        if event != "stopped":
            self.model[swarm, host] = (self.now, left == 0)
        others = {key[1]: value[1] for key, value in self.model.items() if key[0] == swarm and key[1] != host}
        expected = {other for other, seeds in others.items() if not (left == 0 and seeds)}
        assert {peer[3] for peer in peers(answer)} == (expected if event != "stopped" else set())
        seeds = [value[1] for key, value in self.model.items() if key[0] == swarm]
        assert (answer[b"complete"], answer[b"incomplete"]) == (sum(seeds), len(seeds) - sum(seeds))

    @invariant()
    def counts_agree(self):
        if hasattr(self, "tracker"):
            assert len(self.tracker._peers) == sum(len(swarm.peers) for swarm in self.tracker._swarms.values())
            assert sum(self.tracker._entries.values()) == len(self.tracker._peers)


TestTrackerMachine = TrackerMachine.TestCase
TestTrackerMachine.settings = settings(max_examples=40, stateful_step_count=25)


# -- over HTTP ---------------------------------------------------------------------------------------------------------


async def ask(path, tracker, address=PUBLIC, headers=None):
    app = Starlette(routes=tracker_routes(tracker, lambda: 0.0))
    transport = httpx.ASGITransport(app=app, client=(address, 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get(path, headers=headers)
    assert answer.status_code == 200
    return bencode.decode(answer.content)


async def test_the_address_is_the_connections_and_no_header_says_otherwise(tracker):
    headers = {"x-forwarded-for": "9.9.9.9", "forwarded": "for=9.9.9.9", "x-real-ip": "9.9.9.9"}
    await ask(f"/announce?{query(ip=b'9.9.9.9').decode()}", tracker, "8.8.8.8", headers)
    answer = await ask(f"/announce?{query().decode()}", tracker)
    assert peers(answer) == {bytes([8, 8, 8, 8, 26, 225])}
    scraped = await ask(f"/scrape?info_hash={quote_from_bytes(SWARM)}", tracker)
    assert scraped[b"files"][SWARM][b"incomplete"] == 2


async def test_how_much_there_is_is_told_as_json(tracker):
    announce(tracker, "8.8.8.8")
    transport = httpx.ASGITransport(app=Starlette(routes=tracker_routes(tracker, lambda: 0.0)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/api/tracker")).json() == {"swarms": 1, "peers": 1}


@pytest.mark.parametrize("path", ["/announce", "/scrape", "/announce?port=x&info_hash=%ff", "/scrape?info_hash=1"])
async def test_what_is_refused_is_told_as_clients_expect_it(tracker, path):
    assert b"failure reason" in await ask(path, tracker)


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://127.0.0.1:80", "http://127.0.0.1:80/announce"),
        ("https://hive.example.org/", "https://hive.example.org/announce"),
        ("http://0.0.0.0:80", ""),
        ("http://[::]:80", ""),
    ],
)
def test_the_url_is_one_that_others_can_dial(base, url):
    assert announce_url(base) == url


@pytest.mark.parametrize("options", [{"tracker": "maybe"}, {"tracker_url": "hive.example.org"}, {"tracker_http": "x"}])
def test_wrong_settings_are_told(tmp_path, options):
    with pytest.raises(ConfigurationError):
        BootstrapConfig(tmp_path, **options)


# -- in a bootstrap ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_address", [True, False])
async def test_a_bootstrap_registers_contents_and_serves_them(tmp_path, own_address):
    memory, asked = MemoryNetwork(), bytes(range(32))
    config = BootstrapConfig(tmp_path, tracker_http="127.0.0.1:0" if own_address else "")
    async with trio.open_nursery() as nursery, httpx.AsyncClient() as client:
        bootstrap, peer = (Router(memory.join(Identity(bytes([n]) * 32)), nursery) for n in (1, 2))
        peer.learn(PeerInfo(bootstrap.peer_id, bootstrap.addresses))
        http = await _serve_http(config, None, bootstrap, nursery)
        url = await register_with_tracker(peer, bootstrap.peer_id, asked)
        assert (url == f"{http}/announce") is not own_address
        if own_address:
            assert (await client.get(f"{http}/announce")).status_code == 404
        answer = await client.get(f"{url}?{query(info_hash=asked[:20]).decode()}")
        assert bencode.decode(answer.content)[b"incomplete"] == 1
        answer = await client.get(f"{url}?{query().decode()}")
        assert b"does not know the content" in answer.content
        nursery.cancel_scope.cancel()


async def test_a_bootstrap_without_a_tracker(tmp_path):
    memory = MemoryNetwork()
    async with trio.open_nursery() as nursery, httpx.AsyncClient() as client:
        bootstrap = Router(memory.join(Identity(bytes(32))), nursery)
        http = await _serve_http(BootstrapConfig(tmp_path, tracker="off"), None, bootstrap, nursery)
        assert (await client.get(f"{http}/announce")).status_code == 404
        nursery.cancel_scope.cancel()
