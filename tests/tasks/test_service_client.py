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
    StreamClosedError,
    TaskCrashedError,
    TaskFailedError,
    TaskRefusedError,
    TaskTimeoutError,
)
from hivemind_p2p.proto import tasks_pb2
from hivemind_p2p.tasks import wire
from hivemind_p2p.tasks.conversation import GRACE
from hivemind_p2p.types import Needs

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
    monkeypatch.setattr(wire, "CHANNEL_IDLE", 1.0)  # the worker closes after this and its grace
    await hive.run("hello")
    monkeypatch.setattr("hivemind_p2p.tasks.channels.CHANNEL_IDLE", 1000.0)
    await trio.sleep(100)
    assert (await hive.run("again")).value == "again"
    assert hive.client.statistics() == {"completed": 2}


async def test_a_large_value_travels_in_a_message_of_its_own(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery)
    assert len((await hive.run("large 3000000")).value) == 3_000_000


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
    assert result.cost == till.bills["t"] == hive.purse.paid["t"] == 2100
    await trio.testing.wait_all_tasks_blocked()
    assert till.collected == [b"voucher for t 2100"]
    assert hive.workers[0].service.statistics().earned == 2100
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
    assert hive.purse.paid == {"failed": 2100}
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
    await trio.testing.wait_all_tasks_blocked()
    hive.assert_nothing_is_set_aside()

    async def kill_whoever_has_it():
        await trio.sleep(1)
        peer = next(peer for state, peer in reversed(hive.states) if state == "running")
        hive.network.kill(peer)

    nursery.start_soon(kill_whoever_has_it)
    await hive.run("sleep 5", "lost")
    assert hive.purse.paid.keys() == {"lost"}
    assert hive.purse.reserved == 0


async def test_a_task_that_allows_less_than_the_price_is_refused(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, paid=True)
    channel = await hive.router.open(hive.workers[0].peer_id, wire.PROTOCOL)
    await channel.send(request(max_cost=0), b"hello")
    with pytest.raises(TaskRefusedError, match="this peer asks for 100"):
        await channel.receive(tasks_pb2.FromWorker)
    assert hive.workers[0].executor.ran == []


async def test_a_forged_bill_is_not_paid_and_its_sender_is_avoided(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery, 2, paid=True)
    first, second = sorted(hive.workers, key=lambda worker: worker.peer_id)

    async def forge(payer, *, work_id, amount, what):
        return b"other 1"

    first.till.bill = forge
    assert (await hive.run("hello")).cost == 0
    assert (await hive.run("hello", "next")).peer == second.peer_id
    await trio.testing.wait_all_tasks_blocked()
    assert first.service.statistics().unpaid == 2100


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
    with pytest.raises((PeerUnreachableError, DeadlineExceededError), match="3 earlier attempts"):
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


@pytest.mark.parametrize(
    "messages",
    [
        [tasks_pb2.FromWorker(finished=tasks_pb2.Finished())],
        [tasks_pb2.FromWorker(accepted=tasks_pb2.Accepted())] * 2,
        [tasks_pb2.FromWorker()],
        [
            tasks_pb2.FromWorker(accepted=tasks_pb2.Accepted()),
            tasks_pb2.FromWorker(started=tasks_pb2.Started()),
            tasks_pb2.FromWorker(finished=tasks_pb2.Finished(value_bytes=1 << 60)),
        ],
        [
            tasks_pb2.FromWorker(accepted=tasks_pb2.Accepted()),
            tasks_pb2.FromWorker(started=tasks_pb2.Started()),
            tasks_pb2.FromWorker(finished=tasks_pb2.Finished(report=tasks_pb2.Report(error_code="authentication"))),
        ],
        [
            tasks_pb2.FromWorker(accepted=tasks_pb2.Accepted()),
            tasks_pb2.FromWorker(started=tasks_pb2.Started()),
            tasks_pb2.FromWorker(finished=tasks_pb2.Finished()),
        ],
    ],
    ids=["too early", "twice", "empty", "huge", "wrong error", "no value"],
)
async def test_a_worker_that_breaks_the_rules_is_left_for_another(nursery, make_hive, autojump_clock, messages):
    hive = make_hive(nursery, 2)
    liar, honest = sorted(hive.workers, key=lambda worker: worker.peer_id)

    async def lie(channel):
        await channel.receive(tasks_pb2.FromCaller, max_payload=1 << 20)
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
        await channel.send(tasks_pb2.FromWorker(accepted=tasks_pb2.Accepted()))
        await channel.send(tasks_pb2.FromWorker(started=tasks_pb2.Started()))
        while True:
            await channel.send(tasks_pb2.FromWorker(alive=tasks_pb2.Alive()))
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


def request(**changes):
    needs = tasks_pb2.Needs(cpus=1, memory_bytes=GIB, seconds=10)
    fields = {"task_id": "t", "task_type": "function/1", "needs": needs, "max_cost": 1000} | changes
    return tasks_pb2.FromCaller(request=tasks_pb2.Request(**fields))


@pytest.mark.parametrize(
    "message",
    [
        tasks_pb2.FromCaller(),
        tasks_pb2.FromCaller(settled=tasks_pb2.Settled()),
        request(task_id=""),
        request(task_id="x" * 65),
        request(task_id="a\nb"),
        request(needs=tasks_pb2.Needs(cpus=float("nan"), seconds=1)),
        request(needs=tasks_pb2.Needs(cpus=1, seconds=float("inf"))),
        request(needs=tasks_pb2.Needs(cpus=0, seconds=1)),
        request(needs=tasks_pb2.Needs(cpus=-1, seconds=1)),
        request(needs=tasks_pb2.Needs(cpus=1, seconds=1, memory_bytes=1 << 63)),
        request(max_cost=(1 << 64) - 1),
    ],
)
async def test_a_malformed_request_is_answered_with_an_error(nursery, make_hive, autojump_clock, message):
    hive = make_hive(nursery)
    channel = await hive.router.open(hive.workers[0].peer_id, wire.PROTOCOL)
    await channel.send(message, b"hello")
    with pytest.raises(ProtocolError):
        await channel.receive(tasks_pb2.FromWorker)
    assert hive.workers[0].executor.ran == []
    assert (await hive.run("hello")).value == "hello"


async def test_a_second_request_before_the_first_has_ended_stops_it(nursery, make_hive, autojump_clock):
    hive = make_hive(nursery)
    channel = await hive.router.open(hive.workers[0].peer_id, wire.PROTOCOL)
    await channel.send(request(), b"sleep 100")
    for said in ("accepted", "started"):
        assert (await channel.receive(tasks_pb2.FromWorker))[0].WhichOneof("message") == said
    await channel.send(request(task_id="second"), b"hello")
    with pytest.raises(StreamClosedError):
        await channel.receive(tasks_pb2.FromWorker)
    assert hive.workers[0].executor.ran == []
