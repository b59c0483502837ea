"""Vectors of texts over several stages are those of the whole model in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hivemind_p2p.errors import (
    ConfigurationError,
    HivemindError,
    MissingLayersError,
    PromptTooLongError,
    UnsupportedModelError,
)
from hivemind_p2p.proto import sharding_pb2 as pb
from tests.sharding import encoders, hosted, tiny

TEXTS = ["a short text", "x", "another text, which is somewhat longer than the first one is", ""]


def ids(text: str, longest: int = encoders.CONTEXT) -> list[int]:
    """The tokens of a text, cut."""
    letters = [tiny.LETTERS.index(letter) + 1 for letter in text[: longest - 2]]
    return [encoders.CLS, *letters, encoders.SEP]


def mean(family: str, text: str, longest: int = encoders.CONTEXT) -> Any:
    """What the whole model makes of it."""
    return encoders.hidden(family, ids(text, longest)).mean(dim=0).numpy()


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("family", encoders.FAMILIES)
async def test_encoders_in_uneven_stages(family: str, tmp_path: Path) -> None:
    folder = encoders.describe(encoders.save(family, tmp_path / family))
    async with hosted.hosted(folder) as hive:
        found = await hive.model.embed(TEXTS)
        assert found.shape == (4, encoders.WIDTH)
        assert found.dtype == np.float32
        expected = np.stack([unit(mean(family, text)) for text in TEXTS])
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.linalg.norm(found[0] - found[1]) > 0.1, "texts are told apart"
        await hive.idle()


async def test_one_text_is_one_vector(tmp_path: Path) -> None:
    async with hosted.hosted(encoders.save("minilm", tmp_path / "minilm")) as hive:
        found = await hive.model.embed("some text")
        assert found.shape == (encoders.WIDTH,)
        np.testing.assert_allclose(found, mean("minilm", "some text"), atol=1e-5)
        assert (await hive.model.embed([])).shape == (0, 0)
        tokens = await hive.model.embed([ids("some text")])
        np.testing.assert_allclose(tokens[0], found, atol=1e-6)


async def test_many_texts_are_computed_together(tmp_path: Path) -> None:
    many = [f"text number {number}" for number in range(60)]
    async with hosted.hosted(encoders.save("bert", tmp_path / "bert")) as hive:
        found = await hive.model.embed(many)
        for text, vector in zip(many, found, strict=True):
            np.testing.assert_allclose(vector, mean("bert", text), atol=1e-5)
        assert all(host.statistics().generations == 8 for host in hive.hive.living())


async def test_the_folders_settings_are_heeded(tmp_path: Path) -> None:
    folder = encoders.describe(
        encoders.save("minilm", tmp_path / "minilm"), pooling_mode_mean_tokens=True, include_prompt=False
    )
    prompts = {"prompts": {"query": "find "}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20, "do_lower_case": true}')
    async with hosted.hosted(folder) as hive:
        long = await hive.model.embed("Long " * 30)
        np.testing.assert_allclose(long, unit(mean("minilm", "long " * 30, 20)), atol=1e-5)
        asked = await hive.model.embed("me", prompt="query", normalise=False)
        rows = encoders.hidden("minilm", ids("find me")).numpy()
        np.testing.assert_allclose(asked, rows[1 + len("find ") :].mean(axis=0), atol=1e-5)
        with pytest.raises(ConfigurationError, match="query"):
            await hive.model.embed("me", prompt="answer")


async def test_a_decoder_that_pools_its_last_token(tmp_path: Path) -> None:
    import torch

    folder = encoders.describe(tiny.save("qwen2", tmp_path / "qwen2"), pooling_mode_lasttoken=True)
    async with hosted.hosted(folder) as hive:
        found = await hive.model.embed(["first text", "and a second"])
        for text, vector in zip(["first text", "and a second"], found, strict=True):
            given = torch.tensor([hive.remote.described.encode(text)])
            with torch.inference_mode():
                last = tiny.whole("qwen2").model(given).last_hidden_state[0, -1].numpy()
            np.testing.assert_allclose(vector, unit(last), atol=1e-5)


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_a_stage_that_dies_is_replaced(victim: int, tmp_path: Path) -> None:
    folder = encoders.save("minilm", tmp_path / "minilm")
    async with hosted.hosted(folder, (*hosted.UNEVEN, hosted.UNEVEN[victim])) as hive:
        first = await hive.model.embed(TEXTS)
        busy = [host for host in (hive.hive.hosts[victim], hive.hive.hosts[3]) if host.service.statistics().steps]
        hive.hive.world.kill(busy[0].id)
        np.testing.assert_allclose(await hive.model.embed(TEXTS), first, atol=1e-6)


async def test_nobody_left_names_the_layers(tmp_path: Path) -> None:
    async with hosted.hosted(encoders.save("minilm", tmp_path / "minilm")) as hive:
        hive.hive.world.kill(hive.hive.hosts[2].id)
        with pytest.raises(MissingLayersError, match="layers 4"):
            await hive.model.embed(TEXTS, wait_for_hosts=0)


async def test_an_encoder_writes_nothing_and_a_decoder_is_none(tmp_path: Path) -> None:
    async with hosted.hosted(encoders.save("bert", tmp_path / "1" / "bert")) as hive:
        with pytest.raises(UnsupportedModelError, match="bert is an encoder"):
            await hive.model.generate("x")
    async with hosted.hosted(encoders.save("minilm", tmp_path / "2" / "minilm")) as hive:
        # Its config does not tell, so hosts do.
        with pytest.raises(HivemindError, match="is an encoder: it makes vectors"):
            await hive.model.generate("x", wait_for_hosts=0)
        with pytest.raises(HivemindError, match="is an encoder: it makes vectors"):
            async with hive.remote.rows(pb.LOGITS, room=5) as rows:
                await rows.feed(0, [1])
    async with hosted.hosted(tiny.save("llama", tmp_path / "3" / "llama")) as hive:
        with pytest.raises(HivemindError, match="is a decoder: it goes on with texts"):
            async with hive.remote.rows(pb.EMBED, room=5) as rows:
                await rows.feed(0, [1])


async def test_what_cannot_be_embedded(tmp_path: Path) -> None:
    async with hosted.hosted(encoders.save("minilm", tmp_path / "minilm")) as hive:
        with pytest.raises(PromptTooLongError, match="65 tokens"):
            await hive.model.embed([[1] * 65])
        for wrong in ([[]], [[-1]], [[99]]):
            with pytest.raises(ConfigurationError):
                await hive.model.embed(wrong)


async def test_texts_are_paid_by_their_tokens(tmp_path: Path) -> None:
    async with hosted.hosted(encoders.save("minilm", tmp_path / "minilm"), paid=True) as hive:
        await hive.model.embed(TEXTS)
        assert hive.remote.cost == encoders.LAYERS * sum(len(ids(text)) for text in TEXTS)
