"""Identities that are the same in every run, and hives of directory services on a memory network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache

import pytest
import trio

from hivemind_p2p.dht.service import DirectoryService
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.memory import MemoryNetwork
from hivemind_p2p.net.router import Router
from hivemind_p2p.types import PeerId, PeerInfo


@cache
def make_identity(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


@pytest.fixture
def identity() -> Callable[[int], Identity]:
    return make_identity


@pytest.fixture
def info() -> Callable[[int], PeerInfo]:
    return lambda number: PeerInfo(make_identity(number).peer_id, (f"/ip4/10.0.0.1/tcp/{number}",))


@dataclass
class Member:
    identity: Identity
    router: Router
    service: DirectoryService
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    @property
    def info(self) -> PeerInfo:
        return PeerInfo(self.peer_id, self.router.addresses)


@dataclass
class Hive:
    """Peers 1, 2, 3, ... of which the first is the seed of the others."""

    nursery: trio.Nursery
    network: MemoryNetwork
    members: list[Member] = field(default_factory=list)

    def add(self, number: int, seeds: Sequence[PeerInfo] | None = None) -> Member:
        me = make_identity(number)
        router = Router(self.network.join(me), self.nursery)
        if seeds is None:
            seeds = [self.members[0].info] if self.members else []
        member = Member(me, router, DirectoryService(router, me, clock=trio.current_time, seeds=seeds))
        self.members.append(member)
        return member

    async def start(self, member: Member) -> Member:
        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            with member.scope:
                await member.service.run(task_status=task_status)

        await self.nursery.start(run)
        return member

    async def grow(self, count: int) -> list[Member]:
        for _ in range(count):
            await self.start(self.add(len(self.members) + 1))
        return self.members

    def kill(self, member: Member) -> None:
        member.scope.cancel()
        self.network.kill(member.peer_id)


@pytest.fixture
async def hive() -> AsyncIterator[Hive]:
    async with open_hive() as hive:
        yield hive


@asynccontextmanager
async def open_hive() -> AsyncIterator[Hive]:
    async with trio.open_nursery() as nursery:
        yield Hive(nursery, MemoryNetwork(latency=0.01))
        nursery.cancel_scope.cancel()
