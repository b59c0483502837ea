"""A bootstrap's services over the memory network, with a real SQLite file; threads, so the clock is the real one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from hivemind_bootstrap.accounts import PasswordKeeper
from hivemind_bootstrap.accounts_service import AccountsService
from hivemind_bootstrap.credits_service import CreditsService
from hivemind_bootstrap.database import Database
from hivemind_bootstrap.store import Store
from hivemind_p2p.credits.client import AccountClient, Purse, Till
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.memory import MemoryNetwork
from hivemind_p2p.net.router import Router
from hivemind_p2p.types import PeerId, PeerInfo

PASSWORD = "correct horse"


@pytest.fixture
def database(tmp_path: Path):
    opened = Database(tmp_path / "ledger.sqlite3")
    yield opened
    opened.close()


@dataclass
class Member:
    """One peer of the test hive."""

    identity: Identity
    network: Router
    accounts: AccountClient
    purse: Purse
    till: Till

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id


class TestHive:
    """The bootstrap, and peers on demand. `ahead` moves the clock of everybody."""

    __test__ = False

    def __init__(self, nursery: trio.Nursery, database: Database, **options) -> None:
        self.memory = MemoryNetwork()
        self.nursery = nursery
        self.ahead = 0.0
        self.identity = Identity(b"B" * 32)
        network = Router(self.memory.join(self.identity), nursery)
        self.info = PeerInfo(self.identity.peer_id, network.addresses)
        store = Store(database)
        passwords = PasswordKeeper(time_cost=1, memory_cost=64)
        self.accounts = AccountsService(network, store, clock=self.clock, passwords=passwords, **options)
        self.credits = CreditsService(network, self.identity, store, clock=self.clock)
        self._joined = 0

    def clock(self) -> float:
        return time.time() + self.ahead

    def join(self) -> Member:
        self._joined += 1
        identity = Identity(self._joined.to_bytes(32, "big"))
        network = Router(self.memory.join(identity), self.nursery)
        network.learn(self.info)
        return Member(
            identity,
            network,
            AccountClient(network, self.info.peer_id),
            Purse(network, identity, self.info.peer_id, self.clock),
            Till(network, identity, self.info.peer_id, self.clock),
        )

    async def member(self, username: str) -> Member:
        joined = self.join()
        await joined.accounts.register(username, PASSWORD)
        return joined


@pytest.fixture
def open_hive(database: Database):
    @asynccontextmanager
    async def opened(**options) -> AsyncIterator[TestHive]:
        async with trio.open_nursery() as nursery:
            yield TestHive(nursery, database, **options)
            nursery.cancel_scope.cancel()

    return opened
