"""Tasks that go on when their caller is lost, and are taken up again; never begun twice where they must not be."""

from dataclasses import replace

import pytest
import trio

from hivemind_p2p.errors import TaskLostError
from hivemind_p2p.tasks import kept_work
from hivemind_p2p.tasks.client import TaskClient
from hivemind_p2p.tasks.job_book import JobBook
from hivemind_p2p.tasks.kept_work import KEEP_SECONDS, MOST_OF_ONE_CALLER, KeptWorks
from hivemind_p2p.tasks.options import Options
from hivemind_p2p.tasks.spec import TaskSpec
from hivemind_p2p.tasks.special import SpecialTasks
from hivemind_p2p.types import Credits, Needs, Outcome, PeerId, Usage, Work
from tests.tasks.test_verification import Listener

ID = "0123456789abcdef"


class Caller:
    """A program that may be killed and started again: its peer, its client, its book."""

    def __init__(self, hive, nursery, folder):
        self.hive, self.nursery, self.folder = hive, nursery, folder
        self.client = hive.client
        self.scope = None

    def special(self):
        return SpecialTasks(self.client, self.hive.book, None, PeerId("me"), self.nursery, JobBook(self.folder))

    def start(self, payload, **options):
        spec = TaskSpec(ID, "function/1", payload.encode(), Needs(seconds=60), Credits(10_000), keep=True, **options)
        JobBook(self.folder).begin(spec, "f")
        return self._start(spec)

    def _start(self, spec):
        listener = Listener()
        end = self.special().start(spec, Options(keep=True, idempotent=spec.idempotent), listener)
        return listener, end

    def find(self):
        kept = JobBook(self.folder).read(ID)
        assert kept.result is None
        peers = frozenset([kept.peer]) if kept.peer is not None else None
        return self._start(replace(kept.spec, again=kept.peer is not None, peers=peers))[0]

    async def die(self):
        """What a kill looks like to the workers: all channels end, and nothing is said."""
        for link in list(self.client._links.values()):
            link._owner = Nobody()
        hang_up(self.hive)
        await trio.sleep(1)
        purse = self.hive.purse
        self.client = TaskClient(self.hive.router, self.hive.book, purse, self.nursery)


def hang_up(hive):
    """Ends every channel of the caller, as the end of its process would."""
    for stream in tuple(hive.network.find(hive.router.peer_id)._streams):
        stream.hang_up()


class Nobody:
    """A program that is gone."""

    def __getattr__(self, name):
        return lambda *arguments: None


@pytest.fixture
def make_caller(nursery, make_hive, tmp_path):
    def make(count=1, **options):
        return Caller(make_hive(nursery, count, **options), nursery, tmp_path)

    return make


async def test_a_task_goes_on_and_its_caller_finds_it_running(make_caller, autojump_clock):
    caller = make_caller(paid=True)
    caller.start("sleep 30")
    await trio.sleep(5)
    await caller.die()
    await trio.sleep(5)
    worker = caller.hive.workers[0]
    assert worker.executor.killed == []
    listener = caller.find()
    assert (await listener.value()).value == "30"
    assert trio.current_time() == pytest.approx(30, abs=2)
    assert worker.executor.ran == [ID]
    await trio.sleep(30)
    assert sum(caller.hive.purse.paid.values()) == 2100


async def test_a_task_that_ended_meanwhile_gives_its_result_and_is_paid_once(make_caller, autojump_clock):
    caller = make_caller(paid=True)
    caller.start("sleep 10")
    await trio.sleep(5)
    await caller.die()
    await trio.sleep(100)
    assert (await caller.find().value()).value == "10"
    assert caller.hive.workers[0].executor.ran == [ID]
    assert JobBook(caller.folder).read(ID).result.value == "10"
    await trio.sleep(30)
    assert sum(caller.hive.purse.paid.values()) == 2100


async def test_a_task_that_must_not_run_twice_is_found_and_not_begun_again(make_caller, autojump_clock):
    caller = make_caller()
    caller.start("sleep 10", idempotent=False)
    await trio.sleep(5)
    await caller.die()
    assert (await caller.find().value()).value == "10"
    assert len(caller.hive.workers[0].executor.tasks) == 1


async def test_where_its_worker_knows_nothing_of_it_any_more_it_is_lost(make_caller, autojump_clock):
    caller = make_caller()
    caller.start("sleep 10", idempotent=False)
    await trio.sleep(5)
    await caller.die()
    caller.hive.workers[0].service.kept = KeptWorks()
    with pytest.raises(TaskLostError, match="knows nothing of it"):
        await caller.find().value()
    assert len(caller.hive.workers[0].executor.tasks) == 1


async def test_where_its_worker_is_gone_it_runs_elsewhere_if_it_may(make_caller, autojump_clock):
    caller = make_caller(2)
    caller.start("sleep 10")
    await trio.sleep(5)
    peer = JobBook(caller.folder).read(ID).peer
    await caller.die()
    caller.hive.book.all = [worker.offer for worker in caller.hive.workers if worker.peer_id != peer]
    result = await caller.find().value()
    assert (result.value, result.peer == peer) == ("10", False)


async def test_a_caller_whose_channel_broke_takes_it_up_again_by_itself(make_caller, autojump_clock):
    caller = make_caller()
    listener, _ = caller.start("sleep 20", idempotent=False)
    await trio.sleep(5)
    hang_up(caller.hive)
    assert (await listener.value()).value == "20"
    assert len(caller.hive.workers[0].executor.tasks) == 1


async def test_cancelling_ends_it_and_forgets_it(make_caller, autojump_clock):
    caller = make_caller()
    _, end = caller.start("sleep 100")
    await trio.sleep(5)
    end()
    await trio.sleep(1)
    worker = caller.hive.workers[0]
    assert worker.executor.killed == [ID]
    assert (len(worker.service.kept), JobBook(caller.folder).ids()) == (0, [])


async def test_a_caller_that_leaves_leaves_it_running(make_caller, autojump_clock):
    caller = make_caller()
    caller.start("sleep 10")
    await trio.sleep(5)
    await caller.client.close()
    await trio.sleep(100)
    worker = caller.hive.workers[0]
    assert (worker.executor.killed, worker.executor.ran) == ([], [ID])


def work(number, caller="ada"):
    return Work(f"t{number}", PeerId(caller), "function/1", b"", Needs())


def test_outcomes_that_nobody_asks_for_go_after_a_while():
    works = KeptWorks()
    kept = works.begin(work(1), None)
    works.left(kept, 0.0)
    assert works.tidy(KEEP_SECONDS + 1) == []
    assert works.find(PeerId("ada"), "t1") is kept  # it still runs
    kept.ended(kept.work, Outcome(Usage()))
    works.tidy(KEEP_SECONDS + 1)
    assert works.find(PeerId("ada"), "t1") is None


def test_one_caller_cannot_fill_it(monkeypatch):
    monkeypatch.setattr(kept_work, "MOST_KEPT_BYTES", 1000)
    works = KeptWorks()
    other = works.begin(work(0, "bob"), None)
    works.left(other, 0.0)
    for number in range(3 * MOST_OF_ONE_CALLER):
        works.left(works.begin(work(number), None), 0.0)
    stopped = works.tidy(1.0)
    assert len(stopped) == 2 * MOST_OF_ONE_CALLER
    assert works.find(PeerId("bob"), "t0") is other
    large = works.begin(work(1, "eve"), None)
    large.ended(large.work, Outcome(Usage(), payload=b"x" * 2000))
    works.tidy(2.0)
    assert works.find(PeerId("eve"), "t1") is None
