"""Spans of every family, computed for many generations at once, make what the whole model makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hivemind_p2p.errors import BusyError, CheckpointError, MissingLayersError, UnsupportedModelError
from hivemind_p2p.sharding import checkpoint as checkpoints
from hivemind_p2p.sharding.cache import MemoryPool
from hivemind_p2p.sharding.chunks import Chunk, Output
from hivemind_p2p.sharding.engine import Engine
from hivemind_p2p.types import LayerSpan, PeerId
from tests.sharding import tiny

UNEVEN = (LayerSpan(0, 1), LayerSpan(1, 4), LayerSpan(4, 5))
PROMPT = [5, 40, 17, 80, 3, 9, 33, 61, 7, 22, 91, 14]
OTHERS = ([9, 9, 2, 71], list(range(30, 59)))
ROOM = 100


def load(folder: Path, spans: Sequence[LayerSpan] = UNEVEN, **options: Any) -> list[Engine]:
    opened = checkpoints.open_folder(folder)
    return [Engine.load(folder, opened, span, **options) for span in spans]


def step(engines: Sequence[Engine], given: dict[str, tuple[int, list[int]]]) -> dict[str, Output]:
    """One step of several generations, from stage to stage: each begins at a position and has so many tokens."""
    passing = {key: torch.tensor(tokens) for key, (_, tokens) in given.items()}
    outputs: dict[str, Output] = {}
    for engine in engines:
        chunks = [
            Chunk(key, position, passing[key], len(tokens) if engine.last else 0)
            for key, (position, tokens) in given.items()
        ]
        outputs = dict(zip(given, engine.run(chunks), strict=True))
        passing = {key: output.hidden for key, output in outputs.items() if output.hidden is not None}
    return outputs


def logits(output: Output) -> torch.Tensor:
    assert output.error is None
    assert output.logits is not None
    return output.logits


def write(engines: Sequence[Engine], prompt: list[int], new: int) -> list[int]:
    """The text that one generation writes, greedily."""
    text, position = list(prompt), 0
    for engine in engines:
        engine.open("one", ROOM)
    for _ in range(new):
        found = logits(step(engines, {"one": (position, text[position:])})["one"])
        position = len(text)
        text.append(int(found[-1].argmax()))
    for engine in engines:
        engine.close("one")
    return text


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_generations_that_join_and_leave_make_what_each_makes_alone(family: str, tmp_path: Path) -> None:
    """Three of different lengths, prompts in chunks, packed with next tokens, over three uneven stages."""
    engines = load(tiny.save(family, tmp_path))
    texts = {"one": list(PROMPT), "two": list(OTHERS[0]), "three": list(OTHERS[1])}
    sizes = {"one": 5, "two": 3, "three": 8}
    joins = {"one": 0, "two": 2, "three": 4}
    done = dict.fromkeys(texts, 0)
    seen: dict[str, list[torch.Tensor]] = {key: [] for key in texts}
    for number in range(16):
        for key, at in joins.items():
            if at == number:
                for engine in engines:
                    assert engine.open(key, ROOM) == 0
        given = {
            key: (done[key], text[done[key] : done[key] + sizes[key]])
            for key, text in texts.items()
            if joins[key] <= number and not (key == "two" and number > 9)
        }
        for key, output in step(engines, given).items():
            done[key] += len(given[key][1])
            seen[key].append(logits(output))
            if done[key] == len(texts[key]):
                texts[key].append(int(seen[key][-1][-1].argmax()))
        if number == 9:
            for engine in engines:
                engine.close("two")
    for key, text in texts.items():
        with torch.inference_mode():
            alone = tiny.whole(family)(torch.tensor([text[: done[key]]])).logits[0]
        torch.testing.assert_close(torch.cat(seen[key]), alone, atol=2e-4, rtol=1e-3)
    assert len(set(texts["one"][len(PROMPT) :])) > 3, "a text that repeats itself would hide wrong layers"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_stage_is_the_whole_model(family: str, tmp_path: Path) -> None:
    engines = load(tiny.save(family, tmp_path), (LayerSpan(0, 5),))
    assert write(engines, PROMPT, 8) == tiny.expected(family, PROMPT, 8)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_parts_of_one_stage_are_stages(family: str, tmp_path: Path) -> None:
    (whole,) = load(tiny.save(family, tmp_path), (LayerSpan(0, 5),))
    parts = [whole.part(span) for span in UNEVEN]
    assert parts[1] is whole.part(UNEVEN[1])
    assert write(parts, PROMPT, 8) == tiny.expected(family, PROMPT, 8)
    with pytest.raises(MissingLayersError):
        parts[1].part(LayerSpan(0, 2))


def test_wrong_guesses_are_cut_off(tmp_path: Path) -> None:
    engines = load(tiny.save("gemma2", tmp_path))
    text = tiny.expected("gemma2", PROMPT, 4)
    for engine in engines:
        engine.open("one", ROOM)
    step(engines, {"one": (0, [*text, 1, 2, 3])})
    assert engines[0].length("one") == len(text) + 3
    found = logits(step(engines, {"one": (len(text) - 1, text[-1:])})["one"])
    assert int(found.argmax()) == tiny.expected("gemma2", PROMPT, 5)[-1]
    assert engines[0].length("one") == len(text)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_fork_goes_on_by_itself(family: str, tmp_path: Path) -> None:
    engines = load(tiny.save(family, tmp_path))
    for engine in engines:
        engine.open("one", ROOM)
    step(engines, {"one": (0, PROMPT)})
    for engine in engines:
        engine.fork("one", "other", ROOM)
    found = step(engines, {"one": (len(PROMPT), [7]), "other": (len(PROMPT), [8])})
    for key, token in (("one", 7), ("other", 8)):
        with torch.inference_mode():
            alone = tiny.whole(family)(torch.tensor([[*PROMPT, token]])).logits[0, -1]
        torch.testing.assert_close(logits(found[key])[0], alone, atol=2e-4, rtol=1e-3)


def test_what_is_wrong_with_one_chunk_concerns_no_other(tmp_path: Path) -> None:
    first, middle, _ = load(tiny.save("llama", tmp_path))
    for engine in (first, middle):
        engine.open("good", ROOM)
        engine.open("bad", 4)
    tokens = torch.tensor(PROMPT)
    wrong = {
        "not among the 96": Chunk("bad", 0, torch.tensor([96])),
        "a token came": Chunk("bad", 0, torch.tensor([-1])),
        "no room|was not reserved": Chunk("bad", 0, tokens),
        "where 0 tokens are known": Chunk("bad", 2, tokens[:1]),
        "shape": Chunk("bad", 0, torch.zeros(2, 2, dtype=torch.int64)),
        "is not open": Chunk("nobody", 0, tokens),
    }
    for reason, chunk in wrong.items():
        bad, good = first.run([chunk, Chunk("good", 0, tokens)])
        assert bad.error is not None
        assert any(part in bad.error for part in reason.split("|"))
        assert good.hidden is not None
    hidden = good.hidden
    for value in (float("nan"), float("inf")):
        broken = hidden[:2].clone()
        broken[1, 5] = value
        bad, good = middle.run([Chunk("bad", 0, broken), Chunk("good", 0, hidden)])
        assert "no numbers" in str(bad.error)
        assert good.hidden is not None
    huge = torch.full((2, 32), 3e38)
    bad, good = middle.run([Chunk("bad", 0, huge), Chunk("good", 0, hidden)])
    assert "no numbers" in str(bad.error)
    assert good.error is None
    assert middle.length("bad") == 0


def test_a_cache_takes_no_more_than_was_reserved(tmp_path: Path) -> None:
    folder = tiny.save("llama", tmp_path)
    (engine,) = load(folder, (LayerSpan(1, 4),))
    each = engine.cache_bytes_per_token
    assert each == 3 * 2 * 2 * 8 * 4, "layers, keys and values, key heads, width, bytes"
    pool = MemoryPool(100 * each, PeerId("me"))
    (engine,) = load(folder, (LayerSpan(1, 4),), pool=pool)
    engine.open("a", 70)
    with pytest.raises(BusyError, match="31 tokens"):
        engine.open("b", 31)
    engine.open("b", 30)
    assert pool.used == pool.capacity
    engine.close("a")
    engine.close("b")
    assert pool.used == 0


def test_shards_with_an_index_are_one_checkpoint(tmp_path: Path) -> None:
    engines = load(tiny.save("llama", tmp_path, max_shard_size="20KB"))
    assert (tmp_path / checkpoints.INDEX).exists()
    assert write(engines, PROMPT, 8) == tiny.expected("llama", PROMPT, 8)


def test_a_stage_needs_no_bytes_of_other_layers(tmp_path: Path) -> None:
    """Everything outside the ranges of the span is overwritten, and nothing changes."""
    tiny.save("qwen2", tmp_path)
    opened = checkpoints.open_folder(tmp_path)
    clean = Engine.load(tmp_path, opened, UNEVEN[1])
    weights = tmp_path / checkpoints.SINGLE
    content = bytearray(b"\xff" * weights.stat().st_size)
    original = weights.read_bytes()
    for part in opened.ranges(UNEVEN[1])[checkpoints.SINGLE]:
        content[part.start : part.stop] = original[part.start : part.stop]
    weights.write_bytes(content)
    holed = Engine.load(tmp_path, opened, UNEVEN[1])
    hidden = torch.linspace(-1, 1, 96).view(3, 32)
    made = []
    for engine in (clean, holed):
        engine.open("one", ROOM)
        made.append(engine.run([Chunk("one", 0, hidden)])[0].hidden)
    assert made[0] is not None
    assert made[1] is not None
    assert torch.equal(*made)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_as_many_bits(dtype: str, tmp_path: Path) -> None:
    engines = load(tiny.save("llama", tmp_path), dtype=dtype)
    for engine in engines:
        engine.open("one", ROOM)
    (hidden,) = (output.hidden for output in engines[0].run([Chunk("one", 0, torch.tensor(PROMPT))]))
    assert hidden is not None
    assert hidden.dtype == getattr(torch, dtype)
    found = logits(step(engines, {"one": (0, PROMPT)})["one"])
    with torch.inference_mode():
        exact = tiny.whole("llama")(torch.tensor([PROMPT])).logits[0]
    assert found.dtype == torch.float32
    assert float((found - exact).norm() / exact.norm()) < 0.1


def test_weights_of_one_byte(tmp_path: Path) -> None:
    engines = load(tiny.save("llama", tmp_path), quantise="int8")
    for engine in engines:
        engine.open("one", ROOM)
    found = logits(step(engines, {"one": (0, PROMPT)})["one"])
    with torch.inference_mode():
        exact = tiny.whole("llama")(torch.tensor([PROMPT])).logits[0]
    assert 0 < float((found - exact).norm() / exact.norm()) < 0.1


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = tiny.save("llama", tmp_path) / checkpoints.SINGLE
    tensors = load_file(weights)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match=r"layers 1-3 lack tensors: .*up_proj"):
        load(tmp_path)


def test_a_config_that_lies_about_its_shapes(tmp_path: Path) -> None:
    config = tiny.save("llama", tmp_path) / checkpoints.CONFIG
    config.write_text(config.read_text().replace('"intermediate_size": 48', '"intermediate_size": 64'))
    with pytest.raises((CheckpointError, UnsupportedModelError)):
        load(tmp_path)


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = tiny.save("llama", tmp_path) / checkpoints.SINGLE
    tensors = load_file(weights)
    tensors["model.layers.2.mlp.up_proj.weight"][3, 3] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match="no numbers"):
        load(tmp_path)


def test_an_unknown_architecture(tmp_path: Path) -> None:
    config = tiny.save("llama", tmp_path) / checkpoints.CONFIG
    config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "hovercraft"'))
    with pytest.raises(UnsupportedModelError, match="hovercraft"):
        load(tmp_path)


def test_layers_that_know_their_number_stay_what_they_are(tmp_path: Path) -> None:
    """GPT-2 can scale attention by the layer's number in the whole model."""
    import transformers

    config = tiny.save("gpt2", tmp_path) / checkpoints.CONFIG
    text = config.read_text().replace(
        '"scale_attn_by_inverse_layer_idx": false', '"scale_attn_by_inverse_layer_idx": true'
    )
    config.write_text(text)
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    engines = load(tmp_path)
    for engine in engines:
        engine.open("one", ROOM)
    found = logits(step(engines, {"one": (0, PROMPT)})["one"])
    with torch.inference_mode():
        torch.testing.assert_close(found, whole(torch.tensor([PROMPT])).logits[0], atol=2e-4, rtol=1e-3)


def test_an_unknown_dtype(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="float13"):
        load(tiny.save("llama", tmp_path), dtype="float13")


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="not on tpu"):
        load(tiny.save("llama", tmp_path), device="tpu")


@pytest.mark.skipif(
    not (torch.cuda.is_available() or torch.backends.mps.is_available()), reason="this machine has neither CUDA nor MPS"
)
def test_a_graphics_processor_makes_what_the_processor_makes(tmp_path: Path) -> None:
    engines = load(tiny.save("llama", tmp_path), device="auto", dtype="auto")
    assert engines[0].device in ("cuda", "mps")
    assert engines[0].dtype == "bfloat16"
    for engine in engines:
        engine.open("one", ROOM)
    found = logits(step(engines, {"one": (0, PROMPT)})["one"])
    with torch.inference_mode():
        exact = tiny.whole("llama")(torch.tensor([PROMPT])).logits[0]
    assert float((found - exact).norm() / exact.norm()) < 0.1
