"""Small stand-ins for what sharding is handed: contents in one folder, a directory in one dict, offers in another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from hivemind_p2p.errors import (
    BootstrapUnreachableError,
    CreditError,
    LinkError,
    NoSourceError,
    PaymentRequiredError,
    VoucherError,
)
from hivemind_p2p.identity import Identity
from hivemind_p2p.interfaces import Progress, TaskStatus
from hivemind_p2p.net.memory import MemoryNetwork
from hivemind_p2p.net.router import Router
from hivemind_p2p.sharding import market
from hivemind_p2p.sharding.caller import Patience
from hivemind_p2p.sharding.model import ModelClient
from hivemind_p2p.sharding.service import StageService
from hivemind_p2p.types import (
    ByteRange,
    Credits,
    FetchProgress,
    FileEntry,
    LayerSpan,
    Link,
    Offer,
    PeerId,
    PeerInfo,
    Prices,
    Record,
    StageOffer,
)

MEMORY = 64 * 2**20
ALL = LayerSpan(0, 5)


class World:
    """What all peers of one test share."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.contents: dict[Link, Path] = {}
        self.records: dict[str, dict[PeerId, bytes]] = defaultdict(dict)
        self.offers: dict[PeerId, Offer] = {}
        self.dead: set[PeerId] = set()
        self.lives: dict[PeerId, trio.CancelScope] = defaultdict(trio.CancelScope)

    def kill(self, peer: PeerId) -> None:
        """Ends a peer; its offer outlives it, as it does in the directory."""
        self.network.kill(peer)
        self.dead.add(peer)
        self.lives[peer].cancel()


class FakeContent:
    """Fetches by copying only the wanted bytes, and remembers them."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self._folder = folder
        self.fetched: dict[str, list[ByteRange]] = defaultdict(list)

    async def share(self, path: Path) -> Link:
        link = Link(f"magnet:?xt=urn:btmh:1220{path.name}&dn={path.name}")
        self._world.contents[link] = path
        return link

    async def files(self, link: Link) -> tuple[FileEntry, ...]:
        source = self._source(link)
        found = sorted(path for path in source.rglob("*") if path.is_file())
        return tuple(FileEntry(path.relative_to(source).as_posix(), path.stat().st_size) for path in found)

    async def fetch(
        self,
        link: Link,
        *,
        to: Path | None = None,
        wanted: Mapping[str, Sequence[ByteRange]] | None = None,
        progress: Progress | None = None,
    ) -> Path:
        source, target = self._source(link), to or self._folder
        target.mkdir(parents=True, exist_ok=True)
        assert wanted is not None
        for name, ranges in wanted.items():
            self._copy(source / name, target / name, ranges)
            self.fetched[name] += ranges
            if progress is not None:
                progress(FetchProgress(1, 2, 1))
        await trio.lowlevel.checkpoint()
        return target

    def _source(self, link: Link) -> Path:
        if not link.startswith("magnet:"):
            raise LinkError(f"not a link: {link}")
        if link not in self._world.contents:
            raise NoSourceError(f"nobody shares {link}")
        return self._world.contents[link]

    def _copy(self, source: Path, target: Path, ranges: Sequence[ByteRange]) -> None:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"")
            with target.open("r+b") as file:
                file.truncate(source.stat().st_size)
        with source.open("rb") as reader, target.open("r+b") as writer:
            for part in ranges:
                reader.seek(part.start)
                writer.seek(part.start)
                writer.write(reader.read(part.stop - part.start))


class FakeDirectory:
    def __init__(self, world: World, me: PeerId) -> None:
        self._world = world
        self._me = me

    async def publish(self, key: str, value: bytes, *, lifetime: float) -> None:
        self._world.records[key][self._me] = value

    async def withdraw(self, key: str) -> None:
        self._world.records[key].pop(self._me, None)

    async def lookup(self, key: str) -> tuple[Record, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(Record(key, who, value, 1, 1e12) for who, value in self._world.records[key].items())

    async def find_peer(self, peer: PeerId) -> PeerInfo:
        return self._world.offers[peer].peer


class FakeOffers:
    def __init__(self, world: World, me: PeerId) -> None:
        self._world = world
        self._me = me

    async def offers(self, *, fresh: bool = False) -> tuple[Offer, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(self._world.offers.values())

    async def set_stages(
        self, stages: Sequence[StageOffer], *, weight_bytes_free: int = 0, weight_bytes_per_second: int = 0
    ) -> None:
        if self._me in self._world.dead:
            return
        self._world.offers[self._me] = replace(
            self._world.offers[self._me],
            stages=tuple(stages),
            weight_bytes_free=weight_bytes_free,
            weight_bytes_per_second=weight_bytes_per_second,
        )


class FakePayer:
    """Pays what receipts say, and remembers it."""

    def __init__(self, funds: int = 10**9) -> None:
        self.funds = funds
        self.down = False
        self.reserved = 0
        self.paid: dict[PeerId, int] = defaultdict(int)
        self.bills: set[str] = set()

    async def authorise(self, payee: PeerId, limit: Credits) -> bytes:
        if self.down:
            raise BootstrapUnreachableError("the bootstrap did not answer")
        if limit > self.funds:
            raise CreditError("the account does not cover it")
        self.reserved += limit
        return b"hold %d" % limit

    def release(self, payee: PeerId, limit: Credits) -> None:
        self.reserved -= limit

    async def pay(self, payee: PeerId, receipt: bytes, *, work_id: str, limit: Credits) -> tuple[Credits, bytes]:
        billed_id, amount = receipt.decode().split()
        if billed_id != work_id or int(amount) > limit or work_id in self.bills:
            raise VoucherError(f"{receipt!r} is no receipt for {work_id}")
        self.bills.add(work_id)
        self.paid[payee] += int(amount)
        self.reserved -= limit
        return Credits(int(amount)), b"paid %d" % int(amount)


class FakeEarner:
    def __init__(self) -> None:
        self.earned = 0
        self.reserved = 0
        self._billed: list[int] = []

    async def admit(self, payer: PeerId, payment: bytes, *, limit: Credits) -> None:
        if payment != b"hold %d" % limit:
            raise PaymentRequiredError(f"a hold of {limit} is due")
        self.reserved += 1

    def dismiss(self, payer: PeerId, *, limit: Credits) -> None:
        self.reserved -= 1

    async def bill(
        self, payer: PeerId, *, work_id: str, amount: Credits, what: str, limit: Credits | None = None
    ) -> bytes:
        assert limit is not None
        assert limit >= amount
        self._billed.append(amount)
        self.reserved -= 1
        return f"{work_id} {amount}".encode()

    async def collect(self, payer: PeerId, payment: bytes) -> None:
        paid = int(payment.removeprefix(b"paid "))
        if paid not in self._billed:
            raise VoucherError("it does not cover the bill")
        self._billed.remove(paid)
        self.earned += paid


class Peer:
    """One peer of a test; with `serves` it hosts stages."""

    def __init__(
        self, world: World, folder: Path, nursery: trio.Nursery, number: int, *, serves: bool, memory: int, paid: bool
    ) -> None:
        identity = Identity(number.to_bytes(32, "big"))
        self.id = identity.peer_id
        transport = world.network.join(identity)
        self.network = Router(transport, nursery)
        info = PeerInfo(self.id, transport.addresses)
        for other in world.offers.values():
            transport.learn(other.peer)
        self._learn = transport.learn
        self._life = world.lives[self.id]
        world.offers[self.id] = Offer(
            peer=info, serves_models=serves, prices=Prices(), weight_bytes_free=market.weight_bytes(memory)
        )
        self.content = FakeContent(world, folder / f"peer-{number}")
        self.offers = FakeOffers(world, self.id)
        self.directory = FakeDirectory(world, self.id)
        self.payer = FakePayer() if paid else None
        self.earner = FakeEarner() if paid else None
        self.service: StageService | None = None
        if serves:
            self.service = StageService(
                self.network, self.content, self.offers, self.directory, self.earner, memory_bytes=memory
            )

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until killed."""
        if self.service is None:
            task_status.started()
            return
        with self._life:
            await self.service.run(task_status=task_status)

    def learn(self, other: Peer, world: World) -> None:
        self._learn(world.offers[other.id].peer)

    def client(self, *, stall: float = 5.0, wait_for_hosts: float = 20.0) -> ModelClient:
        return ModelClient(
            self.network,
            self.content,
            self.offers,
            self.directory,
            self.payer,
            patience=Patience(stall, wait_for_hosts),
        )


class Hive:
    """A caller that hosts nothing, and some hosts."""

    def __init__(self, world: World, caller: Peer, hosts: list[Peer]) -> None:
        self.world = world
        self.caller = caller
        self.hosts = hosts

    def living(self) -> list[StageService]:
        """The services of the hosts that are not dead."""
        return [host.service for host in self.hosts if host.service and host.id not in self.world.dead]

    def host_of(self, link: Link, layer: int) -> Peer:
        """A living host that has a layer ready."""
        for host in self.hosts:
            if host.id in self.world.dead:
                continue
            held = self.world.offers[host.id].stages
            if any(
                stage.link == link and stage.span.start <= layer < stage.span.stop and stage.ready for stage in held
            ):
                return host
        raise AssertionError(f"layer {layer} has no host")


@asynccontextmanager
async def hive(folder: Path, *, hosts: int = 3, memory: int = MEMORY, paid: bool = False) -> AsyncIterator[Hive]:
    """All peers running, until the block is left; what is raised inside comes out as it is."""
    world = World()
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        peers = [
            Peer(world, folder, nursery, number, serves=number > 1, memory=memory, paid=paid)
            for number in range(1, hosts + 2)
        ]
        for peer in peers:
            for other in peers:
                if other is not peer:
                    peer.learn(other, world)
        for peer in peers:
            await nursery.start(peer.run)
        try:
            yield Hive(world, peers[0], peers[1:])
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
