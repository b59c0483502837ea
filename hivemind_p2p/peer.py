"""One peer: the one place where the services are wired together.

A peer is a process with an Ed25519 identity in a hive. Every peer can find others, share contents, and use tasks
and models; one that lends (`hivemind-peer run`) also runs tasks and hosts stages. The order below is the order in
which things stand on each other:

    transport -> router -> directory -> content -> account, purse, till -> offers -> tasks, models
                                                                             └-> executor, task and stage services
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.bt.exchange import Limits, OnMisbehaviour
from hivemind_p2p.bt.rate_limit import TokenBucket
from hivemind_p2p.bt.service import SwarmService
from hivemind_p2p.config import Settings, keep_torch_files_in
from hivemind_p2p.credits.client import AccountClient, Purse, Till
from hivemind_p2p.data_folder import owned_folder
from hivemind_p2p.dht.service import DirectoryService
from hivemind_p2p.errors import (
    AccountExistsError,
    AuthenticationError,
    BootstrapUnreachableError,
    ConfigurationError,
    HivemindError,
)
from hivemind_p2p.hive_key import secret_of
from hivemind_p2p.identity import Identity
from hivemind_p2p.lending import Lending
from hivemind_p2p.misbehaviour import Misbehaviour
from hivemind_p2p.net.addresses import is_dialable, join_peer, split_peer
from hivemind_p2p.net.knocking import explained
from hivemind_p2p.net.reachability_service import ReachabilityService, ReachabilitySettings
from hivemind_p2p.net.reachable import is_local, make_reachable
from hivemind_p2p.net.relay_book import RelayLimits
from hivemind_p2p.net.router import Router
from hivemind_p2p.net.transport import LibP2PTransport, open_transport
from hivemind_p2p.offers import OfferService
from hivemind_p2p.record_validators import record_validators
from hivemind_p2p.sharding.model import ModelClient
from hivemind_p2p.tasks.client import TaskClient
from hivemind_p2p.types import Link, Offer, PeerId, PeerInfo

if TYPE_CHECKING:
    from hivemind_p2p.sharding.service import StageService
    from hivemind_p2p.tasks.service import TaskService
    from hivemind_p2p.worker.executor import ChildExecutor
    from hivemind_p2p.worker.gpus import Gpu
    from hivemind_p2p.worker.sandbox import SandboxName

GOODBYE_DEADLINE = 3.0
"""Seconds for withdrawing the offer and settling: a peer that leaves must not wait for those that are gone."""

_NAME_A_BOOTSTRAP = (
    "Name one with bootstrap=... or --bootstrap, HIVEMIND_P2P_BOOTSTRAP or config.toml; or try hm.local_hive()."
)

_events = telemetry.source("peer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A running peer and its services; made by `open_peer`."""

    identity: Identity
    settings: Settings
    folder: Path
    bootstrap: PeerInfo
    network: Router
    directory: DirectoryService
    content: SwarmService
    offers: OfferService
    accounts: AccountClient | None
    purse: Purse | None
    till: Till | None
    tasks: TaskClient
    models: ModelClient
    transport: LibP2PTransport
    executor: ChildExecutor | None = None
    task_service: TaskService | None = None
    lending: Lending | None = None
    stage_service: StageService | None = None
    reachability: ReachabilityService | None = None

    @property
    def peer_id(self) -> PeerId:
        """Who this peer is."""
        return self.identity.peer_id

    @property
    def bootstrap_id(self) -> PeerId:
        """Whom this hive trusts."""
        return self.bootstrap.peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this peer can be dialled, with its id."""
        return join_peer(PeerInfo(self.peer_id, self.network.addresses))

    def statistics(self) -> dict[str, Any]:
        """The figures of every service, by its name."""
        services: dict[str, Any] = {
            "network": self.network,
            "transport": self.transport,
            "directory": self.directory,
            "content": self.content,
            "offers": self.offers,
            "purse": self.purse,
            "till": self.till,
            "tasks": self.tasks,
            "executor": self.executor,
            "task_service": self.task_service,
            "lending": self.lending,
            "stage_service": self.stage_service,
            "reachability": self.reachability,
        }
        return {name: service.statistics() for name, service in services.items() if service is not None}


@asynccontextmanager
async def open_peer(settings: Settings, *, on_misbehaviour: OnMisbehaviour | None = None) -> AsyncIterator[Peer]:
    """Runs a peer for the time of the block.

    Args:
        settings: What it is to do.
        on_misbehaviour: Told of peers that did what is beyond doubt wrong, such as sending wrong bytes, and what.

    Raises:
        ConfigurationError: The settings name no bootstrap.
        HiveKeyError: The key file holds no hive key.
        BootstrapUnreachableError: It does not answer; a `PrivateHiveError` where the hive key is what is wrong.
        AuthenticationError: It does not accept the username and password.
        PortInUseError: The port to listen on is taken.
    """
    if settings.bootstrap is None:
        raise ConfigurationError("no bootstrap is known", hint=_NAME_A_BOOTSTRAP)
    bootstrap = split_peer(settings.bootstrap)
    async with AsyncExitStack() as stack:
        folder = _data_folder(settings, stack)
        identity = Identity.load_or_create(settings.identity or folder / "identity.key")
        secret = secret_of(settings.hive_key)
        transport = await stack.enter_async_context(open_transport(identity, settings.listen, psk=secret))
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        network = Router(transport, nursery)
        network.learn(bootstrap)
        directory = DirectoryService(
            network,
            identity,
            clock=time.time,
            seeds=[bootstrap],
            folder=None if settings.data is None else folder,
            validators=record_validators(),
        )
        try:
            await nursery.start(directory.run)
        except BootstrapUnreachableError as error:
            raise await explained(error, bootstrap, secret) from error
        limits = Limits(
            upload=TokenBucket(settings.upload_limit),
            download=TokenBucket(settings.download_limit),
            slots=settings.upload_slots,
            conversations=settings.content_connections,
            storage=settings.storage,
            wait_for_room=settings.wait_for_room,
            helpers=True,
        )
        misbehaviour = Misbehaviour(on_misbehaviour)
        content = SwarmService(
            network,
            directory,
            folder / "content",
            clock=time.time,
            limits=limits,
            on_misbehaviour=misbehaviour,
        )
        await nursery.start(content.run)
        accounts, purse, till = await _open_account(settings, identity, network, bootstrap, folder, nursery)
        book = accounts or AccountClient(network, bootstrap.peer_id)
        offers = OfferService(network, directory, _own_offer(settings, identity, network))
        peer = Peer(
            identity=identity,
            settings=settings,
            folder=folder,
            bootstrap=bootstrap,
            network=network,
            directory=directory,
            content=content,
            offers=offers,
            accounts=accounts,
            purse=purse,
            till=till,
            tasks=TaskClient(network, offers, purse, nursery, content, book),
            models=ModelClient(network, content, offers, directory, purse),
            transport=transport,
            reachability=await _reach_out(settings, transport, bootstrap, offers, nursery),
        )
        misbehaviour.mistrusted_by(peer.tasks.mistrust)
        if settings.lend:
            peer = await _lend(peer, stack, nursery)
        _events.info("peer_ready", peer=peer.peer_id, addresses=network.addresses)
        try:
            yield peer
        finally:
            await _say_goodbye(peer)


def _data_folder(settings: Settings, stack: AsyncExitStack) -> Path:
    if settings.data is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hivemind-p2p-")))
    return stack.enter_context(owned_folder(settings.data, "peer"))


async def _open_account(
    settings: Settings,
    identity: Identity,
    network: Router,
    bootstrap: PeerInfo,
    folder: Path,
    nursery: trio.Nursery,
) -> tuple[AccountClient | None, Purse | None, Till | None]:
    if settings.username is None:
        return None, None, None
    if settings.password is None:
        raise ConfigurationError("a username without a password", hint="Set HIVEMIND_P2P_PASSWORD.")
    accounts = AccountClient(network, bootstrap.peer_id)
    await _log_in(accounts, settings.username, settings.password, register=settings.register)
    purse = Purse(network, identity, bootstrap.peer_id, clock=time.time)
    till = Till(network, identity, bootstrap.peer_id, clock=time.time, folder=folder / "vouchers")
    await nursery.start(till.run)
    return accounts, purse, till


async def _log_in(accounts: AccountClient, username: str, password: str, *, register: bool) -> None:
    try:
        await accounts.login(username, password)
    except AuthenticationError:
        if not register:
            raise
        try:
            await accounts.register(username, password)
        except AccountExistsError:
            # Another peer of the same user has made it meanwhile; or it was the password, which this says.
            await accounts.login(username, password)


async def _reach_out(
    settings: Settings, transport: LibP2PTransport, bootstrap: PeerInfo, offers: OfferService, nursery: trio.Nursery
) -> ReachabilityService | None:
    """Finds out who can reach this peer, and tells the hive when that changes; nothing to do on one machine."""
    if is_local(bootstrap):
        return None

    async def others(*, relays: bool) -> list[PeerInfo]:
        try:
            known = await offers.offers()
        except HivemindError as error:
            _events.debug("no_offers", reason=error.message)
            return []
        peers = [offer.peer for offer in known if offer.relays or not relays]
        return [peer for peer in peers if peer.peer_id != transport.peer_id and any(map(is_dialable, peer.addresses))]

    wanted = ReachabilitySettings(
        trusted=(bootstrap,),
        witnesses=lambda: others(relays=False),
        relays=lambda: others(relays=True),
        limits=RelayLimits() if settings.relay else None,
        upnp=settings.lend and settings.upnp,
    )

    async def move(addresses: tuple[str, ...]) -> None:
        await _try(lambda: offers.set_addresses(addresses))

    service = make_reachable(
        transport, wanted, clock=time.time, moved=lambda addresses: nursery.start_soon(move, addresses)
    )
    await nursery.start(service.run)
    return service


def _own_offer(settings: Settings, identity: Identity, network: Router) -> Offer:
    info = PeerInfo(identity.peer_id, network.addresses)
    if not settings.lend:
        return Offer(peer=info, name=settings.name)
    from hivemind_p2p.sharding.market import weight_bytes
    from hivemind_p2p.tasks.registry import task_type_names

    memory = settings.memory or _half_of_the_memory()
    return Offer(
        peer=info,
        name=settings.name,
        cpus=settings.cpus or float(os.cpu_count() or 1),
        memory_bytes=memory,
        task_types=task_type_names(),
        prices=settings.prices,
        location=settings.location,
        network=settings.task_network,
        software=(f"python{sys.version_info.major}.{sys.version_info.minor}", sys.platform, *settings.software),
        serves_models=settings.serve_models != "none",
        served_links=tuple(Link(link) for link in settings.serve_models.split() if link not in ("none", "any")),
        weight_bytes_free=weight_bytes(memory),
        relays=settings.relay,
    )


def _half_of_the_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total // 2)


async def _lent_gpus(settings: Settings) -> tuple[Gpu, ...]:
    """The GPUs that tasks may have."""
    if not settings.gpus:
        return ()
    from hivemind_p2p.worker import gpus
    from hivemind_p2p.worker.reporter import gpus as report

    found = gpus.find(await report())
    if len(found) < settings.gpus:
        _events.warning("gpus_missing", wanted=settings.gpus, found=len(found))
    return found if settings.gpus < 0 else found[: settings.gpus]


def _with_devices(offer: Offer, gpus: Sequence[Gpu]) -> Offer:
    """The offer with the GPUs and the disk that tasks may have."""
    from dataclasses import replace

    from hivemind_p2p.worker.sandbox import SCRATCH_BYTES

    each = min((gpu.memory_bytes for gpu in gpus), default=0)
    return replace(offer, gpus=len(gpus), gpu_memory_bytes=each, disk_bytes=SCRATCH_BYTES)


async def _lend(peer: Peer, stack: AsyncExitStack, nursery: trio.Nursery) -> Peer:
    """Starts what runs others' work, and publishes the offer."""
    from dataclasses import replace

    from hivemind_p2p.sharding.service import StageService
    from hivemind_p2p.tasks.admission import Lent
    from hivemind_p2p.tasks.service import TaskService
    from hivemind_p2p.worker import control
    from hivemind_p2p.worker.executor import ChildExecutor
    from hivemind_p2p.worker.monitor import OtherPrograms
    from hivemind_p2p.worker.readiness import Readiness
    from hivemind_p2p.worker.schedule import parse

    gpus = await _lent_gpus(peer.settings)
    own = _with_devices(peer.offers.own, gpus)
    peer.offers.prepare(own)
    readiness = Readiness(parse(peer.settings.schedule), only_when_idle=peer.settings.only_when_idle)
    executor = await stack.enter_async_context(
        ChildExecutor(
            peer.folder / "work",
            slots=max(1, int(own.cpus)),
            memory_bytes=own.memory_bytes,
            gpus=gpus,
            sandbox=cast("SandboxName", peer.settings.sandbox),
            unsafe=peer.settings.unsafe,
        )
    )
    accounts = peer.accounts or AccountClient(peer.network, peer.bootstrap_id)
    lent = Lent.of(own)
    task_service = TaskService(peer.network, executor, peer.till, own.prices, lent, peer.content, accounts)
    lending = Lending(readiness, task_service, executor, peer.offers, others=OtherPrograms().share)
    await nursery.start(lending.run)
    await nursery.start(control.serve, peer.folder, lending.told)
    stage_service = None
    if own.serves_models:
        keep_torch_files_in(peer.folder / "torch")
        stage_service = StageService(
            peer.network,
            peer.content,
            peer.offers,
            peer.directory,
            peer.till,
            threads=peer.settings.threads,
            memory_bytes=own.memory_bytes,
            prices=own.prices,
        )
        await nursery.start(stage_service.run)
    await peer.offers.publish()
    return replace(peer, executor=executor, task_service=task_service, lending=lending, stage_service=stage_service)


async def _say_goodbye(peer: Peer) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE_DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_try, peer.offers.withdraw)
            nursery.start_soon(_pay_up, peer)
            if peer.till is not None:
                nursery.start_soon(_try, peer.till.drain)


async def _pay_up(peer: Peer) -> None:
    """First what is owed for tasks, then the rest of what is set aside comes back."""
    await _try(peer.tasks.close)
    if peer.purse is not None:
        await _try(peer.purse.close)


async def _try(step: Callable[[], Awaitable[None]]) -> None:
    try:
        await step()
    except HivemindError as error:
        _events.warning("goodbye_failed", step=step.__qualname__, reason=error.message)
