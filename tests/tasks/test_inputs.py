"""What tasks read from the swarm: fetched once for many, checked, given up with the task, refused with the reason."""

from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import NoSourceError, ProtocolError, TaskRefusedError
from hivemind_p2p.proto.task_channel_pb2 import FromCaller
from hivemind_p2p.tasks import columns
from hivemind_p2p.tasks.columns import SubmitReader, SubmitWriter
from hivemind_p2p.tasks.inputs import MOST_BYTES, Inputs
from hivemind_p2p.tasks.spec import TaskSpec
from hivemind_p2p.types import FileEntry, Input, Link, PeerId

LINK, OTHER = Link("magnet:?xt=urn:btmh:1220aa"), Link("magnet:?xt=urn:btmh:1220bb")


class Content:
    """A swarm that takes a second."""

    def __init__(self, folder, length=5, *, files=1, seconds=1.0):
        self.folder, self.fetches, self.seconds, self.missing = folder, [], seconds, False
        self._files = tuple(FileEntry(f"value-{number}", length) for number in range(files))

    async def files(self, link):
        return self._files

    async def fetch(self, link, **_):
        self.fetches.append(link)
        await trio.sleep(self.seconds)
        if self.missing:
            raise NoSourceError("nobody has it")
        path = self.folder / "value-0"
        path.write_bytes(b"12345")
        return path


async def test_many_tasks_that_want_one_thing_share_a_fetch_at_a_time(nursery, autojump_clock, tmp_path):
    content = Content(tmp_path)
    inputs, found = Inputs(content), []

    async def get(link):
        found.append(await inputs.get(Input(link, 5)))

    for link in (LINK, LINK, OTHER):
        nursery.start_soon(get, link)
    await trio.sleep(0.5)
    assert sorted(content.fetches) == sorted([LINK, OTHER])
    await trio.sleep(10)
    assert found == [tmp_path / "value-0"] * 3


@pytest.mark.parametrize(
    ("content", "length"),
    [({}, 6), ({"files": 2}, 5), ({"files": 0}, 5), ({}, MOST_BYTES + 1), ({"seconds": 1e9}, 5)],
)
async def test_what_is_not_what_it_was_said_to_be_is_refused(autojump_clock, tmp_path, content, length):
    with pytest.raises(TaskRefusedError, match="its input"):
        await Inputs(Content(tmp_path, **content)).get(Input(LINK, length))


async def test_a_worker_fetches_and_then_runs(nursery, make_hive, autojump_clock, tmp_path):
    hive = make_hive(nursery)
    worker, content = hive.workers[0], Content(tmp_path)
    worker.service.inputs = Inputs(content)
    assert (await run(hive)).value == "hello"
    assert worker.executor.tasks[0].inputs == (Input(LINK, 5, str(Path(tmp_path, "value-0"))),)
    assert hive.client.statistics() == {"completed": 1}


async def test_a_task_that_is_given_up_while_its_input_comes(nursery, make_hive, autojump_clock, tmp_path):
    hive = make_hive(nursery)
    worker = hive.workers[0]
    worker.service.inputs = Inputs(Content(tmp_path, seconds=20.0))
    with trio.move_on_after(5):
        await run(hive)
    await trio.sleep(60)
    assert worker.executor.tasks == []
    assert worker.service.admission.waiting == 0
    assert (await hive.run("hello")).value == "hello"


async def test_a_worker_that_cannot_fetch_says_so_and_another_runs_it(nursery, make_hive, autojump_clock, tmp_path):
    hive = make_hive(nursery, 2)
    first, second = sorted(hive.workers, key=lambda worker: worker.peer_id)
    missing = Content(tmp_path)
    missing.missing = True
    first.service.inputs, second.service.inputs = Inputs(missing), Inputs(Content(tmp_path))
    result = await run(hive)
    assert (result.value, result.peer) == ("hello", second.peer_id)
    first.service.inputs = second.service.inputs = None
    with pytest.raises(TaskRefusedError, match="fetches nothing"):
        await run(hive)


async def run(hive):
    spec = TaskSpec("t", "function/1", b"hello", inputs=(Input(LINK, 5),))
    return await hive.client.run(spec)


def sent(*tasks):
    message = FromCaller()
    _, parts, _ = SubmitWriter().add(tasks, message)
    return message.submit, memoryview(b"".join(parts))


@given(st.lists(st.lists(st.tuples(st.text(min_size=1, max_size=20), st.integers(0, 1 << 60)), max_size=4), max_size=6))
def test_inputs_arrive_as_they_were_sent(rows):
    specs = [
        TaskSpec(f"t{number}", "function/1", b"x", inputs=tuple(Input(Link(link), length) for link, length in row))
        for number, row in enumerate(rows)
    ]
    _, tasks = SubmitReader(PeerId("caller")).read(*sent(*specs))
    assert [task.inputs for task in tasks] == [spec.inputs for spec in specs]


@pytest.mark.parametrize(
    ("number", "link", "count"),
    [(7, "magnet:", 1), (1, "", 1), (1, "x" * (columns.LONGEST_LINK + 1), 1), (1, "magnet:", columns.MOST_INPUTS + 1)],
)
def test_inputs_out_of_bounds_are_refused(number, link, count):
    submit, payload = sent(TaskSpec("t", "function/1", b"x"))
    for _ in range(count):
        submit.inputs.add(number=number, link=link, bytes=1)
    with pytest.raises(ProtocolError):
        SubmitReader(PeerId("caller")).read(submit, payload)
