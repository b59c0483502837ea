"""The thread that computes: steps, calls between them, and engines that fail."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import trio

from hivemind_p2p.errors import BusyError
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding.choosing import Chooser
from hivemind_p2p.sharding.chunks import Chunk, Output
from hivemind_p2p.sharding.computation import Computation, Made
from hivemind_p2p.sharding.engine_thread import EngineThread
from hivemind_p2p.sharding.intake import Piece
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import LayerSpan
from tests.sharding import ringside
from tests.sharding.test_requests import request

WHOLE = LayerSpan(0, ringside.LAYERS)


class Member:
    """A generation of a test, and what was made for it."""

    def __init__(self, thread: EngineThread, engine: ringside.ToyEngine, name: str) -> None:
        self.thread = thread
        self.made: list[Made] = []
        self.news = trio.Event()
        asked = request(index=0, stages=1, mode=pb.TOKENS, drafts=0, ends=frozenset())
        self.computation = Computation(
            engine, name, asked, chooser=Chooser(SamplingOptions()), drafter=None, deliver=self._take
        )

    def _take(self, made: Made) -> None:
        self.made.append(made)
        self.news.set()

    async def open(self) -> Member:
        await self.thread.call(self.computation.engine.open, self.computation.key, 100)
        self.thread.join(self.computation, "payer", 1)
        return self

    def add(self, position: int, *tokens: int) -> None:
        self.thread.add(self.computation, Piece(position, len(tokens), last=True, tokens=tokens))

    async def next(self) -> Made:
        with trio.fail_after(5):
            await self.news.wait()
        self.news = trio.Event()
        return self.made.pop(0)


@pytest.fixture
async def thread():
    made = EngineThread("a test's")
    made.start()
    yield made
    made.stop()


async def test_a_step_of_two_generations(thread: EngineThread) -> None:
    engine = ringside.ToyEngine(WHOLE)
    members = [await Member(thread, engine, name).open() for name in "ab"]
    engine.gate.clear()
    for number, member in enumerate(members):
        member.add(0, 5 + number, 7)
    engine.gate.set()
    for number, member in enumerate(members):
        made = await member.next()
        assert list(made.token.tokens) == ringside.expected([5 + number, 7], 1)
    await ringside.until(lambda: thread.figures.rows == 4)
    assert thread.figures.engine_seconds > 0


async def test_only_the_guilty_fail(thread: EngineThread) -> None:
    class Fragile(ringside.ToyEngine):
        def run(self, chunks: Sequence[Chunk]) -> list[Output]:
            if any(13 in chunk.inputs for chunk in chunks):
                raise RuntimeError("thirteen")
            return super().run(chunks)

    engine = Fragile(WHOLE)
    bad, good = [await Member(thread, engine, name).open() for name in ("bad", "good")]
    bad.add(0, 13)
    good.add(0, 5)
    assert "thirteen" in (await bad.next()).error.message
    assert list((await good.next()).token.tokens) == ringside.expected([5], 1)


async def test_an_engine_that_gives_too_little_or_nonsense(thread: EngineThread) -> None:
    class Odd(ringside.ToyEngine):
        answers: Sequence[Output] = ()

        def run(self, chunks: Sequence[Chunk]) -> list[Output]:
            return list(self.answers)

    engine = Odd(WHOLE)
    member = await Member(thread, engine, "a").open()
    for answers in (
        [],
        [Output()],
        [Output(hidden=torch.zeros(1, ringside.WIDTH))],
        [Output(logits=torch.zeros(2, 97))],
        [Output(logits=torch.full((1, 97), torch.nan))],
    ):
        engine.answers = answers
        member.add(0, 5)
        assert (await member.next()).error is not None


async def test_what_is_called_may_fail(thread: EngineThread) -> None:
    def fail() -> None:
        raise BusyError("no room")

    with pytest.raises(BusyError, match="no room"):
        await thread.call(fail)
    assert await thread.call(lambda: 5) == 5
    thread.call_soon(fail)
    assert await thread.call(lambda: 6) == 6


async def test_who_leaves_in_the_middle_of_a_step_is_let_go_behind_it(thread: EngineThread) -> None:
    engine = ringside.ToyEngine(WHOLE)
    member = await Member(thread, engine, "a").open()
    engine.gate.clear()
    member.add(0, 5)
    member.add(1, 6)
    await ringside.until(lambda: thread.busy_for > 0)
    thread.leave("a")
    thread.leave("a")
    member.add(2, 7)
    engine.gate.set()
    await ringside.until(lambda: not engine.caches)
    assert thread.generations == 0
    assert len(engine.steps) == 1


async def test_parts_of_one_engine_share_its_thread(thread: EngineThread) -> None:
    engines = [ringside.ToyEngine(WHOLE), ringside.ToyEngine(WHOLE)]
    members = [await Member(thread, engine, f"of {number}").open() for number, engine in enumerate(engines)]
    for _ in range(3):
        for member in members:
            member.add(0, 5)
            await member.next()
    assert [len(engine.steps) for engine in engines] == [3, 3]


async def test_a_thread_that_was_stopped_takes_no_calls() -> None:
    made = EngineThread("a test's")
    made.start()
    made.stop()
    with pytest.raises(BusyError):
        await made.call(lambda: None)
