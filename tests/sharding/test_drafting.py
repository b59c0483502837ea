"""Who guesses: the text's past over a real ring, and a small model that is loaded on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from hivemind_p2p.errors import BusyError
from hivemind_p2p.sharding.cache import MemoryPool
from hivemind_p2p.sharding.caller import Extras
from hivemind_p2p.sharding.drafting import DraftEngine, Drafting, EngineModel, Guesser
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import LayerSpan, PeerId
from tests.sharding import fakes, ringside, tiny
from tests.sharding.test_requests import request

PROMPT = [5, 40, 17, 3, 88, 61]
CIRCLE = [4, 8, 15, 16, 23, 42] * 6
NEW = 40


def toy(**options: int) -> DraftEngine:
    return DraftEngine(ringside.ToyEngine(LayerSpan(0, ringside.LAYERS), **options))


@pytest.mark.parametrize("temperature", [0.0, 1.1])
async def test_looking_up_changes_nothing_but_the_steps(temperature: float, tmp_path: Path) -> None:
    sampling = SamplingOptions(temperature=temperature, seed=8, top_k=3)
    async with ringside.ringside(tmp_path, (0, 3), (3, 6)) as ring:
        plain = await ring.write(CIRCLE, 100, sampling=sampling)
        before = len(ring.engines[0].steps)
        assert await ring.write(CIRCLE, 100, sampling=sampling, extras=Extras(drafts=8)) == plain
        assert len(ring.engines[0].steps) - before <= 100
        await ring.idle()


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_draft_model_that_is_the_model_is_always_right(temperature: float) -> None:
    options = SamplingOptions(temperature=temperature, seed=4)
    draft = toy()
    model = EngineModel(draft, options, 100, ringside.VOCABULARY)
    text = list(PROMPT)
    written = model.propose(text, NEW)
    for right in (3, 0, 2, 1):
        guess = model.propose(text, 4)
        assert guess == written[len(text) - len(PROMPT) :][:4]
        text += written[len(text) - len(PROMPT) :][: right + 1]
    rows = [count for step in draft.engine.steps for _, count in step]  # type: ignore[attr-defined]
    assert max(rows[1:]) <= 5, "only what is new is computed"


def test_a_guess_that_was_wrong_is_taken_back() -> None:
    model = EngineModel(toy(), SamplingOptions(), 100, ringside.VOCABULARY)
    model.propose(PROMPT, 6)
    other = [*PROMPT, 96, 95]
    assert model.propose(other, 5) == EngineModel(toy(), SamplingOptions(), 100, ringside.VOCABULARY).propose(other, 5)


def test_guesses_end_where_the_room_or_the_vocabulary_ends() -> None:
    assert len(EngineModel(toy(), SamplingOptions(), 8, 97).propose(PROMPT, 6)) == 2
    assert EngineModel(toy(), SamplingOptions(), 50, 60).propose(PROMPT, 6) == [], "its prompt is beyond"
    assert max(EngineModel(toy(), SamplingOptions(temperature=9.0), 50, 90).propose(PROMPT, 30)) < 90


def test_closing_gives_the_cache_back() -> None:
    draft = toy(room=100)
    model = EngineModel(draft, SamplingOptions(), 80, 97)
    with pytest.raises(BusyError):
        EngineModel(draft, SamplingOptions(), 80, 97)
    model.close()
    model.close()
    assert draft.users == 0
    assert not draft.engine.caches  # type: ignore[attr-defined]


def test_a_draft_model_that_breaks_is_left_out() -> None:
    draft = toy()
    model = EngineModel(draft, SamplingOptions(), 80, 97)
    draft.engine.poisoned = True  # type: ignore[attr-defined]
    guesser = Guesser(request(text=PROMPT), lambda: model, lambda: 0.0)
    assert list(guesser.draft(4)) == []
    assert draft.users == 0
    guesser.extend([3])
    assert list(guesser.draft(4)) == []


async def _loaded(content: fakes.FakeContent, pool: MemoryPool, folder: Path) -> Drafting:
    loaded: list[LayerSpan] = []

    def load(_: Path, __: object, span: LayerSpan) -> ringside.ToyEngine:
        loaded.append(span)
        return ringside.ToyEngine(LayerSpan(0, ringside.LAYERS))

    link = await content.share(folder)
    drafting = Drafting(content, pool, load)
    wish = request(text=PROMPT, draft_model=link, room=100, sampling=SamplingOptions())
    async with trio.open_nursery() as nursery:
        first = drafting.make(wish, 97, nursery)
        assert list(first.draft(4)) == [], "nobody waits for it"
    assert loaded in ([LayerSpan(0, tiny.LAYERS)], [])
    if loaded:
        assert len(first.draft(4)) > 0, "from now on it helps"
        first.close()
    return drafting


async def test_a_draft_model_is_loaded_while_the_text_is_written(tmp_path: Path) -> None:
    folder = tiny.save("llama", tmp_path / "llama")
    pool = MemoryPool(2**24, PeerId("me"))
    drafting = await _loaded(fakes.FakeContent(fakes.World(), tmp_path / "there"), pool, folder)
    assert 0 < pool.used < 2**20
    assert drafting.make(request(draft_model="", text=CIRCLE), 97, None).draft(6)


async def test_one_that_is_too_large_is_not_loaded(tmp_path: Path) -> None:
    folder = tiny.save("llama", tmp_path / "llama")
    pool = MemoryPool(2**17, PeerId("me"))
    await _loaded(fakes.FakeContent(fakes.World(), tmp_path / "there"), pool, folder)
    assert pool.used == 0


async def test_a_link_that_nobody_knows_costs_nothing(tmp_path: Path) -> None:
    content = fakes.FakeContent(fakes.World(), tmp_path)
    drafting = Drafting(content, MemoryPool(2**20, PeerId("me")), lambda *_: toy().engine)
    async with trio.open_nursery() as nursery:
        drafting.make(request(draft_model="magnet:nobody", text=CIRCLE), 97, nursery)
    async with trio.open_nursery() as nursery:
        assert drafting.make(request(draft_model="magnet:nobody", text=CIRCLE), 97, nursery).draft(6)
        assert not nursery.child_tasks, "not asked for again at once"
