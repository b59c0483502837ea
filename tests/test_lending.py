"""Closing and opening a peer: the service, the executor and the offer follow what is decided."""

from types import SimpleNamespace

import pytest
import trio
import trio.testing

from hivemind_p2p.errors import ConfigurationError, NetworkError
from hivemind_p2p.lending import INTERVAL, Lending
from hivemind_p2p.types import Offer, PeerId, PeerInfo
from hivemind_p2p.worker.readiness import Readiness
from hivemind_p2p.worker.schedule import parse


class Tasks:
    def __init__(self):
        self.closed = ""
        self.running = self.waiting = self.given_back = 0

    def hand_back(self):
        self.given_back += 1  # what has been sent to a child already stays

    def statistics(self):
        return SimpleNamespace(running=self.running, waiting=self.waiting)


class Offers:
    def __init__(self):
        self.own = Offer(PeerInfo(PeerId("me")), task_types=("function/1",))
        self.published = []
        self.failing = False

    async def publish(self, own):
        await trio.lowlevel.checkpoint()
        if self.failing:
            raise NetworkError("nobody answers")
        self.own = own
        self.published.append(own.task_types)


class Bench:
    def __init__(self, readiness=None):
        self.tasks, self.runner, self.offers = Tasks(), SimpleNamespace(paused=False), Offers()
        self.minute, self.busy = (0, 0), 0.0
        self.lending = Lending(
            readiness or Readiness(),
            self.tasks,
            self.runner,
            self.offers,
            others=lambda: self.busy,
            minute=lambda: self.minute,
        )


async def test_a_pause_refuses_and_takes_the_offer_back(autojump_clock, nursery):
    bench = Bench()
    await nursery.start(bench.lending.run)
    assert (await bench.lending.told("pause"))["state"] == "paused"
    assert bench.tasks.closed == "its user has paused it"
    assert bench.runner.paused
    await trio.testing.wait_all_tasks_blocked()
    assert bench.offers.published == [()]
    assert (await bench.lending.told("resume"))["state"] == "open"
    await trio.testing.wait_all_tasks_blocked()
    assert (bench.tasks.closed, bench.runner.paused) == ("", False)
    assert bench.offers.published == [(), ("function/1",)]
    with pytest.raises(ConfigurationError):
        await bench.lending.told("dance")
    nursery.cancel_scope.cancel()


async def test_hours_open_and_close_it(autojump_clock, nursery):
    bench = Bench(Readiness(parse("20:00-24:00")))
    await nursery.start(bench.lending.run)
    assert bench.lending.statistics().state == "off hours"
    bench.minute = (0, 20 * 60)
    await trio.sleep(2 * INTERVAL)
    assert bench.lending.statistics().state == "open"
    assert bench.offers.published == [(), ("function/1",)]
    nursery.cancel_scope.cancel()


async def test_a_busy_machine_closes_it(autojump_clock, nursery):
    bench = Bench(Readiness(only_when_idle=True))
    await nursery.start(bench.lending.run)
    await trio.sleep(200)
    assert bench.lending.statistics().state == "open"
    bench.busy = 1.0
    await trio.sleep(30)
    assert bench.tasks.closed == "its machine is in use"
    nursery.cancel_scope.cancel()


async def test_a_hive_out_of_reach_is_told_later(autojump_clock, nursery):
    bench = Bench()
    bench.offers.failing = True
    await nursery.start(bench.lending.run)
    await bench.lending.told("pause")
    await trio.sleep(3 * INTERVAL)
    assert bench.offers.published == []
    bench.offers.failing = False
    await trio.sleep(2 * INTERVAL)
    assert bench.offers.published == [()]
    nursery.cancel_scope.cancel()


async def test_leaving_waits_for_what_was_taken(autojump_clock, nursery):
    bench = Bench()
    await nursery.start(bench.lending.run)
    bench.tasks.running, bench.tasks.waiting = 1, 1
    left = trio.Event()

    async def leave():
        await bench.lending.drain()
        left.set()

    nursery.start_soon(leave)
    await trio.sleep(100)
    assert not left.is_set()
    assert bench.tasks.closed == "it is about to end"
    assert bench.runner.paused, "nothing more is begun"
    assert bench.tasks.given_back
    bench.tasks.running = 0
    await trio.sleep(1)
    assert not left.is_set()
    bench.tasks.waiting = 0
    await trio.sleep(1)
    assert left.is_set()
    nursery.cancel_scope.cancel()
