"""The same task on several peers: who is asked, believed, and paid; deadlines, and tasks for some peers only."""

import pickle

import pytest
import trio

from hivemind_p2p.errors import (
    AccountRequiredError,
    BootstrapUnreachableError,
    DisagreementError,
    NoPeerError,
    ProtocolError,
    TaskFailedError,
    TaskTimeoutError,
)
from hivemind_p2p.tasks.options import Options
from hivemind_p2p.tasks.quorum import Quorum
from hivemind_p2p.tasks.spec import TaskSpec
from hivemind_p2p.tasks.special import SpecialTasks
from hivemind_p2p.tasks.values import encode
from hivemind_p2p.types import Credits, Needs, Outcome, PeerId, Usage

ME = PeerId("me")


class Listener:
    def __init__(self):
        self.states, self.output, self.done = [], b"", trio.Event()
        self.result = self.error = None

    def moved(self, state, peer):
        self.states.append(state.value)

    def printed(self, data):
        self.output += data

    def ended(self, result):
        self.result = result
        self.done.set()

    def failed(self, error):
        self.error = error
        self.done.set()

    async def value(self):
        await self.done.wait()
        if self.error is not None:
            raise self.error
        return self.result


class Owners:
    def __init__(self, owners):
        self.owners = owners

    async def accounts_of(self, peers):
        return {peer: self.owners[peer] for peer in peers if peer in self.owners}


def answers(worker, value):
    """Makes a worker give this value, whatever it is asked."""

    async def run(work):
        return Outcome(Usage(cpu_seconds=2.0), payload=value if isinstance(value, bytes) else encode(value))

    worker.executor._run = run


def special(hive, nursery, names):
    owners = Owners({worker.peer_id: name for worker, name in zip(hive.workers, names, strict=True) if name})
    owners.owners[ME] = "me"
    return SpecialTasks(hive.client, hive.book, owners, ME, nursery)


def start(tasks, payload="hello", *, deadline=None, **options):
    listener = Listener()
    spec = TaskSpec("t", "function/1", payload.encode(), Needs(seconds=60), Credits(10_000), deadline=deadline)
    return listener, tasks.start(spec, Options(**options), listener)


QUORUM = Quorum(2, of=3)


async def test_two_peers_agree_and_both_are_paid(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 3, paid=True)
    listener, _ = start(special(hive, nursery, ["ada", "bob", "eve"]), verify=QUORUM)
    result = await listener.value()
    assert (result.value, len(result.verdict.majority), result.cost) == ("hello", 2, 2 * 2100)
    assert listener.states == ["queued", "assigned", "running", "completed"]
    assert sum(len(worker.executor.ran) for worker in hive.workers) == 2
    await trio.sleep(30)
    assert sum(hive.purse.paid.values()) == 2 * 2100
    hive.assert_nothing_is_set_aside()


class FakeReputation:
    def __init__(self, complaints=None, error=None):
        self.complaints, self.error, self.heard = complaints or {}, error, []

    async def complaints_about(self, peers):
        if self.error is not None:
            raise self.error
        return self.complaints

    async def complain(self, peer, task_id):
        if self.error is not None:
            raise self.error
        self.heard.append((peer, task_id))


async def test_the_bootstrap_is_told_who_was_outvoted(nursery, make_hive, autojump_clock):
    reputation = FakeReputation()
    hive = make_hive(nursery, 3, paid=True, reputation=reputation)
    liar = min(hive.workers, key=lambda worker: worker.peer_id)
    answers(liar, "a lie")
    listener, _ = start(special(hive, nursery, ["ada", "bob", "eve"]), verify=QUORUM)
    assert (await listener.value()).value == "hello"
    await trio.sleep(1)
    assert reputation.heard == [(liar.peer_id, "t")]
    reputation.error = BootstrapUnreachableError("it is away")
    answers(liar, "another lie")
    await trio.sleep(700)
    listener, _ = start(special(hive, nursery, ["ada", "bob", "eve"]), verify=QUORUM)
    assert (await listener.value()).value == "hello"


async def test_what_others_complain_of_is_asked_and_weighs(nursery, make_hive, autojump_clock):
    reputation = FakeReputation()
    hive = make_hive(nursery, 2, reputation=reputation)
    first, second = sorted(worker.peer_id for worker in hive.workers)  # the first among equals
    reputation.complaints = {first: 2}
    await hive.run("hello")
    hive.states.clear()
    await hive.run("hello")
    assert {peer for _, peer in hive.states} == {None, second}
    reputation.complaints = {}
    await trio.sleep(200)
    for _ in range(2):
        assert (await hive.run("hello")).value == "hello"


async def test_who_is_outvoted_is_not_paid_and_gets_no_more_work(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 3, paid=True)
    liar = min(hive.workers, key=lambda worker: worker.peer_id)  # the first among equals
    answers(liar, "a lie")
    listener, _ = start(special(hive, nursery, ["ada", "bob", "eve"]), verify=QUORUM)
    result = await listener.value()
    assert (result.value, result.cost) == ("hello", 2 * 2100)
    assert [answer.peer for answer in result.verdict.minority] == [liar.peer_id]
    await trio.sleep(30)
    assert sum(hive.purse.paid.values()) == 2 * 2100
    assert liar.till.collected == []
    assert (liar.service.statistics().rejected, hive.client.statistics()["mistrusted"]) == (1, 1)
    hive.assert_nothing_is_set_aside()
    before = len(liar.executor.ran)
    for number in range(4):
        await hive.run("hello", f"later-{number}")
    assert len(liar.executor.ran) == before


async def test_peers_of_one_account_have_one_voice(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 4)
    for worker in hive.workers[:3]:
        answers(worker, "a lie")
    answers(hive.workers[3], "a lie as well")
    listener, _ = start(special(hive, nursery, ["eve", "eve", "eve", "bob"]), verify=QUORUM)
    with pytest.raises(DisagreementError, match="2 answers of at most 3 have to agree, and 1 and 1 did"):
        await listener.value()
    assert sum(len(worker.executor.ran) for worker in hive.workers) == 2


async def test_peers_without_an_account_have_no_voice(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 3)
    listener, _ = start(special(hive, nursery, ["ada", "", "bob"]), verify=Quorum(2))
    assert (await listener.value()).value == "hello"
    assert hive.workers[1].executor.ran == []


async def test_numbers_that_are_close_agree_where_that_is_allowed(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    for worker, value in zip(hive.workers, (1.0, 1.0 + 1e-12), strict=True):
        answers(worker, {"loss": value})
    tasks = special(hive, nursery, ["ada", "bob"])
    with pytest.raises(DisagreementError):
        await start(tasks, verify=Quorum(2))[0].value()
    result = await start(tasks, verify=Quorum(2, tolerance=1e-9))[0].value()
    assert result.value["loss"] == pytest.approx(1.0)


async def test_a_function_that_raises_everywhere_fails_once(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2, paid=True)
    listener, _ = start(special(hive, nursery, ["ada", "bob"]), "raise", verify=Quorum(2))
    with pytest.raises(TaskFailedError, match="KeyError"):
        await listener.value()
    assert listener.states[-1] == "failed"
    await trio.sleep(30)
    assert sum(hive.purse.paid.values()) == 2 * 2100


async def test_a_copy_that_crashes_is_replaced_by_one_elsewhere(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 3)
    first = min(hive.workers, key=lambda worker: worker.peer_id)

    async def crash(work):
        return Outcome(Usage(), error_code="task_crashed", error_message="it was killed")

    first.executor._run = crash
    listener, _ = start(special(hive, nursery, ["ada", "bob", "eve"]), verify=QUORUM)
    assert (await listener.value()).value == "hello"


async def test_cancelling_kills_all_copies(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 3, paid=True)
    listener, cancel = start(special(hive, nursery, ["ada", "bob", "eve"]), "sleep 100", verify=QUORUM)
    await trio.sleep(1)
    cancel()
    await trio.sleep(1)
    assert sum(len(worker.executor.killed) for worker in hive.workers) == 2
    assert listener.states[-1] == "cancelled"
    await trio.sleep(30)
    hive.assert_nothing_is_set_aside()


async def test_a_quorum_has_one_deadline(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    listener, _ = start(special(hive, nursery, ["ada", "bob"]), "sleep 50", verify=Quorum(2), deadline=5.0)
    with pytest.raises(TaskTimeoutError):
        await listener.value()
    assert trio.current_time() == pytest.approx(5.0, abs=1)


async def test_a_task_that_is_late_is_stopped_wherever_it_is(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, paid=True)
    listeners = [Listener(), Listener(), Listener()]
    for number, (listener, deadline) in enumerate(zip(listeners, (30, 3, 6), strict=True)):
        hive.start("sleep 10", listener, task_id=f"t{number}", deadline=deadline)
    await listeners[1].done.wait()
    assert trio.current_time() == pytest.approx(3.0, abs=0.1)
    assert isinstance(listeners[1].error, TaskTimeoutError)
    assert listeners[1].states[-1] == "timed_out"
    await listeners[2].done.wait()
    assert trio.current_time() == pytest.approx(6.0, abs=0.1)
    await listeners[0].done.wait()
    assert listeners[0].result.value == "10"
    await trio.sleep(60)
    assert hive.client.statistics() == {"completed": 1, "timed_out": 2}


async def test_no_retries_where_none_are_wanted(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    for worker in hive.workers:
        worker.service.check = _refuse
    listener = Listener()
    hive.start("hello", listener, max_retries=0)
    await listener.done.wait()
    assert hive.client.statistics()["retried"] == 1


def _refuse(task, caller):
    from hivemind_p2p.errors import TaskRefusedError

    raise TaskRefusedError("not today")


async def test_a_pickle_comes_from_peers_of_the_own_account_only(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 3)
    for worker in hive.workers:
        answers(worker, encode(pickle.dumps(range(3))))
    tasks = special(hive, nursery, ["ada", "bob", "me"])
    listener, _ = start(tasks, trust="pickle")
    assert (await listener.value()).value == range(3)
    assert [len(worker.executor.ran) for worker in hive.workers] == [0, 0, 1]


async def test_no_pickle_is_opened_where_no_peer_is_ones_own(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    with pytest.raises(NoPeerError, match="'me'"):
        await start(special(hive, nursery, ["ada", "bob"]), trust="pickle")[0].value()
    without = SpecialTasks(hive.client, hive.book, Owners({}), ME, nursery)
    with pytest.raises(AccountRequiredError):
        await start(without, trust="pickle")[0].value()
    assert [len(worker.executor.ran) for worker in hive.workers] == [0, 0]


@pytest.mark.parametrize("value", [b"no pickle", 17, pickle.dumps(print)[:-3]])
async def test_what_is_no_pickle_is_an_error(nursery, make_hive, autojump_clock, value):
    hive = make_hive(nursery)
    answers(hive.workers[0], encode(value))
    with pytest.raises(ProtocolError):
        await start(special(hive, nursery, ["me"]), trust="pickle")[0].value()
