"""The bootstrap, wired together: one peer with accounts, a ledger and a status page.

transport -> router -> directory -> offers ----------> status -> web
                  └--> accounts, credits -> store -> SQLite
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio
from starlette.applications import Starlette

from hivemind_bootstrap.accounts import PasswordKeeper
from hivemind_bootstrap.accounts_service import AccountsService
from hivemind_bootstrap.config import BootstrapConfig
from hivemind_bootstrap.credits_service import CreditsService
from hivemind_bootstrap.database import Database
from hivemind_bootstrap.status import StatusSource
from hivemind_bootstrap.store import Store
from hivemind_bootstrap.tracker import Tracker
from hivemind_bootstrap.web.server import serve_app, serve_web
from hivemind_bootstrap.web.tracker_pages import announce_url, tracker_routes
from hivemind_p2p import telemetry
from hivemind_p2p.bt.tracker_address import serve_tracker_address
from hivemind_p2p.data_folder import owned_folder
from hivemind_p2p.dht.service import DirectoryService
from hivemind_p2p.hive_key import secret_of
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.addresses import join_peer
from hivemind_p2p.net.clock import serve_clock
from hivemind_p2p.net.reachability_service import ReachabilitySettings
from hivemind_p2p.net.reachable import make_reachable
from hivemind_p2p.net.router import Router
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.offers import OfferService
from hivemind_p2p.record_validators import record_validators
from hivemind_p2p.types import Offer, PeerId, PeerInfo

CONNECTIONS = 1536
"""Connections that a bootstrap keeps before it closes idle ones: many peers are known to each other only through it."""

_events = telemetry.source("bootstrap")


@dataclass(frozen=True, slots=True)
class Ready:
    """A bootstrap that serves.

    Attributes:
        peer_id: Whom the hive trusts.
        addresses: Multiaddrs with ``/p2p/<id>``, as peers are given them.
        http: The status page.
    """

    peer_id: PeerId
    addresses: tuple[str, ...]
    http: str


class ReadyStatus(Protocol):
    """What `nursery.start` hands over."""

    def started(self, value: Ready) -> None:
        """Lets `nursery.start` return."""


async def serve_bootstrap(config: BootstrapConfig, *, task_status: ReadyStatus) -> None:
    """Runs a bootstrap until cancelled; reports a `Ready` once it serves.

    Raises:
        ConfigurationError: Another bootstrap uses the folder, or it cannot be used.
        IdentityError: The key file is no key.
        HiveKeyError: The hive's key file holds no key.
        PortInUseError: A port to listen on is taken.
    """
    async with _open(config) as (network, source, nursery):
        http = await _serve_http(config, source, network, nursery)
        ready = Ready(network.peer_id, _full_addresses(network), http)
        _events.info("ready", peer=ready.peer_id, addresses=ready.addresses, http=ready.http)
        task_status.started(ready)
        await trio.sleep_forever()


@asynccontextmanager
async def _open(config: BootstrapConfig) -> AsyncIterator[tuple[Router, StatusSource, trio.Nursery]]:
    with owned_folder(config.data, "bootstrap"):
        identity = Identity.load_or_create(config.data / "identity.key")
        with _open_database(config.data / "ledger.sqlite3") as database:
            secret = secret_of(config.hive_key)
            async with (
                open_transport(identity, config.listen, psk=secret, budget=CONNECTIONS) as transport,
                trio.open_nursery() as nursery,
            ):
                network = Router(transport, nursery)
                # It asks nobody what they see: it is who the others ask, and it relays for them.
                reachability = make_reachable(
                    transport, ReachabilitySettings(limits=config.relay, upnp=False), clock=time.time
                )
                await nursery.start(reachability.run)
                yield network, await _start_services(config, identity, network, Store(database), nursery), nursery
                nursery.cancel_scope.cancel()


async def _start_services(
    config: BootstrapConfig, identity: Identity, network: Router, store: Store, nursery: trio.Nursery
) -> StatusSource:
    serve_clock(network, time.time)
    directory = DirectoryService(
        network, identity, clock=time.time, seeds=(), folder=config.data, validators=record_validators()
    )
    await nursery.start(directory.run)
    AccountsService(
        network,
        store,
        clock=time.time,
        passwords=PasswordKeeper(),
        welcome=config.welcome_credits,
        open_registration=config.open_registration,
    )
    credits_service = CreditsService(network, identity, store, clock=time.time, open_ledger=config.open_ledger)
    await nursery.start(credits_service.run)
    # It offers nothing itself, and so never publishes this offer: it only reads those of the others.
    offers = OfferService(network, directory, Offer(PeerInfo(network.peer_id, network.addresses)))
    return StatusSource(network.peer_id, lambda: _full_addresses(network), store, offers, clock=time.time)


async def _serve_http(config: BootstrapConfig, source: StatusSource, network: Router, nursery: trio.Nursery) -> str:
    if config.tracker == "off":
        return str(await nursery.start(serve_web, config.http, source))
    tracker = Tracker(open_to_all=config.tracker == "open")
    routes = tracker_routes(tracker, time.monotonic)
    if config.tracker_http:
        http = str(await nursery.start(serve_web, config.http, source))
        where = str(await nursery.start(serve_app, config.tracker_http, Starlette(routes=routes)))
    else:
        http = where = str(await nursery.start(serve_web, config.http, source, routes))
    url = announce_url(config.tracker_url or where)

    def register(infohash: bytes, owner: PeerId) -> str:
        return url if tracker.register(infohash, owner, time.monotonic()) else ""

    serve_tracker_address(network, register)
    return http


def _full_addresses(network: Router) -> tuple[str, ...]:
    return join_peer(PeerInfo(network.peer_id, network.addresses))


@contextmanager
def _open_database(path: Path) -> Iterator[Database]:
    database = Database(path)
    try:
        yield database
    finally:
        database.close()
