"""A small hive of tasks over the memory network: fake executors, a fake till and purse, a fixed offer book."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio

from hivemind_p2p.errors import (
    BootstrapUnreachableError,
    NoSourceError,
    PaymentRequiredError,
    TaskFailedError,
    VoucherError,
)
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.memory import MemoryNetwork
from hivemind_p2p.net.router import Router
from hivemind_p2p.tasks.admission import Lent
from hivemind_p2p.tasks.client import TaskClient
from hivemind_p2p.tasks.service import TaskService
from hivemind_p2p.tasks.spec import TaskSpec
from hivemind_p2p.tasks.values import encode
from hivemind_p2p.types import Credits, FileEntry, Link, Needs, Offer, Outcome, PeerInfo, Prices, Usage

GIB = 1 << 30
PRICES = Prices(per_task=Credits(100), per_cpu_second=Credits(1000))
CALLER = Identity(b"c" * 32)


class FakeExecutor:
    """Does what the payload says: ``sleep SECONDS``, ``raise``, ``crash``, or anything else, which it gives back."""

    def __init__(self, nursery, slots):
        self.ran, self.killed, self.at_once, self.most_at_once = [], [], 0, 0
        self.tasks, self.slowness, self.owners = [], 1.0, {}
        self.folder, self.encoded = None, b""
        self._nursery, self._slots = nursery, slots
        self._waiting, self._scopes = [], {}

    @property
    def running(self):
        return self.at_once

    def seconds(self, work):
        return None

    def belongs(self, caller, account):
        self.owners[caller] = account

    def submit(self, work, listener):
        self._waiting.append((work, listener))

    def go_on(self):
        while self._waiting and len(self._scopes) < self._slots:
            work, listener = self._waiting.pop(0)
            self._scopes[work] = trio.CancelScope()
            self._nursery.start_soon(self._live, work, listener)

    def withdraw(self, work):
        waiting = len(self._waiting)
        self._waiting = [each for each in self._waiting if each[0] is not work]
        return len(self._waiting) < waiting

    def cancel(self, work):
        self._waiting = [each for each in self._waiting if each[0] is not work]
        if work in self._scopes:
            self._scopes[work].cancel()

    async def _live(self, work, listener):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.tasks.append(work)
        outcome = None
        with self._scopes[work]:
            verb, _, _ = bytes(work.payload).decode().partition(" ")
            if verb in ("sleep", "print"):
                listener.started(work)
            if verb == "print":
                listener.printed(work, b"so far")
            outcome = await self._run(work)
        self.at_once -= 1
        del self._scopes[work]
        if outcome is None:
            self.killed.append(work.task_id)
        else:
            self.ran.append(work.task_id)
            listener.ended(work, outcome)
        self.go_on()

    async def _run(self, work):
        usage = Usage(wall_seconds=1.0, cpu_seconds=2.0, peak_memory_bytes=3)
        verb, _, rest = bytes(work.payload).decode().partition(" ")
        if verb in ("sleep", "print"):
            await trio.sleep(float(rest) * self.slowness)
            usage = replace(usage, wall_seconds=float(rest) * self.slowness)
        if verb == "raise":
            return Outcome(
                usage, error_code=TaskFailedError.code(), error_message="KeyError: 'x'", remote_traceback="T"
            )
        if verb == "report":
            return Outcome(usage, error_code=rest, error_message="so it says")
        if verb == "file":
            return _in_a_file(
                usage, Path(self.folder, f"result-{work.task_id}"), self.encoded or encode(b"x" * int(rest))
            )
        if verb == "large":
            return Outcome(usage, payload=encode(b"x" * int(rest)))
        if verb == "raw":
            return Outcome(usage, payload=rest.encode())
        return Outcome(usage, payload=encode(rest or verb), output="printed")


def _in_a_file(usage, path, data):
    path.write_bytes(data)
    return Outcome(usage, path=str(path), length=len(data))


class FakeTill:
    def __init__(self):
        self.bills, self.collected, self.reserved = {}, [], 0

    async def admit(self, payer, payment, *, limit):
        if payment != b"hold":
            raise PaymentRequiredError("no hold covers this")
        self.reserved += 1

    def dismiss(self, payer, *, limit):
        self.reserved -= 1

    async def bill(self, payer, *, work_id, amount, what):
        self.bills[work_id] = amount
        self.reserved -= 1
        return f"{work_id} {amount}".encode()

    async def collect(self, payer, payment):
        if not payment.startswith(b"voucher"):
            raise VoucherError("no voucher")
        self.collected.append(payment)


class FakePurse:
    def __init__(self, hold):
        self.hold, self.paid, self.reserved = hold, {}, 0

    async def authorise(self, payee, limit):
        self.reserved += limit
        return self.hold

    def release(self, payee, limit):
        self.reserved -= limit

    async def pay(self, payee, receipt, *, work_id, limit, most=None):
        name, amount = receipt.decode().rsplit(" ", 1)
        if name != work_id or int(amount) > limit or (most is not None and int(amount) > most):
            raise VoucherError("the receipt is wrong")
        self.paid[work_id] = int(amount)
        self.reserved -= limit
        return Credits(int(amount)), b"voucher for " + receipt


class FakeAccounts:
    def __init__(self, owners):
        self.owners, self.gone = owners, False

    async def accounts_of(self, peers):
        if self.gone:
            raise BootstrapUnreachableError("it is away")
        return {peer: self.owners[peer] for peer in peers if peer in self.owners}


class FakeSwarm:
    """The contents of all peers: files by link."""

    def __init__(self, folder):
        self.folder, self.shared, self.fetched, self.seconds, self.lies = folder, {}, set(), 0.0, {}
        self.removed, self.own = [], set()

    def of(self, owner):
        return FakeContent(self, owner)


@dataclass
class FakeContent:
    swarm: FakeSwarm
    owner: str

    async def share(self, path):
        link = Link(f"magnet:{path.name}")
        self.swarm.shared[link] = path
        return link

    async def files(self, link):
        if link not in self.swarm.shared:
            raise NoSourceError("nobody has it")
        length = self.swarm.lies.get("length", self.swarm.shared[link].stat().st_size)
        return (FileEntry(self.swarm.shared[link].name, length),)

    async def has(self, link):
        return self.owner == "caller" and link in self.swarm.own

    async def fetch(self, link, **_):
        await trio.sleep(self.swarm.seconds)
        self.swarm.fetched.add(link)
        return self.swarm.shared[link]

    async def remove(self, link):
        self.swarm.removed.append((self.owner, str(link)))
        if self.owner == "worker":
            self.swarm.shared.pop(link, None)


class FixedBook:
    def __init__(self, offers):
        self.all, self.asked_fresh = list(offers), 0

    async def offers(self, *, fresh=False):
        self.asked_fresh += fresh
        return tuple(self.all)


@dataclass
class Worker:
    router: Router
    executor: FakeExecutor
    service: TaskService
    offer: Offer
    till: FakeTill | None

    @property
    def peer_id(self):
        return self.router.peer_id


@pytest.fixture
def swarm(tmp_path):
    """Contents that worker and caller share."""
    return FakeSwarm(tmp_path)


@pytest.fixture
def make_accounts():
    """Makes an account book of names by peer."""
    return FakeAccounts


@dataclass
class Hive:
    network: MemoryNetwork
    workers: list[Worker]
    router: Router
    book: FixedBook
    client: TaskClient
    purse: FakePurse | None
    states: list = field(default_factory=list)

    def assert_nothing_is_set_aside(self):
        assert self.purse.reserved == 0
        assert [worker.till.reserved for worker in self.workers] == [0] * len(self.workers)

    def start(self, payload, listener, *, task_id="t", **more):
        spec = TaskSpec(task_id, "function/1", payload.encode(), Needs(seconds=60), Credits(10_000), **more)
        course = self.client.start(spec, listener)
        self.client.go_on()
        return course

    async def run(self, payload, task_id="t", *, needs=None, max_cost=10_000, shared=None):
        needs = needs or Needs(seconds=60)
        spec = TaskSpec(task_id, "function/1", payload.encode(), needs, Credits(max_cost), shared)
        return await self.client.run(spec, on_state=lambda state, peer: self.states.append((state.value, peer)))

    def offer_more(self, worker, **changes):
        worker.offer = replace(worker.offer, **changes)
        self.book.all = [each.offer for each in self.workers]


def _make_hive(
    nursery, count=1, *, paid=False, cpus=1.0, hold=b"hold", accounts=None, swarm=None, reputation=None, **network
):
    network = MemoryNetwork(**network)
    seeds = [bytes([number]) * 32 for number in range(1, count + 1)]
    workers = [_make_worker(network, nursery, seed, paid, cpus, accounts, swarm) for seed in seeds]
    router = Router(network.join(CALLER), nursery)
    for worker in workers:
        router.learn(worker.offer.peer)
    book = FixedBook(worker.offer for worker in workers)
    purse = FakePurse(hold) if paid else None
    client = TaskClient(router, book, purse, nursery, swarm.of("caller") if swarm is not None else None, reputation)
    return Hive(network, workers, router, book, client, purse)


@pytest.fixture
def make_hive():
    """Makes a hive of some workers and one caller."""
    return _make_hive


def _make_worker(network, nursery, seed, paid, cpus, accounts, swarm):
    router = Router(network.join(Identity(seed)), nursery)
    executor, till = FakeExecutor(nursery, int(cpus)), FakeTill() if paid else None
    content = swarm.of("worker") if swarm is not None else None
    executor.folder = swarm.folder if swarm is not None else None
    service = TaskService(router, executor, till, PRICES, Lent(cpus, 4 * GIB), content, accounts)
    info = PeerInfo(router.peer_id, router.addresses)
    offer = Offer(info, cpus=cpus, memory_bytes=4 * GIB, task_types=("function/1",), prices=PRICES)
    return Worker(router, executor, service, offer, till)
