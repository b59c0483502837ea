"""A payer, a worker and a bootstrap that answers from memory, joined by the memory network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from hivemind_p2p.credits.client import Purse, Till
from hivemind_p2p.credits.vouchers import HOLD_LIFETIME, Hold
from hivemind_p2p.credits.wire import CREDITS_PROTOCOL, open_voucher, seal_hold
from hivemind_p2p.errors import InsufficientCreditsError
from hivemind_p2p.identity import Identity
from hivemind_p2p.interfaces import Channel
from hivemind_p2p.net.memory import MemoryNetwork
from hivemind_p2p.net.router import Router
from hivemind_p2p.proto import credits_pb2
from hivemind_p2p.types import PeerId, PeerInfo

EPOCH = 1_700_000_000.0


def clock() -> float:
    return EPOCH + trio.current_time()


class MemoryBootstrap:
    """Holds and settlement without a database: what the real one answers to honest requests, plus faults on demand."""

    def __init__(self, identity: Identity, network: Router, balance: int) -> None:
        self.identity = identity
        self.balance = balance
        self.holds: dict[str, Hold] = {}
        self.settled: dict[str, int] = {}
        self.receipts = 0
        self.hold_requests = 0
        self.settle_requests = 0
        self.refuse_with = ""
        self.lose_answers = 0
        self.delay = 0.0
        network.serve(CREDITS_PROTOCOL, self._serve)

    async def _serve(self, channel: Channel) -> None:
        request, _ = await channel.receive(credits_pb2.CreditsRequest)
        await trio.sleep(self.delay)
        answer = self._answer(channel.remote, request)
        if self.lose_answers:
            self.lose_answers -= 1
            return
        await channel.send(answer)

    def _answer(self, peer: PeerId, request: credits_pb2.CreditsRequest) -> credits_pb2.CreditsAnswer:
        if request.HasField("hold"):
            return credits_pb2.CreditsAnswer(hold=seal_hold(self.identity, self._hold(peer, request.hold)))
        if request.HasField("settle"):
            self.settle_requests += 1
            outcomes = [self._settle(claim) for claim in request.settle.claims]
            return credits_pb2.CreditsAnswer(settle=credits_pb2.SettleAnswer(outcomes=outcomes))
        if request.HasField("close"):
            return credits_pb2.CreditsAnswer(close=credits_pb2.CloseAnswer())
        return credits_pb2.CreditsAnswer(balance=credits_pb2.BalanceAnswer(available=self.balance))

    def _hold(self, peer: PeerId, request: credits_pb2.HoldRequest) -> Hold:
        self.hold_requests += 1
        if request.hold_id not in self.holds:
            if request.amount > self.balance:
                raise InsufficientCreditsError(f"{request.amount} is more than {self.balance}")
            self.balance -= request.amount
            end = clock() + HOLD_LIFETIME
            self.holds[request.hold_id] = Hold(request.hold_id, peer, PeerId(request.payee), request.amount, end)
        return self.holds[request.hold_id]

    def _settle(self, claim: credits_pb2.Claim) -> credits_pb2.ClaimOutcome:
        voucher = open_voucher(claim.voucher)
        if self.refuse_with:
            return credits_pb2.ClaimOutcome(hold_id=voucher.hold_id, error_code=self.refuse_with)
        self.receipts += len(claim.receipts)
        settled = self.settled[voucher.hold_id] = max(self.settled.get(voucher.hold_id, 0), voucher.amount)
        return credits_pb2.ClaimOutcome(hold_id=voucher.hold_id, settled=settled)


@dataclass
class Market:
    """Everybody who takes part."""

    memory: MemoryNetwork
    bootstrap: MemoryBootstrap
    payer: Identity
    worker: Identity
    purse: Purse
    till: Till
    networks: dict[str, Router] = field(default_factory=dict)

    async def work(self, work_id: str, *, limit: int, amount: int, what: str = "function") -> int:
        """One piece of work, from the permission to the payment, as the services do it."""
        payment = await self.purse.authorise(self.worker.peer_id, limit)
        await self.till.admit(self.payer.peer_id, payment, limit=limit)
        receipt = await self.till.bill(self.payer.peer_id, work_id=work_id, amount=amount, what=what)
        cost, payment = await self.purse.pay(self.worker.peer_id, receipt, work_id=work_id, limit=limit)
        await self.till.collect(self.payer.peer_id, payment)
        return cost


OpenMarket = Callable[..., "AsyncIterator[Market]"]


@pytest.fixture
def open_market():
    @asynccontextmanager
    async def opened(*, balance: int = 100_000_000, folder: Path | None = None) -> AsyncIterator[Market]:
        memory = MemoryNetwork(latency=0.001)
        people = {name: Identity(name.encode().ljust(32, b".")) for name in ("bootstrap", "payer", "worker")}
        async with trio.open_nursery() as nursery:
            routers = {name: Router(memory.join(identity), nursery) for name, identity in people.items()}
            seed = PeerInfo(people["bootstrap"].peer_id, routers["bootstrap"].addresses)
            routers["payer"].learn(seed)
            routers["worker"].learn(seed)
            bootstrap = MemoryBootstrap(people["bootstrap"], routers["bootstrap"], balance)
            purse = Purse(routers["payer"], people["payer"], seed.peer_id, clock)
            till = Till(routers["worker"], people["worker"], seed.peer_id, clock, folder=folder)
            yield Market(memory, bootstrap, people["payer"], people["worker"], purse, till, routers)
            nursery.cancel_scope.cancel()

    return opened
