"""What can be asked of a generation, over peers, is what the whole model does in one process."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import trio

from hivemind_p2p.errors import ConfigurationError, GenerationError, MissingLayersError
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import options
from hivemind_p2p.sharding.remote import RemoteModel
from hivemind_p2p.sharding.results import ScoredText
from hivemind_p2p.sharding.sampling import SamplingOptions
from tests.sharding import fakes, ringside, tiny

PROMPT = [5, 40, 17, 80, 3, 9, 33, 61, 7, 22, 91, 14]
OTHER = [12, 8, 70]
TEXT = "def main("


@asynccontextmanager
async def loaded(tmp_path: Path, **hive: Any) -> AsyncIterator[tuple[fakes.Hive, RemoteModel]]:
    """A hive in which a tiny Llama has hosts."""
    tiny.save("llama", tmp_path / "llama")
    async with fakes.hive(tmp_path, **hive) as made:
        client = made.caller.client()
        link = await client.publish(tmp_path / "llama")
        yield made, await client.load(link, timeout=30)


def logits_of(ids: list[int]) -> torch.Tensor:
    """What the whole model makes of each token."""
    with torch.inference_mode():
        found: torch.Tensor = tiny.whole("llama")(torch.tensor([ids])).logits[0]
        return found


def letters(ids: list[int]) -> str:
    """What these tokens say."""
    return "".join(tiny.LETTERS[token - 1] for token in ids if token)


async def test_a_penalty_for_repetition_is_the_librarys(tmp_path: Path) -> None:
    given = torch.tensor([PROMPT])
    expected = tiny.whole("llama").generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=16, do_sample=False, repetition_penalty=1.7
    )
    async with loaded(tmp_path) as (_, model):
        found = await model.generate(PROMPT, max_new_tokens=16, repetition_penalty=1.7)
        assert found == expected[0].tolist()
        assert found != await model.generate(PROMPT, max_new_tokens=16)


async def test_what_is_drawn_could_be_drawn(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (_, model):
        ids = await model.generate(PROMPT, max_new_tokens=24, temperature=2.0, min_p=0.3, seed=5)
        assert ids == await model.generate(PROMPT, max_new_tokens=24, temperature=2.0, min_p=0.3, seed=5)
        assert ids != await model.generate(PROMPT, max_new_tokens=24, temperature=2.0, seed=5)
    weights = torch.softmax(logits_of(ids[:-1]) / 2.0, dim=-1)[len(PROMPT) - 1 :]
    for row, token in zip(weights, ids[len(PROMPT) :], strict=True):
        assert row[token] >= 0.3 * row.max() - 1e-6


async def test_log_probabilities_are_the_models_own(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (_, model):
        plain = await model.generate(PROMPT, max_new_tokens=8, temperature=1.0, seed=3)
        found = await model.generate(PROMPT, max_new_tokens=8, temperature=1.0, seed=3, log_probabilities=4)
    assert isinstance(found, ScoredText)
    assert list(found.ids) == plain, "asking for them changes nothing"
    expected = torch.log_softmax(logits_of(plain[:-1])[len(PROMPT) - 1 :].double(), dim=-1)
    assert len(found.tokens) == 8
    for token, row in zip(found.tokens, expected, strict=True):
        assert token.log_probability == pytest.approx(float(row[token.id]), abs=1e-4)
        values, best = row.topk(3)
        assert [each.id for each in token.likeliest] == best.tolist()
        assert [each.log_probability for each in token.likeliest] == pytest.approx(values.tolist(), abs=1e-4)
    assert found.log_probability == pytest.approx(sum(token.log_probability for token in found.tokens))
    assert found.text == "", "a prompt of ids has no text"


async def test_log_probabilities_of_a_text_add_up_to_it(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (_, model):
        plain = await model.generate(TEXT, max_new_tokens=12)
        found = await model.generate(TEXT, max_new_tokens=12, log_probabilities=2)
        assert str(found) == found.text == plain
        assert list(found.ids) == model.described.encode(plain)
        assert all(token.likeliest[0].text == token.text for token in found.tokens)
        stop = plain[len(TEXT) + 4 : len(TEXT) + 6]
        cut = await model.generate(TEXT, max_new_tokens=12, log_probabilities=1, stop=stop)
        assert cut.text == await model.generate(TEXT, max_new_tokens=12, stop=stop)
        assert len(cut.text) < len(plain)
        assert all(not token.likeliest for token in cut.tokens)


async def test_log_probabilities_outlive_a_stage(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (hive, model):
        calm = await model.generate(PROMPT, max_new_tokens=40, log_probabilities=2)
        tokens = []
        async with model.stream(PROMPT, max_new_tokens=40, log_probabilities=2) as pieces:
            async for token in pieces:
                tokens.append(token)
                if len(tokens) == 5:
                    hive.world.kill(hive.host_of(model.link, 4).id)
        assert [token.id for token in tokens] == [token.id for token in calm.tokens]
        for token, expected in zip(tokens, calm.tokens, strict=True):
            assert token.log_probability == pytest.approx(expected.log_probability, abs=1e-4)


async def test_a_host_that_keeps_log_probabilities_to_itself_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(self: Any, chosen: Any, values: Any, token: int) -> None:
        chosen.tokens.append(token)

    monkeypatch.setattr("hivemind_p2p.sharding.choosing.Chooser._note", without)
    async with loaded(tmp_path, hosts=1) as (_, model):
        with pytest.raises(GenerationError, match="without log-probabilities"):
            await model.generate(PROMPT, max_new_tokens=4, log_probabilities=1, wait_for_hosts=0.1)


async def test_stop_tokens_end_the_text(tmp_path: Path) -> None:
    whole = tiny.expected("llama", PROMPT, 12)
    new = whole[len(PROMPT) :]
    last = next(index for index in range(3, 12) if new[index] not in new[:index])
    async with loaded(tmp_path) as (_, model):
        found = await model.generate(PROMPT, max_new_tokens=12, stop_tokens=[new[last], 95])
        assert found == [*PROMPT, *new[: last + 1]]


async def test_a_batch_of_ids(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (_, model):
        found = await model.generate([PROMPT, OTHER], max_new_tokens=9)
        assert found == [tiny.expected("llama", PROMPT, 9), tiny.expected("llama", OTHER, 9)]
        drawn = await model.generate([PROMPT, PROMPT], max_new_tokens=9, temperature=1.5, seed=4)
        assert drawn[0] != drawn[1], "equal prompts differ"
        assert drawn[0] == await model.generate(PROMPT, max_new_tokens=9, temperature=1.5, seed=4)
        assert drawn[1] == await model.generate(PROMPT, max_new_tokens=9, temperature=1.5, seed=5)
        scored = await model.generate(torch.tensor([PROMPT, PROMPT]), max_new_tokens=9, log_probabilities=1)
        assert [list(each.ids) for each in scored] == [found[0], found[0]]


async def test_a_batch_of_texts_comes_row_by_row(tmp_path: Path) -> None:
    prompts = [TEXT, "class", "x = 3 +"]
    async with loaded(tmp_path) as (_, model):
        alone = [await model.generate(prompt, max_new_tokens=7) for prompt in prompts]
        assert await model.generate(prompts, max_new_tokens=7) == alone
        rows = ["", "", ""]
        async with model.stream(prompts, max_new_tokens=7) as pieces:
            async for row, piece in pieces:
                rows[row] += piece
        assert [prompt + row for prompt, row in zip(prompts, rows, strict=True)] == alone


async def test_a_row_that_fails_ends_the_batch(tmp_path: Path) -> None:
    async with (
        loaded(tmp_path, hosts=1) as (hive, model),
        model.stream([PROMPT, OTHER], max_new_tokens=90, wait_for_hosts=0.1) as pieces,
    ):
        assert await anext(pieces)
        hive.world.kill(hive.hosts[0].id)
        with pytest.raises(MissingLayersError, match="layers 0-4"):
            _ = [piece async for piece in pieces]


async def test_guesses_leave_the_text_as_it_is(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (_, model):
        expected = tiny.expected("llama", PROMPT, 40)
        assert await model.generate(PROMPT, max_new_tokens=40, speculate=True) == expected
        assert await model.generate(PROMPT, max_new_tokens=40, draft_model=model.link) == expected
        drawn = {"max_new_tokens": 40, "temperature": 0.8, "seed": 2}
        assert await model.generate(PROMPT, **drawn, speculate=4) == await model.generate(PROMPT, **drawn)


@pytest.mark.parametrize(("encoding", "error"), [("bfloat16", 2**-5), ("int8", 2**-4), ("float32", 1e-5)])
async def test_activations_travel_as_they_were_asked_to(encoding: str, error: float, tmp_path: Path) -> None:
    exact = logits_of(PROMPT)
    async with loaded(tmp_path) as (_, model), model.rows(pb.LOGITS, room=20, activations=encoding) as rows:
        found = torch.from_numpy(await rows.feed(0, PROMPT, rows=len(PROMPT)))
    difference = float((found - exact).norm() / exact.norm())
    assert difference < error
    assert difference > 1e-5 or encoding == "float32", "they did not travel so"


async def test_waiting_for_a_host_that_comes(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """A generation over stages that fit no text of its length waits; once one that does has come, it goes on."""
    async with ringside.ringside(tmp_path, (0, 3), (3, 6)) as ring:
        stages = ring.hive.world.offers
        late = ring.hive.hosts[1].id
        offer = stages.pop(late)
        async with trio.open_nursery() as nursery:

            async def come() -> None:
                await trio.sleep(50)
                stages[late] = offer

            nursery.start_soon(come)
            patience = options.read({"wait_for_hosts": 60.0}).patience(ringside.Patience(wait_for_hosts=1.0))
            assert await ring.write([5, 6], 4, patience=patience) == ringside.expected([5, 6], 4)


async def test_without_waiting_the_error_names_the_layers_at_once(tmp_path: Path) -> None:
    async with loaded(tmp_path, hosts=1) as (hive, model):
        hive.world.kill(hive.hosts[0].id)
        with pytest.raises(MissingLayersError, match=r"layers 0-4 .*within 0 s"):
            await model.generate(PROMPT, max_new_tokens=4, wait_for_hosts=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"stop": [""]},
        {"stop": [3]},
        {"stop_tokens": [-1]},
        {"stop_tokens": ["x"]},
        {"stop_tokens": list(range(65))},
        {"speculate": 17},
        {"speculate": -1},
        {"speculate": "yes"},
        {"activations": "float13"},
        {"wait_for_hosts": -1.0},
        {"wait_for_hosts": math.nan},
        {"log_probabilities": 22},
        {"min_p": 1.5},
        {"repetition_penalty": -1.0},
        {"temperature": "hot"},
        {"colour": "red"},
    ],
)
def test_what_cannot_be_asked_for(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        options.read(wrong)


def test_what_is_asked_for_reaches_who_heeds_it() -> None:
    found = options.read({"stop": "x", "stop_tokens": [4], "draft_model": "magnet:small", "seed": 1, "top_k": None})
    assert found.sampling == SamplingOptions(seed=1)
    assert (found.stop, found.ends) == (("x",), {4})
    assert (found.extras.drafts, found.extras.draft_model) == (16, "magnet:small")
    assert options.read({"speculate": 3}).extras.drafts == 3
    assert options.read({"speculate": False, "draft_model": "magnet:small"}).extras.drafts == 0
    assert options.read({}).sampling.seed != options.read({}).sampling.seed
