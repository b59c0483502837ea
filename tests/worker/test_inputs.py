"""Files from the swarm in real children: read by tasks that name them, by no others, and let go of in time."""

import itertools
import os
import pickle
import subprocess
from dataclasses import replace

import pytest
import trio

from hivemind_p2p.tasks.library.function import NAME, pack
from hivemind_p2p.tasks.reading import decode
from hivemind_p2p.tasks.references import Reference, collecting
from hivemind_p2p.types import Input, Link, Needs, PeerId, Work
from hivemind_p2p.worker import packets, sandbox
from hivemind_p2p.worker.executor import ChildExecutor

GIB = 1 << 30


def bubblewrap_works() -> bool:
    wall = sandbox.walls("bubblewrap", sandbox.this_machine())
    probe = [wall[-1].program, "--unshare-user", "--ro-bind", "/", "/", "true"] if wall else ["false"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.fixture(params=["none", "bubblewrap"])
async def executor(request, tmp_path):
    if request.param == "bubblewrap" and not bubblewrap_works():
        pytest.skip("bubblewrap is not installed or not allowed here")
    async with ChildExecutor(tmp_path / "peer" / "work", slots=1, memory_bytes=GIB, sandbox=request.param) as opened:
        yield opened


class Swarm:
    """Values in files, as `hive.put` leaves them and a worker's swarm finds them."""

    def __init__(self, folder):
        self.folder, self.count = folder, itertools.count()

    def put(self, value):
        path = self.folder / f"value-{next(self.count)}"
        path.write_bytes(pickle.dumps(value))
        link = Link(f"magnet:?xt=urn:btmh:1220{next(self.count):064x}")
        return Reference(None, link, path.stat().st_size), Input(link, path.stat().st_size, str(path))


@pytest.fixture
def swarm(tmp_path):
    return Swarm(tmp_path)


def work(function, *args, inputs=(), caller="alice"):
    needs = Needs(memory="128MiB", seconds=20)
    return Work("t", PeerId(caller), NAME, pack(function, args), needs, inputs=tuple(inputs))


async def value(executor, *args, **options):
    outcome = await executor.run(work(*args, **options))
    assert outcome.error_code == "", (outcome.error_message, outcome.remote_traceback)
    return decode(outcome.payload)


async def test_a_task_gets_the_value_however_often_it_is_named(executor, swarm):
    reference, file = swarm.put({"weights": b"x" * 1_000_000})
    lengths = await value(
        executor, lambda one, two: (len(one[0]["weights"]), one[0] is two), [reference], reference, inputs=[file]
    )
    assert lengths == (1_000_000, True)


async def test_tasks_in_a_row_read_the_same_file(executor, swarm):
    reference, file = swarm.put(list(range(1000)))
    for _ in range(3):
        assert await value(executor, sum, reference, inputs=[file]) == 499_500
    assert executor.statistics().started <= 2


async def test_many_at_once_and_more_than_a_child_keeps_open(executor, swarm):
    pairs = [swarm.put(number) for number in range(packets.INPUTS + 10)]
    found = {}

    async def one(place):
        reference, file = pairs[place % len(pairs)]
        found[place] = await value(executor, lambda number: number, reference, inputs=[file])

    async with trio.open_nursery() as nursery:
        for place in range(2 * len(pairs)):
            nursery.start_soon(one, place)
    assert found == {place: place % len(pairs) for place in range(2 * len(pairs))}


async def test_what_was_not_handed_over_is_not_there(executor, swarm):
    reference, file = swarm.put("secret")
    assert await value(executor, str, reference, inputs=[file]) == "secret"
    outcome = await executor.run(work(str, reference, caller="bob"))
    assert outcome.error_code == "task_failed"
    assert "is not here" in outcome.error_message


async def test_a_task_cannot_change_what_it_reads(executor, swarm):
    _, file = swarm.put("as it was")

    def overwrite():
        refused = []
        for number in range(3, 64):
            try:
                os.pwrite(number, b"x", 0)
            except OSError:
                refused.append(number)
        return len(refused)

    await value(executor, overwrite, inputs=[file])
    assert pickle.loads(await trio.Path(file.path).read_bytes()) == "as it was"


async def test_a_file_that_went_meanwhile_fails_its_task_alone(executor, swarm):
    reference, file = swarm.put("gone")
    outcome = await executor.run(work(str, reference, inputs=[replace(file, path=file.path + "-gone")]))
    assert outcome.error_code == "task_failed"
    assert await value(executor, abs, -1) == 1


def test_only_what_lies_in_the_swarm_is_collected(swarm):
    reference, file = swarm.put(1)
    with collecting() as found:
        pack(len, ([reference, Reference(pickle.dumps(2), None, 5)],))
    assert found == {file.link: file.length}
    with collecting() as none:
        pack(len, ([],))
    assert none == {}
