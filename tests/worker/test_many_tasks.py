"""Many tasks in the sockets of real children: what was started is known, whatever happens to a child."""

import os
import time
from pathlib import Path

import pytest
import trio

from hivemind_p2p.tasks.library.function import NAME
from hivemind_p2p.tasks.library.packing import pack_parts
from hivemind_p2p.tasks.reading import decode
from hivemind_p2p.types import Needs, PeerId, Work
from hivemind_p2p.worker.executor import ChildExecutor

GIB = 1 << 30


@pytest.fixture
async def executor(tmp_path):
    async with ChildExecutor(tmp_path / "peer" / "work", slots=1, memory_bytes=2 * GIB, sandbox="none") as opened:
        yield opened


class Listener:
    def __init__(self):
        self.outcomes, self.begun, self.printed_so_far = {}, [], []
        self._news = trio.Event()

    def started(self, work):
        self.begun.append(work.task_id)
        self._news.set()

    def printed(self, work, data):
        self.printed_so_far.append((work.task_id, data))
        self._news.set()

    def ended(self, work, outcome):
        assert work.task_id not in self.outcomes
        self.outcomes[work.task_id] = outcome
        self._news.set()

    async def until(self, condition):
        with trio.fail_after(20):
            while not condition():
                self._news = trio.Event()
                await self._news.wait()

    def value(self, name):
        outcome = self.outcomes[name]
        assert not outcome.error_code, outcome.error_message
        return decode(outcome.payload)


def work(name, function, *args, caller="alice", seconds=20.0, memory="256MiB", **more):
    shared, payload = pack_parts(function, args)
    return Work(name, PeerId(caller), NAME, payload, Needs(memory=memory, seconds=seconds), shared, **more)


def note(folder, name):
    with open(f"{folder}/begun", "a") as file:
        file.write(f"{name}\n")
    return name


def note_and(folder, name, action, *args):
    note(folder, name)
    return action(*args)


def begun(folder):
    return Path(folder, "begun").read_text().split()


def submit(executor, listener, works):
    for each in works:
        executor.submit(each, listener)
    executor.go_on()


async def warm_up(executor, listener, count=40):
    """So many short ones that the next lie ready in the child."""
    submit(executor, listener, [work(f"warm{number}", len, "abc") for number in range(count)])
    await listener.until(lambda: len(listener.outcomes) == count)


async def test_many_tasks_end_in_order_with_their_own_values(executor):
    listener = Listener()
    submit(executor, listener, [work(str(number), str, number) for number in range(2000)])
    await listener.until(lambda: len(listener.outcomes) == 2000)
    assert list(listener.outcomes) == [str(number) for number in range(2000)]
    assert all(listener.value(name) == name for name in listener.outcomes)
    assert executor.statistics().started <= 2


async def test_a_child_that_dies_takes_only_what_it_was_at(executor, tmp_path):
    listener = Listener()
    await warm_up(executor, listener)
    works = [work(f"t{number}", note, str(tmp_path), f"t{number}") for number in range(100)]
    works[50] = work("t50", note_and, str(tmp_path), "t50", os._exit, 3)
    submit(executor, listener, works)
    await listener.until(lambda: len(listener.outcomes) == 140)
    assert listener.outcomes["t50"].error_message == "it ended with exit status 3"
    assert all(listener.value(f"t{number}") == f"t{number}" for number in range(100) if number != 50)
    assert sorted(begun(tmp_path)) == sorted(f"t{number}" for number in range(100))


@pytest.mark.parametrize("victim", [0, 30, 99])
async def test_cancelling_one_harms_no_other(executor, tmp_path, victim):
    listener = Listener()
    await warm_up(executor, listener)
    works = [work(f"t{number}", note, str(tmp_path), f"t{number}") for number in range(100)]
    works[victim] = work("victim", note_and, str(tmp_path), "victim", time.sleep, 100)
    submit(executor, listener, works)
    if victim == 0:
        await listener.until(lambda: "victim" in listener.begun)
    executor.cancel(works[victim])
    await listener.until(lambda: len(listener.outcomes) == 139)
    assert "victim" not in listener.outcomes
    assert sorted(name for name in begun(tmp_path) if name != "victim") == sorted(
        f"t{number}" for number in range(100) if number != victim
    )


async def test_those_behind_a_long_one_are_taken_back_and_time_is_up_for_it_alone(executor, tmp_path):
    listener = Listener()
    await warm_up(executor, listener)
    works = [work(f"t{number}", note, str(tmp_path), f"t{number}", seconds=1.0) for number in range(20)]
    works[5] = work("t5", note_and, str(tmp_path), "t5", time.sleep, 100, seconds=1.0)
    submit(executor, listener, works)
    await listener.until(lambda: len(listener.outcomes) == 60)
    assert listener.outcomes["t5"].error_code == "task_timeout"
    assert listener.begun == ["t5"]
    assert sorted(begun(tmp_path)) == sorted(f"t{number}" for number in range(20))


async def test_two_callers_take_turns_in_children_of_their_own(executor):
    listener = Listener()
    alice = [work(f"a{number}", os.getpid) for number in range(500)]
    bob = [work(f"b{number}", os.getpid, caller="bob") for number in range(500)]
    submit(executor, listener, alice + bob)
    await listener.until(lambda: len(listener.outcomes) == 1000)
    pids = [{listener.value(f"{name}{number}") for number in range(500)} for name in "ab"]
    assert not pids[0] & pids[1]


async def test_large_tasks_and_large_shared_parts_travel_in_pieces(executor):
    listener = Listener()
    blob = os.urandom(1 << 20)

    def length(more, blob=blob):
        return len(blob) + len(more)

    works = []
    for number in range(6):
        works.append(work(f"large{number}", length, b"x" * (300_000 * number)))
        works.append(work(f"small{number}", len, "abc"))
    submit(executor, listener, works)
    await listener.until(lambda: len(listener.outcomes) == 12)
    assert [listener.value(f"large{number}") for number in range(6)] == [
        (1 << 20) + 300_000 * number for number in range(6)
    ]
    assert {listener.value(f"small{number}") for number in range(6)} == {3}


async def test_a_child_keeps_no_more_functions_than_it_has_slots(executor):
    listener = Listener()
    works = []
    for number in range(200):

        def give(number=number):
            return number

        works += [work(f"{number} {turn}", give) for turn in range(2)]
    submit(executor, listener, works)
    await listener.until(lambda: len(listener.outcomes) == 400)
    assert all(listener.value(name) == int(name.split()[0]) for name in listener.outcomes)


async def test_output_is_told_while_the_work_runs(executor):
    def talk():
        print("first", flush=True)
        time.sleep(0.2)
        print("second")
        return "value"

    listener = Listener()
    submit(executor, listener, [work("t", talk, stream_output=True)])
    await listener.until(lambda: listener.printed_so_far)
    assert "t" not in listener.outcomes
    await listener.until(lambda: listener.outcomes)
    assert b"".join(data for _, data in listener.printed_so_far) == b"first\nsecond\n"
    assert listener.outcomes["t"].output == "first\nsecond\n"


async def test_usage_of_many_is_measured_together(executor):
    def burn():
        end = time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID) + 0.004
        while time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID) < end:
            pass

    def lie():
        burn()
        time.process_time = lambda: 0.0

    listener = Listener()
    await warm_up(executor, listener)
    submit(executor, listener, [work(str(number), lie if number == 0 else burn) for number in range(50)])
    await listener.until(lambda: len(listener.outcomes) == 90)
    used = sum(listener.outcomes[str(number)].usage.cpu_seconds for number in range(50))
    assert used > 0.5 * 50 * 0.004


async def test_what_is_paused_waits_and_goes_on(executor):
    listener = Listener()
    executor.paused = True
    submit(executor, listener, [work("t", len, "abc")])
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert not listener.outcomes
    executor.paused = False
    await listener.until(lambda: listener.outcomes)
    assert listener.value("t") == 3
