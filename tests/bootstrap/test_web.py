"""The pages, asked through ASGI and, once, through a real socket."""

from __future__ import annotations

import socket
from html.parser import HTMLParser

import httpx
import pytest
import trio

from hivemind_bootstrap.config import BootstrapConfig, split_host_port
from hivemind_bootstrap.database import Database
from hivemind_bootstrap.status import StatusSource
from hivemind_bootstrap.store import Store
from hivemind_bootstrap.web.pages import make_web, size, uptime
from hivemind_bootstrap.web.server import serve_web
from hivemind_p2p.errors import BootstrapUnreachableError, ConfigurationError, PortInUseError
from hivemind_p2p.types import LayerSpan, Link, Offer, PeerId, PeerInfo, StageOffer

ADDRESS = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWBootstrap"
NASTY = '<script>alert("x")</script>'


class FakeOffers:
    def __init__(self, *offers: Offer, error: Exception | None = None) -> None:
        self._offers = offers
        self._error = error
        self.asked = 0

    async def offers(self, *, fresh: bool = False) -> tuple[Offer, ...]:
        self.asked += 1
        if self._error:
            raise self._error
        return self._offers


class Checker(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in {"src", "href"}:
                self.loads.append(value)
            if name == "style" or name.startswith("on"):
                self.inline.append(name)
        if tag == "style" or (tag == "script" and "src" not in dict(attrs)):
            self.inline.append(tag)

    def handle_data(self, data):
        self.text += data


def _source(database: Database, offers: FakeOffers) -> StatusSource:
    return StatusSource(PeerId("12D3KooWBootstrap"), lambda: [ADDRESS], Store(database), offers, clock=lambda: 100.0)


@pytest.fixture
def open_client(database: Database):
    def opened(*offers: Offer, error: Exception | None = None) -> httpx.AsyncClient:
        web = make_web(_source(database, FakeOffers(*offers, error=error)))
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=web), base_url="http://test")

    return opened


OFFER = Offer(
    PeerInfo(PeerId("12D3KooWWorker")),
    name=NASTY,
    cpus=2.0,
    memory_bytes=2 * 1024**3,
    task_types=("function",),
    stages=(StageOffer(Link("magnet:?xt=x"), LayerSpan(0, 4), ready=True),),
)


async def test_the_page_shows_the_hive_and_escapes_what_peers_say(open_client, database):
    database.register("anna", "hash", PeerId("p"), 10, 1.0)
    async with open_client(OFFER) as client:
        answer = await client.get("/")
    page = Checker()
    page.feed(answer.text)
    assert answer.status_code == 200
    assert NASTY not in answer.text
    for text in (NASTY, ADDRESS, "2.0 GiB", "layers 0-3", "function", "sum to zero"):
        assert text in page.text


async def test_the_page_needs_nothing_from_elsewhere(open_client):
    async with open_client(OFFER) as client:
        page = Checker()
        page.feed((await client.get("/")).text)
        assert page.inline == []
        assert all(load.startswith("/") and not load.startswith("//") for load in page.loads)
        for load in page.loads:
            assert (await client.get(load)).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/status", "/health", "/metrics", "/static/style.css", "/nothing"])
async def test_every_answer_carries_the_security_headers(open_client, path):
    async with open_client() as client:
        answer = await client.get(path)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"


async def test_json_for_programs(open_client, database):
    database.register("anna", "hash", PeerId("p"), 10, 1.0)
    async with open_client(OFFER) as client:
        status = (await client.get("/api/status")).json()
        health = await client.get("/health")
    assert (status["accounts"], status["linked_peers"], status["transfers"], status["ledger_sum"]) == (1, 1, 1, 0)
    assert status["addresses"] == [ADDRESS]
    assert status["offers"][0]["peer_id"] == "12D3KooWWorker"
    assert (health.status_code, health.json()["status"]) == (200, "ok")


async def test_a_ledger_that_does_not_add_up_is_shouted_about(open_client, database):
    database.register("anna", "hash", PeerId("p"), 10, 1.0)
    with database._writer.begin() as connection:
        connection.exec_driver_sql("INSERT INTO entries (transfer_id, name, amount) VALUES (1, 'account:1', 7)")
    async with open_client() as client:
        assert (await client.get("/health")).status_code == 503
        assert "does not add up" in (await client.get("/")).text


async def test_the_page_comes_up_while_the_directory_does_not_answer(open_client):
    async with open_client(error=BootstrapUnreachableError("nobody there")) as client:
        answer = await client.get("/")
    assert "No peer lends anything yet" in answer.text


async def test_metrics_are_prometheus_text(open_client):
    async with open_client() as client:
        answer = await client.get("/metrics")
    assert "# TYPE" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


async def test_no_file_outside_the_folder_is_served_and_nothing_can_be_posted(open_client):
    async with open_client() as client:
        for path in ("/static/../pages.py", "/static/%2e%2e/pages.py", "/static//etc/passwd"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post("/")).status_code == 405


async def test_many_reloads_look_once(database):
    offers = FakeOffers(OFFER)
    source = _source(database, offers)
    for _ in range(5):
        await source.status()
    assert offers.asked == 1


async def test_the_server_tells_its_url_and_a_taken_port(database):
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_web, "127.0.0.1:0", _source(database, FakeOffers()))
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/health")).json()["status"] == "ok"
        with pytest.raises(ExceptionGroup) as caught:
            async with trio.open_nursery() as second:
                await second.start(serve_web, url.removeprefix("http://"), _source(database, FakeOffers()))
        assert caught.group_contains(PortInUseError)
        nursery.cancel_scope.cancel()
    with socket.create_server(split_host_port(url.removeprefix("http://"))):
        pass


@pytest.mark.parametrize("text", ["", "x", "127.0.0.1", ":80", "127.0.0.1:99999", "::1:80", "h:-1", "h:x"])
def test_malformed_addresses_are_refused(tmp_path, text):
    with pytest.raises(ConfigurationError):
        BootstrapConfig(tmp_path, http=text)


def test_addresses_are_split():
    assert split_host_port("127.0.0.1:80") == ("127.0.0.1", 80)
    assert split_host_port("[::1]:0") == ("::1", 0)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (61.9, "1 min 1 s"), (90_000, "1 d 1 h"), (3_600, "1 h")])
def test_time_for_people(seconds, text):
    assert uptime(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (2048, "2.0 KiB"), (5 * 1024**4, "5.0 TiB")])
def test_sizes_for_people(count, text):
    assert size(count) == text
