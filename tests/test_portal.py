"""The bridge to the trio thread: results, errors, Ctrl-C, iterators, and what it refuses."""

import gc
import os
import signal
import subprocess
import sys
import threading

import pytest
import trio
import trio.lowlevel

from hivemind_p2p import portal
from hivemind_p2p.portal import Portal

DEADLINE = 10.0
"""Seconds that anything here may take on a machine that is busy."""


@pytest.fixture
def bridge():
    made = Portal()
    yield made
    made.stop()
    assert not made.alive


async def add(one, two):
    await trio.lowlevel.checkpoint()
    return one + two


def test_a_call_runs_on_trio_and_returns(bridge):
    async def where():
        return threading.current_thread().name, trio.lowlevel.current_task() is not None

    assert bridge.call(add, 1, 2) == 3
    assert bridge.call(where) == ("hivemind_p2p trio", True)


def test_errors_come_back_as_they_are(bridge):
    async def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        bridge.call(fail)
    assert bridge.call(add, 1, 2) == 3


def test_a_call_from_the_trio_thread_is_refused(bridge):
    async def call_back():
        return bridge.call(add, 1, 2)

    with pytest.raises(RuntimeError, match="this is the trio thread"):
        bridge.call(call_back)


def _sleeper():
    """An async function that sleeps for ever, and events for when it has begun and when it was cancelled."""
    begun, ended = threading.Event(), threading.Event()

    async def sleep():
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    return sleep, begun, ended


def test_a_timeout_cancels_the_task(bridge):
    sleep, begun, ended = _sleeper()
    with pytest.raises(TimeoutError):
        bridge.call(sleep, timeout=0.05)
    assert not begun.is_set() or ended.wait(DEADLINE)


def test_cancelling_the_future_cancels_the_task(bridge):
    sleep, begun, ended = _sleeper()
    future = bridge.start(sleep)
    assert begun.wait(DEADLINE)
    future.cancel()
    assert ended.wait(DEADLINE)


def _interrupt_once(begun):
    """Sends this process a SIGINT, as Ctrl-C does, once `begun` is set."""

    def send():
        begun.wait(DEADLINE)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_ctrl_c_cancels_what_is_waited_for(bridge):
    sleep, begun, ended = _sleeper()
    thread = _interrupt_once(begun)
    with pytest.raises(KeyboardInterrupt):
        bridge.call(sleep)
    assert ended.wait(DEADLINE)
    thread.join()
    assert bridge.call(add, 1, 2) == 3


def test_ctrl_c_while_the_task_is_being_started(bridge, monkeypatch):
    sleep, begun, ended = _sleeper()
    start = bridge.start

    def start_and_be_interrupted(function, *args):
        start(function, *args)
        assert begun.wait(DEADLINE)
        raise KeyboardInterrupt

    monkeypatch.setattr(bridge, "start", start_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        bridge.call(sleep)
    assert ended.wait(DEADLINE)


def test_ctrl_c_cancels_what_is_watched(bridge):
    sleep, begun, ended = _sleeper()
    thread = _interrupt_once(begun)
    with pytest.raises(KeyboardInterrupt):
        bridge.call_watched(lambda report: sleep(), lambda report: None)
    assert ended.wait(DEADLINE)
    thread.join()


def test_reports_are_shown_in_order_in_the_thread_that_waits(bridge):
    async def work(report):
        for step in range(5):
            report(step)
            await trio.lowlevel.checkpoint()
        return "done"

    seen = []
    assert bridge.call_watched(work, lambda step: seen.append((step, threading.current_thread()))) == "done"
    assert seen == [(step, threading.current_thread()) for step in range(5)]


def test_a_watched_call_raises_what_its_task_raised(bridge):
    async def work(report):
        report(1)
        raise KeyError("x")

    seen = []
    with pytest.raises(KeyError):
        bridge.call_watched(work, seen.append)
    assert seen == [1]


def test_a_view_that_breaks_ends_the_work(bridge):
    ended = threading.Event()

    async def work(report):
        report(1)
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    def show(_):
        raise ValueError("the view broke")

    with pytest.raises(ValueError, match="the view broke"):
        bridge.call_watched(work, show)
    assert ended.wait(DEADLINE)


class Numbers:
    """Counts upwards; knows whether it was closed."""

    def __init__(self, stop, fails=False):
        self.next, self.stop, self.fails = 0, stop, fails
        self.closed = threading.Event()

    def __aiter__(self):
        return self

    async def __anext__(self):
        await trio.lowlevel.checkpoint()
        if self.next == self.stop:
            if self.fails:
                raise KeyError("x")
            raise StopAsyncIteration
        self.next += 1
        return self.next - 1

    async def aclose(self):
        self.closed.set()


def test_iterating_from_outside(bridge):
    numbers = bridge.iterate(Numbers(3))
    assert list(numbers) == [0, 1, 2]
    assert list(numbers) == []


def test_an_iterator_that_fails(bridge):
    numbers = Numbers(2, fails=True)
    seen = []
    with pytest.raises(KeyError):
        seen.extend(bridge.iterate(numbers))
    assert numbers.closed.is_set()


def test_leaving_a_loop_early_closes_the_iterator(bridge):
    numbers = Numbers(100)
    for number in bridge.iterate(numbers):
        if number == 2:
            break
    gc.collect()
    assert numbers.closed.wait(DEADLINE)


def test_closing_by_hand(bridge):
    numbers = Numbers(100)
    iterator = bridge.iterate(numbers)
    assert next(iterator) == 0
    iterator.close()
    assert numbers.closed.is_set()
    assert list(iterator) == []
    iterator.close()


def test_ctrl_c_in_a_loop_closes_the_iterator(bridge):
    begun = threading.Event()

    class Stuck(Numbers):
        async def __anext__(self):
            begun.set()
            await trio.sleep_forever()

    stuck = Stuck(1)
    thread = _interrupt_once(begun)
    with pytest.raises(KeyboardInterrupt):
        next(bridge.iterate(stuck))
    assert stuck.closed.wait(DEADLINE)
    thread.join()


def test_stopping_twice_does_nothing(bridge):
    bridge.stop()
    bridge.stop()


def test_there_is_one_portal_a_process():
    assert portal.shared() is portal.shared()


AT_EXIT = """
import threading
from hivemind_p2p import portal

async def answer():
    return 42

def close():
    # The portal still works while what uses it is closed.
    print("closed", portal.shared().call(answer), flush=True)

portal.close_at_exit(close)
portal.close_at_exit(lambda: print("never", flush=True))()
print(portal.shared().call(answer), flush=True)
"""


def test_an_interpreter_that_ends_closes_what_is_open():
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT], capture_output=True, text=True, timeout=30, check=True, env=_environment()
    )
    assert done.stdout.split("\n") == ["42", "closed 42", ""]
    assert done.stderr == ""


def _environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
