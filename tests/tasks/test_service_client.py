"""Caller and worker over the memory network: results, payment, lost workers, cancelling, lies."""

import pytest
import trio
import trio.testing

from hivemind_p2p.errors import (
    BusyError,
    DeadlineExceededError,
    NoPeerError,
    PaymentRequiredError,
    PeerUnreachableError,
    ProtocolError,
    TaskCrashedError,
    TaskFailedError,
    TaskLostError,
    TaskRefusedError,
    TaskTimeoutError,
    VoucherError,
)
from hivemind_p2p.proto import task_channel_pb2, tasks_pb2
from hivemind_p2p.proto.task_channel_pb2 import FromCaller, FromWorker
from hivemind_p2p.tasks import wire
from hivemind_p2p.tasks.link import GRACE
from hivemind_p2p.types import Needs, SharedPart

GIB = 1 << 30


async def test_a_task_runs_and_its_states_are_told(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery)
    worker = hive.workers[0]
    result = await hive.run("hello")
    assert (result.value, result.peer, result.cost, result.output) == ("hello", worker.peer_id, 0, "printed")
    assert result.usage.cpu_seconds == 2.0
    assert hive.states == [
        ("queued", None),
        ("assigned", worker.peer_id),
        ("running", worker.peer_id),
        ("completed", None),
    ]
    assert hive.client.statistics() == {"completed": 1}
    assert worker.service.statistics().completed == 1


async def test_tasks_one_after_the_other_share_a_channel(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, paid=True)
    for number in range(5):
        await hive.run("hello", f"t{number}")
    assert hive.router.statistics().opened == 1


async def test_a_channel_that_lay_idle_too_long_is_replaced(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery)
    await hive.run("hello")
    await trio.sleep(wire.CHANNEL_IDLE * 3)
    assert (await hive.run("again")).value == "again"
    assert hive.client.statistics() == {"completed": 2}


async def test_a_channel_that_the_worker_closed_is_replaced_without_blame(
    nursery, make_hive, autojump_clock, monkeypatch
):
    hive = make_hive(nursery)
    monkeypatch.setattr("hivemind_p2p.tasks.session.IDLE_GRACE", 10 - wire.CHANNEL_IDLE)
    await hive.run("hello")
    await trio.sleep(20)
    assert (await hive.run("again")).value == "again"
    assert hive.client.statistics() == {"completed": 2}


async def test_a_large_value_travels_in_pieces_and_holds_nobody_up(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, cpus=2.0, bandwidth=1e6)
    ended = []

    async def run(payload, name):
        ended.append((await hive.run(payload, name), trio.current_time()))

    async with trio.open_nursery() as tasks:
        tasks.start_soon(run, "large 3000000", "large")
        await trio.sleep(0.5)
        tasks.start_soon(run, "small", "small")
    assert [result.value if result.value == "small" else len(result.value) for result, _ in ended] == [
        "small",
        3_000_000,
    ]
    assert ended[0][1] < 1.5 < ended[1][1]


async def test_a_large_task_travels_in_pieces(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, paid=True)
    assert (await hive.run("x" * 1_000_000)).value == "x" * 1_000_000


async def test_what_many_tasks_share_is_sent_once_and_again_if_the_worker_has_dropped_it(
    nursery, make_hive, autojump_clock, monkeypatch
):
    monkeypatch.setattr("hivemind_p2p.tasks.session.MOST_SHARED", 2)
    hive = make_hive(nursery)
    parts = [SharedPart(bytes([number]) * 300_000) for number in range(3)]
    for number in (0, 1, 0, 2, 0, 1):
        await hive.run("hello", shared=parts[number])
    assert [work.shared.data for work in hive.workers[0].executor.tasks] == [
        parts[number].data for number in (0, 1, 0, 2, 0, 1)
    ]
    assert hive.client.statistics() == {"completed": 6}


async def test_output_comes_while_the_work_runs(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery)
    listener = Listener()
    hive.start("print 1", listener, stream_output=True)
    await trio.sleep(0.5)
    assert listener.told == [b"so far"]
    await trio.sleep(2)
    assert listener.told[1].value == "1"


async def test_a_worker_asks_whose_its_callers_are_and_goes_on_where_nobody_says(
    nursery, make_hive, make_accounts, autojump_clock
):
    accounts = make_accounts({})
    hive = make_hive(nursery, accounts=accounts)
    accounts.owners[hive.router.peer_id] = "alice"
    await hive.run("hello")
    assert hive.workers[0].executor.owners == {hive.router.peer_id: "alice"}
    accounts.gone = True
    await trio.sleep(wire.CHANNEL_IDLE * 3)
    assert (await hive.run("again")).value == "again"


async def test_many_tasks_share_messages_and_none_is_lost(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2, paid=True, cpus=4.0)
    listeners = [Listener() for _ in range(500)]
    for number, listener in enumerate(listeners):
        hive.start(f"echo {number}", listener, task_id=f"t{number}")
    await trio.sleep(300)
    assert [listener.told[-1].value for listener in listeners] == [str(number) for number in range(500)]
    assert sorted(len(worker.executor.ran) for worker in hive.workers)[0] > 0
    assert sum(len(worker.executor.ran) for worker in hive.workers) == 500
    assert sum(hive.purse.paid.values()) == 500 * 2100
    assert len(hive.purse.paid) < 500
    hive.assert_nothing_is_set_aside()


async def test_the_worker_runs_no_more_than_it_lends(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2, cpus=2.0)
    async with trio.open_nursery() as tasks:
        for number in range(30):
            tasks.start_soon(hive.run, "sleep 1", f"t{number}")
    assert [worker.executor.most_at_once for worker in hive.workers] == [2, 2]
    assert sum(len(worker.executor.ran) for worker in hive.workers) == 30
    assert trio.current_time() < 12


# -- payment -----------------------------------------------------------------------------------------------------------


async def test_work_is_billed_and_paid(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, paid=True)
    till = hive.workers[0].till
    result = await hive.run("hello")
    await trio.sleep(1)
    assert result.cost == till.bills["t+1"] == hive.purse.paid["t+1"] == 2100
    assert till.collected == [b"voucher for t+1 2100"]
    assert hive.workers[0].service.statistics().earned == 2100
    await trio.sleep(10)
    hive.assert_nothing_is_set_aside()


async def test_a_bill_is_never_above_what_was_allowed(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, paid=True)
    assert (await hive.run("hello", max_cost=500)).cost == 500


async def test_a_function_that_raised_is_billed_and_a_crash_is_not(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, paid=True)
    with pytest.raises(TaskFailedError) as caught:
        await hive.run("raise", "failed")
    assert "KeyError: 'x'" in str(caught.value)
    assert caught.value.remote_traceback == "T"
    with pytest.raises(TaskCrashedError):
        await hive.run(f"report {TaskCrashedError.code()}", "crashed")
    await trio.sleep(10)
    assert hive.purse.paid == {"failed+1": 2100}
    hive.assert_nothing_is_set_aside()


async def test_without_a_hold_nothing_runs(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2, paid=True, hold=b"nothing")
    with pytest.raises(PaymentRequiredError, match="1 earlier attempts"):
        await hive.run("hello")
    assert not any(worker.executor.ran for worker in hive.workers)
    hive.assert_nothing_is_set_aside()


async def test_what_was_set_aside_for_a_task_that_is_cancelled_or_lost_is_free_again(
    nursery, make_hive, autojump_clock
):
    hive = make_hive(nursery, 2, paid=True)
    with trio.move_on_after(3):
        await hive.run("sleep 1000", "cancelled")
    await trio.sleep(10)
    hive.assert_nothing_is_set_aside()

    async def kill_whoever_has_it():
        await trio.sleep(1)
        peer = next(peer for state, peer in reversed(hive.states) if state == "running")
        hive.network.kill(peer)

    nursery.start_soon(kill_whoever_has_it)
    await hive.run("sleep 5", "lost")
    await trio.sleep(10)
    assert hive.purse.paid.keys() == {"lost+1"}
    assert hive.purse.reserved == 0


async def test_a_task_that_allows_less_than_the_price_is_refused(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, paid=True)
    channel = await hive.router.open(hive.workers[0].peer_id, wire.PROTOCOL)
    message = submission(max_cost=0)
    message.allowances.add(limit=0, payment=b"hold")
    await channel.send(message, b"hello")
    answer, _ = await channel.receive(FromWorker)
    assert "this peer asks for 100" in answer.refused[0].message
    assert (list(answer.refused[0].numbers), answer.refused[0].code) == ([1], TaskRefusedError.code())
    assert hive.workers[0].executor.ran == []


async def test_work_that_nothing_was_set_aside_for_is_not_done(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, paid=True)
    channel = await hive.router.open(hive.workers[0].peer_id, wire.PROTOCOL)
    await channel.send(submission(), b"hello")
    with pytest.raises(PaymentRequiredError, match="set nothing aside"):
        await channel.receive(FromWorker)
    assert hive.workers[0].executor.ran == []


async def test_a_caller_that_does_not_pay_gets_no_more(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, paid=True)
    channel = await hive.router.open(hive.workers[0].peer_id, wire.PROTOCOL)
    message = submission(max_cost=10_000)
    message.allowances.add(limit=10_000, payment=b"hold")
    await channel.send(message, b"hello")
    with pytest.raises(VoucherError, match="has not paid bill 1"):
        await receive_all(channel)
    assert hive.workers[0].service.statistics().unpaid == 2100


async def test_a_forged_bill_is_not_paid_and_its_sender_is_avoided(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2, paid=True)
    first, second = sorted(hive.workers, key=lambda worker: worker.peer_id)

    async def forge(payer, *, work_id, amount, what):
        return b"other 1"

    first.till.bill = forge
    assert (await hive.run("hello")).peer == first.peer_id
    await trio.sleep(1)
    assert hive.purse.paid == {}
    assert (await hive.run("hello", "next")).peer == second.peer_id
    assert first.service.statistics().unpaid == 2100


async def test_no_more_is_paid_than_results_said_that_they_cost(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, paid=True)
    till = hive.workers[0].till

    async def charge_more(payer, *, work_id, amount, what):
        return f"{work_id} {amount + 1}".encode()

    till.bill = charge_more
    await hive.run("hello")
    await trio.sleep(1)
    assert hive.purse.paid == {}


async def test_a_hive_that_is_left_is_paid_up_first(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, paid=True)
    await hive.run("hello")
    await hive.client.close()
    assert trio.current_time() < 0.05
    assert hive.purse.paid == {"t+1": 2100}
    await trio.sleep(1)
    hive.assert_nothing_is_set_aside()


# -- workers that vanish, refuse, stall, lie ---------------------------------------------------------------------------


async def test_a_task_whose_worker_vanishes_goes_to_another(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)

    async def kill_whoever_has_it():
        await trio.sleep(1)
        peer = next(peer for state, peer in hive.states if state == "running")
        hive.network.kill(peer)

    nursery.start_soon(kill_whoever_has_it)
    result = await hive.run("sleep 5")
    assert [state for state, _ in hive.states].count("running") == 2
    assert len({peer for state, peer in hive.states if state == "running"}) == 2
    assert result.peer == hive.states[-2][1]


async def test_a_silent_worker_is_given_up(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)

    async def cut_off_whoever_has_it():
        await trio.sleep(1)
        peer = next(peer for state, peer in hive.states if state == "running")
        everybody_else = {hive.router.peer_id, *(worker.peer_id for worker in hive.workers)} - {peer}
        hive.network.partition([{peer}, everybody_else])

    nursery.start_soon(cut_off_whoever_has_it)
    result = await hive.run("sleep 10")
    assert result.value == "10"
    assert trio.current_time() < 1 + wire.SILENCE_DEADLINE + 20


async def test_when_every_worker_is_gone_the_error_keeps_the_reasons(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    for worker in hive.workers:
        hive.network.kill(worker.peer_id)
    with pytest.raises((PeerUnreachableError, DeadlineExceededError), match="10 earlier attempts"):
        await hive.run("hello")
    assert hive.states[-1][0] == "failed"


async def test_a_refusal_sends_the_task_elsewhere(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    first = min(hive.workers, key=lambda worker: worker.peer_id)
    for worker in hive.workers:
        hive.offer_more(worker, cpus=8.0)
    with pytest.raises(TaskRefusedError, match="needs 4 cpus, and this peer lends 1"):
        await hive.run("hello", needs=Needs(cpus=4))
    assert {peer for state, peer in hive.states if state == "assigned"} == {w.peer_id for w in hive.workers}
    assert first.executor.ran == []


async def test_no_offer_that_fits_is_said_after_asking_for_the_newest(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery)
    with pytest.raises(NoPeerError, match="less than 64 cpus"):
        await hive.run("hello", needs=Needs(cpus=64))
    assert hive.book.asked_fresh == 1


async def test_a_busy_worker_is_asked_again(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery)
    hive.offer_more(hive.workers[0], cpus=100.0)  # it claims room for 200 tasks, and its line takes 8
    async with trio.open_nursery() as tasks:
        for number in range(40):
            tasks.start_soon(hive.run, "sleep 1", f"t{number}")
    assert len(hive.workers[0].executor.ran) == 40


async def test_a_worker_that_is_always_busy_is_given_up(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery)

    async def busy(channel):
        raise BusyError("no room")

    hive.workers[0].router.serve(wire.PROTOCOL, busy)
    with pytest.raises(BusyError):
        await hive.run("hello")


async def test_a_new_peer_gets_the_tasks_that_wait(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    late = hive.book.all.pop()
    async with trio.open_nursery() as tasks:
        for number in range(8):
            tasks.start_soon(hive.run, "sleep 30", f"t{number}")
        await trio.sleep(5)
        hive.book.all.append(late)
    assert trio.current_time() < 8 * 30
    assert all(worker.executor.ran for worker in hive.workers)


def results(*numbers, sizes=None, **columns):
    count = len(numbers)
    fields = {"sizes": sizes or [0] * count, "wall_seconds": [0] * count, "cpu_seconds": [0] * count}
    fields |= {"peak_memory_bytes": [0] * count} | columns
    return FromWorker(results=task_channel_pb2.Results(numbers=numbers, **fields))


@pytest.mark.parametrize(
    "messages",
    [
        [results(1)],
        [results(1, sizes=[1 << 60])],
        [results(1, sizes=[1 << 20])],
        [results(1, wall_seconds=[])],
        [results(1, sizes=[100])],
        [results(1, report_rows=[7], reports=[tasks_pb2.Report()])],
        [results(1, report_rows=[0], reports=[tasks_pb2.Report(error_code="authentication")])],
    ],
    ids=["no value", "huge", "no pieces", "columns", "no bytes", "no row", "wrong error"],
)
async def test_a_worker_that_breaks_the_rules_is_left_for_another(nursery, make_hive, autojump_clock, messages):
    hive = make_hive(nursery, 2)
    liar, honest = sorted(hive.workers, key=lambda worker: worker.peer_id)

    async def lie(channel):
        await channel.receive(FromCaller, max_payload=1 << 20)
        for message in messages:
            await channel.send(message)
        await trio.sleep_forever()

    liar.router.serve(wire.PROTOCOL, lie)
    assert (await hive.run("hello")).peer == honest.peer_id
    assert hive.client.statistics() == {"completed": 1, "retried": 1}


async def test_a_worker_that_never_ends_is_left_though_it_shows_life(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    liar, honest = sorted(hive.workers, key=lambda worker: worker.peer_id)

    async def stall(channel):
        await channel.receive(FromCaller, max_payload=1 << 20)
        await channel.send(FromWorker(started=[1]))
        while True:
            await channel.send(FromWorker())
            await trio.sleep(1)

    liar.router.serve(wire.PROTOCOL, stall)
    assert (await hive.run("hello", needs=Needs(seconds=5))).peer == honest.peer_id
    assert 5 + GRACE <= trio.current_time() < 5 + GRACE + 2


async def test_a_task_that_took_too_long_is_not_tried_again(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    with pytest.raises(TaskTimeoutError):
        await hive.run(f"report {TaskTimeoutError.code()}")
    assert hive.states[-1][0] == "timed_out"
    assert hive.client.statistics() == {"timed_out": 1}


# -- cancelling --------------------------------------------------------------------------------------------------------


async def test_cancelling_the_call_stops_the_work_at_once(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery)
    with trio.move_on_after(3):
        await hive.run("sleep 1000")
    await trio.testing.wait_all_tasks_blocked()
    assert hive.workers[0].executor.killed == ["t"]
    assert trio.current_time() < 5
    assert hive.states[-1] == ("cancelled", None)
    assert (await hive.run("hello", "next")).value == "hello"


async def test_cancelling_while_waiting_gives_the_place_to_the_next(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery)
    scope = trio.CancelScope()

    async def cancelled():
        with scope:
            await hive.run("hello", "cancelled")

    async with trio.open_nursery() as tasks:
        for number in range(2):
            tasks.start_soon(hive.run, "sleep 10", f"t{number}")
        await trio.testing.wait_all_tasks_blocked()
        tasks.start_soon(cancelled)
        await trio.testing.wait_all_tasks_blocked()
        tasks.start_soon(hive.run, "hello", "last")
        await trio.sleep(1)
        scope.cancel()
    assert sorted(hive.workers[0].executor.ran) == ["last", "t0", "t1"]


async def test_a_caller_that_vanishes_has_its_work_killed(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery)
    nursery.start_soon(_swallow, hive)
    await trio.sleep(1)
    hive.network.kill(hive.router.peer_id)
    await trio.sleep(20)
    assert hive.workers[0].executor.killed == ["t"]
    assert hive.workers[0].service.statistics().running == 0


async def _swallow(hive):
    with trio.move_on_after(5):
        await hive.run("sleep 1000")


# -- what a worker makes of malformed requests -------------------------------------------------------------------------


def submission(number=1, task_id="t", size=5, kind=0, shared=0, needs=None, **changes):
    needs = needs or tasks_pb2.Needs(cpus=1, memory_bytes=GIB, seconds=10)
    fields = {"kind": 0, "task_type": "function/1", "needs": needs, "max_cost": 1000} | changes
    message = FromCaller()
    message.submit.kinds.add(**fields)
    message.submit.numbers.append(number)
    message.submit.task_ids.append(task_id)
    message.submit.task_kinds.append(kind)
    message.submit.task_shared.append(shared)
    message.submit.task_sizes.append(size)
    return message


async def receive_all(channel):
    while True:
        await channel.receive(FromWorker, max_payload=1 << 20)


def uneven():
    message = submission()
    message.submit.task_ids.append("t2")
    return message


@pytest.mark.parametrize(
    "message",
    [
        FromCaller(),
        uneven(),
        submission(number=0),
        submission(kind=7),
        submission(size=4),
        submission(size=6),
        submission(size=1 << 60),
        submission(task_id=""),
        submission(task_id="x" * 65),
        submission(task_id="a\nb"),
        submission(needs=tasks_pb2.Needs(cpus=float("nan"), seconds=1)),
        submission(needs=tasks_pb2.Needs(cpus=1, seconds=float("inf"))),
        submission(needs=tasks_pb2.Needs(cpus=0, seconds=1)),
        submission(needs=tasks_pb2.Needs(cpus=-1, seconds=1)),
        submission(needs=tasks_pb2.Needs(cpus=1, seconds=1, memory_bytes=1 << 63)),
        submission(max_cost=(1 << 64) - 1),
        submission(priority=1 << 30),
    ],
)
async def test_a_malformed_request_is_answered_with_an_error(nursery, make_hive, autojump_clock, message):
    hive = make_hive(nursery)
    channel = await hive.router.open(hive.workers[0].peer_id, wire.PROTOCOL)
    await channel.send(message, b"hello")
    with pytest.raises(ProtocolError):
        await channel.receive(FromWorker)
    assert hive.workers[0].executor.ran == []
    assert (await hive.run("hello")).value == "hello"


async def test_a_number_cannot_be_used_twice(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery)
    channel = await hive.router.open(hive.workers[0].peer_id, wire.PROTOCOL)
    await channel.send(submission(size=9), b"sleep 100")
    await channel.send(submission(), b"hello")
    with pytest.raises(ProtocolError, match="number twice"):
        await receive_all(channel)
    await trio.testing.wait_all_tasks_blocked()
    assert hive.workers[0].executor.ran == []
    assert hive.workers[0].executor.killed == ["t"]


# -- at most once ------------------------------------------------------------------------------------------------------


async def test_a_task_that_must_not_run_twice_is_not_begun_again_when_its_peer_is_lost(
    nursery, make_hive, autojump_clock
):
    hive = make_hive(nursery, 2)
    listener = Listener()
    hive.start("sleep 5", listener, idempotent=False)
    await trio.sleep(1)
    hive.network.kill(next(worker.peer_id for worker in hive.workers if worker.executor.tasks))
    await trio.sleep(60)
    assert isinstance(listener.told[-1], TaskLostError)
    assert "may have begun" in str(listener.told[-1])
    assert sum(len(worker.executor.tasks) for worker in hive.workers) == 1


async def test_one_that_was_refused_has_not_begun_and_goes_elsewhere(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    first, second = sorted(hive.workers, key=lambda worker: worker.peer_id)
    first.service.closed = "it rests"
    listener = Listener()
    hive.start("hello", listener, idempotent=False)
    await trio.sleep(5)
    assert listener.told[-1].peer == second.peer_id


async def test_a_worker_that_leaves_gives_back_what_has_not_begun(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2)
    first, second = hive.workers
    hive.book.all = [first.offer]
    listeners = [Listener() for _ in range(2)]
    for number, listener in enumerate(listeners):
        hive.start("sleep 20", listener, task_id=f"t{number}", idempotent=False)
    await trio.sleep(1)
    assert [work.task_id for work in first.executor.tasks] == ["t0"], "the other one lies in its line"
    first.service.closed = "it is about to end"
    first.service.hand_back()
    hive.book.all = [second.offer]
    await trio.sleep(60)
    assert [work.task_id for work in first.executor.tasks] == ["t0"]
    assert [work.task_id for work in second.executor.tasks] == ["t1"]
    assert [listener.told[-1].peer for listener in listeners] == [first.peer_id, second.peer_id]
    assert first.service.statistics().cancelled == 0


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_task_is_begun_once_however_slowly_its_messages_leave(
    nursery, make_hive, autojump_clock, monkeypatch, idempotent
):
    """Every message is a turn of the loop late, and some come when the other side has just asked for more."""
    hive = make_hive(nursery, 2, cpus=2.0, latency=0.3)
    hive.offer_more(hive.workers[0], cpus=100.0)
    listeners = [Listener() for _ in range(60)]
    for number, listener in enumerate(listeners):
        hive.start("sleep 1", listener, task_id=f"t{number}", idempotent=idempotent)
    await trio.sleep(300)
    assert all(listener.told[-1].value == "1" for listener in listeners)
    begun = [work.task_id for worker in hive.workers for work in worker.executor.tasks]
    assert set(begun) == {f"t{number}" for number in range(60)}
    if not idempotent:  # of others, late ones have copies
        assert len(begun) == 60


class Listener:
    """Keeps what it is told."""

    def __init__(self):
        self.told = []

    def moved(self, state, peer):
        pass

    def printed(self, data):
        self.told.append(data)

    def ended(self, result):
        self.told.append(result)

    def failed(self, error):
        self.told.append(error)
