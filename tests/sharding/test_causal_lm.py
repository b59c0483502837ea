"""A model over the hive as an object of the transformers library does what a model in one process does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import trio

from hivemind_p2p.errors import ConfigurationError, MissingLayersError, PromptTooLongError
from hivemind_p2p.sharding import fed_texts
from tests.sharding import hosted, tiny

PROMPT = [5, 40, 17, 80, 3, 9, 33, 61, 7, 22, 91, 14]
IDS = torch.tensor([PROMPT])
FAMILY = "llama"


async def blocking(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Calls the library as its users do: in a thread without a loop."""
    return await trio.to_thread.run_sync(lambda: function(*arguments, **options))


def whole(**options: Any) -> Any:
    """What the library writes with the whole model."""
    given = options.pop("input_ids", IDS)
    mask = options.pop("attention_mask", torch.ones_like(given))
    return tiny.whole(FAMILY).generate(
        given, attention_mask=mask, **{"max_new_tokens": 12, "do_sample": False} | options
    )


async def same(tmp_path: Path, make: Callable[[], dict[str, Any]]) -> None:
    """Generates here and there with the same options, which are made twice: some have a memory."""
    async with hosted.hosted(tiny.save(FAMILY, tmp_path / FAMILY)) as hive:
        model = hive.model.to_transformers()
        options = make()
        given = options.pop("input_ids", IDS)
        mask = options.pop("attention_mask", torch.ones_like(given))
        torch.manual_seed(3)
        found = await blocking(
            model.generate,
            given,
            attention_mask=mask,
            **{"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0} | options,
        )
        torch.manual_seed(3)
        assert torch.equal(found, whole(**make()))
        await hive.idle()


class NoEvenTokens(transformers.LogitsProcessor):  # type: ignore[misc]
    """A user's own."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, ::2] = -torch.inf
        return scores


class AtLength(transformers.StoppingCriteria):  # type: ignore[misc]
    """A user's own."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= 17)


PADDED = torch.tensor([PROMPT, [0] * 7 + PROMPT[:5]])
MASK = torch.tensor([[1] * 12, [0] * 7 + [1] * 5])

WAYS: dict[str, Callable[[], dict[str, Any]]] = {
    "greedy": dict,
    "drawn": lambda: {"do_sample": True, "temperature": 1.5, "top_k": 20},
    "beams": lambda: {"num_beams": 4, "num_return_sequences": 3},
    "drawn beams": lambda: {"num_beams": 3, "do_sample": True},
    "several of one prompt": lambda: {"num_return_sequences": 3, "do_sample": True},
    "a processor of one's own": lambda: {"logits_processor": transformers.LogitsProcessorList([NoEvenTokens()])},
    "the library's processors": lambda: {"repetition_penalty": 1.8, "no_repeat_ngram_size": 2, "min_new_tokens": 12},
    "a criterion of one's own": lambda: {"stopping_criteria": transformers.StoppingCriteriaList([AtLength()])},
    "rows of two lengths": lambda: {"input_ids": PADDED, "attention_mask": MASK},
    "beams of two lengths": lambda: {"input_ids": PADDED, "attention_mask": MASK, "num_beams": 3},
    "no cache": lambda: {"use_cache": False},
    "prompt in parts": lambda: {"prefill_chunk_size": 5},
    "lookup": lambda: {"prompt_lookup_num_tokens": 3},
    "an assistant": lambda: {"assistant_model": tiny.whole(FAMILY)},
}


@pytest.mark.parametrize("way", WAYS)
async def test_generate_comes_to_the_same(way: str, tmp_path: Path) -> None:
    await same(tmp_path, WAYS[way])


async def test_a_streamer_gets_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.save(FAMILY, tmp_path / FAMILY)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    async with hosted.hosted(folder) as hive:
        streamer = transformers.TextStreamer(tokenizer)
        found = await blocking(
            hive.model.to_transformers().generate, IDS, max_new_tokens=12, streamer=streamer, pad_token_id=0
        )
    assert capsys.readouterr().out == tokenizer.decode(found[0]) + "\n"
    assert torch.equal(found, whole())


async def test_logits_loss_and_hidden_states(tmp_path: Path) -> None:
    async with hosted.hosted(tiny.save(FAMILY, tmp_path / FAMILY)) as hive:
        model = hive.model.to_transformers()
        found = await blocking(model, PADDED, attention_mask=MASK, labels=IDS.repeat(2, 1), output_hidden_states=True)
        with torch.inference_mode():
            expected = tiny.whole(FAMILY)(
                PADDED, attention_mask=MASK, labels=IDS.repeat(2, 1), output_hidden_states=True
            )
        seen = MASK.bool()
        torch.testing.assert_close(found.logits[seen], expected.logits[seen], atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(
            found.hidden_states[-1][seen], expected.hidden_states[-1][seen], atol=2e-4, rtol=1e-3
        )
        alone = await blocking(model, IDS, labels=IDS)
        torch.testing.assert_close(alone.loss, tiny.whole(FAMILY)(IDS, labels=IDS).loss.detach(), atol=2e-4, rtol=1e-3)
        assert found.past_key_values is None
        await hive.idle()


async def test_hidden_states_while_it_generates(tmp_path: Path) -> None:
    async with hosted.hosted(tiny.save(FAMILY, tmp_path / FAMILY)) as hive:
        options = {"max_new_tokens": 6, "output_hidden_states": True, "return_dict_in_generate": True}
        found = await blocking(hive.model.to_transformers().generate, IDS, **options)
        expected = whole(**options)
        assert torch.equal(found.sequences, expected.sequences)
        for step, whole_step in zip(found.hidden_states, expected.hidden_states, strict=True):
            for layers in (1, 4, 5):
                torch.testing.assert_close(step[layers], whole_step[layers], atol=2e-4, rtol=1e-3)


async def test_some_logits_only(tmp_path: Path) -> None:
    async with hosted.hosted(tiny.save(FAMILY, tmp_path / FAMILY)) as hive:
        model = hive.model.to_transformers()
        every = (await blocking(model, IDS)).logits
        for kept, expected in [(3, every[:, -3:]), (torch.tensor([9, 11]), every[:, [9, 11]])]:
            found = (await blocking(model, IDS, logits_to_keep=kept)).logits
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert (await blocking(model, IDS, return_dict=False))[0].shape == every.shape


async def test_a_cache_goes_on_where_it_was(tmp_path: Path) -> None:
    async with hosted.hosted(tiny.save(FAMILY, tmp_path / FAMILY)) as hive:
        model = hive.model.to_transformers()
        first = await blocking(model, IDS[:, :8], use_cache=True)
        steps = hive.hive.hosts[0].service.statistics().rows
        second = await blocking(model, IDS[:, 8:], past_key_values=first.past_key_values)
        assert hive.hive.hosts[0].service.statistics().rows == steps + 4, "what was computed is not computed again"
        every = (await blocking(model, IDS)).logits
        torch.testing.assert_close(second.logits, every[:, 8:], atol=1e-4, rtol=1e-4)
        first.past_key_values.close()
        await hive.idle()
        third = await blocking(model, IDS[:, :2], past_key_values=first.past_key_values)
        again = (await blocking(model, torch.cat([IDS, IDS[:, :2]], dim=1))).logits
        torch.testing.assert_close(third.logits, again[:, 12:], atol=1e-4, rtol=1e-4)


async def test_a_text_that_outgrows_its_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fed_texts, "SPARE_ROOM", 1)
    async with hosted.hosted(tiny.save(FAMILY, tmp_path / FAMILY)) as hive:
        model = hive.model.to_transformers()
        cache = model.new_cache()
        rows = [
            (await blocking(model, IDS[:, at : at + 1], past_key_values=cache)).logits[0, 0]
            for at in range(len(PROMPT))
        ]
        every = (await blocking(model, IDS)).logits
        torch.testing.assert_close(torch.stack(rows), every[0], atol=1e-4, rtol=1e-4)
        with pytest.raises(PromptTooLongError, match="129 tokens"):
            await blocking(model, torch.ones(1, 129, dtype=torch.int64))


async def test_nothing_is_held_of_a_cache_that_is_gone(tmp_path: Path) -> None:
    async with hosted.hosted(tiny.save(FAMILY, tmp_path / FAMILY)) as hive:
        model = hive.model.to_transformers()
        result = await blocking(model, IDS, use_cache=True)
        assert hive.hive.hosts[0].service.statistics().sessions == 1
        del result
        await hive.idle()


async def test_nothing_is_held_of_a_text_that_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fed_texts, "IDLE_SECONDS", 0.05)
    async with hosted.hosted(tiny.save(FAMILY, tmp_path / FAMILY)) as hive:
        model = hive.model.to_transformers()
        first = await blocking(model, IDS[:, :8], use_cache=True)
        await hive.idle()
        second = await blocking(model, IDS[:, 8:], past_key_values=first.past_key_values)
        every = (await blocking(model, IDS)).logits
        torch.testing.assert_close(second.logits, every[:, 8:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_a_stage_that_dies_changes_nothing(victim: int, tmp_path: Path) -> None:
    folder = tiny.save(FAMILY, tmp_path / FAMILY)
    async with hosted.hosted(folder, (*hosted.UNEVEN, hosted.UNEVEN[victim])) as hive:
        killed: list[int] = []

        class Kills(transformers.LogitsProcessor):  # type: ignore[misc]
            def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
                if input_ids.shape[1] == 16 and not killed:
                    killed.append(1)
                    trio.from_thread.run_sync(kill)
                return scores

        def kill() -> None:
            pair = [hive.hive.hosts[victim], hive.hive.hosts[3]]
            used = next(host for host in pair if host.service and host.service.statistics().sessions)
            hive.hive.world.kill(used.id)

        model = hive.model.to_transformers()
        processors = transformers.LogitsProcessorList([Kills()])
        found = await blocking(
            model.generate, IDS, max_new_tokens=12, num_beams=2, logits_processor=processors, pad_token_id=0
        )
        assert killed
        assert torch.equal(found, whole(num_beams=2))


async def test_nobody_left_names_the_layers(tmp_path: Path) -> None:
    async with hosted.hosted(tiny.save(FAMILY, tmp_path / FAMILY)) as hive:
        model = hive.model.to_transformers(wait_for_hosts=0)
        result = await blocking(model, IDS, use_cache=True)
        hive.hive.world.kill(hive.hive.hosts[1].id)
        with pytest.raises(MissingLayersError, match="layers 1-3"):
            await blocking(model, IDS, past_key_values=result.past_key_values)
        assert result.past_key_values.get_seq_length() == len(PROMPT), "the cache is as it was"


async def test_what_cannot_be_asked(tmp_path: Path) -> None:
    async with hosted.hosted(tiny.save(FAMILY, tmp_path / FAMILY)) as hive:
        model = hive.model.to_transformers()
        wrong: list[dict[str, Any]] = [
            {"inputs_embeds": torch.zeros(1, 2, 32)},
            {"input_ids": IDS, "past_key_values": transformers.DynamicCache()},
            {"input_ids": IDS, "attention_mask": torch.ones(1, 1, 12, 12)},
        ]
        for options in wrong:
            with pytest.raises(ConfigurationError):
                await blocking(model, **options)
        with pytest.raises(ConfigurationError):
            hive.model.to_transformers(activations="float13")
        cache = model.new_cache()
        cache.extend([[1]])
        with pytest.raises(ValueError, match="1 rows"):
            cache.extend([[1], [2]])
        with pytest.raises(ValueError, match="negative"):
            cache.crop(1)
