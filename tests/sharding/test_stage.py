"""Stages in uneven spans write what the whole model writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hivemind_p2p.errors import CheckpointError, UnsupportedModelError
from hivemind_p2p.sharding import checkpoint as checkpoints
from hivemind_p2p.sharding.stage import Stage, from_wire, to_wire
from hivemind_p2p.types import LayerSpan
from tests.sharding import tiny

UNEVEN = (LayerSpan(0, 1), LayerSpan(1, 4), LayerSpan(4, 5))
PROMPT = [5, 40, 17, 80, 3, 9, 33, 61, 7, 22, 91, 14]


def load(folder: Path, spans: tuple[LayerSpan, ...], dtype: str = "float32") -> list[Stage]:
    opened = checkpoints.open_folder(folder)
    return [Stage.load(folder, opened, span, dtype=dtype) for span in spans]


def write(stages: list[Stage], prompt: list[int], new: int) -> tuple[list[int], list[Any]]:
    import torch

    caches = [stage.new_cache() for stage in stages]
    written, step, seen = list(prompt), list(prompt), []
    for _ in range(new):
        passing = torch.tensor(step)
        for stage, cache in zip(stages, caches, strict=True):
            passing = stage.run(passing, cache)
        seen.append(passing)
        step = [int(passing.argmax())]
        written += step
    return written, seen


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_uneven_stages_write_what_the_whole_model_writes(family: str, tmp_path: Path) -> None:
    import torch

    stages = load(tiny.save(family, tmp_path), UNEVEN)
    ids, logits = write(stages, PROMPT, 16)
    assert ids == tiny.expected(family, PROMPT, 16)
    assert len(set(ids[len(PROMPT) :])) > 4, "a text that repeats itself would hide wrong layers"
    with torch.inference_mode():
        reference = tiny.whole(family)(torch.tensor([ids[:-1]])).logits[0, len(PROMPT) - 1 :]
    torch.testing.assert_close(torch.stack(logits), reference, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_stage_is_the_whole_model(family: str, tmp_path: Path) -> None:
    stages = load(tiny.save(family, tmp_path), (LayerSpan(0, 5),))
    assert write(stages, PROMPT, 8)[0] == tiny.expected(family, PROMPT, 8)


def test_shards_with_an_index_are_one_checkpoint(tmp_path: Path) -> None:
    stages = load(tiny.save("llama", tmp_path, max_shard_size="20KB"), UNEVEN)
    assert (tmp_path / checkpoints.INDEX).exists()
    assert write(stages, PROMPT, 8)[0] == tiny.expected("llama", PROMPT, 8)


def test_a_stage_needs_no_bytes_of_other_layers(tmp_path: Path) -> None:
    """Everything outside the ranges of the span is overwritten, and nothing changes."""
    import torch

    tiny.save("qwen2", tmp_path)
    opened = checkpoints.open_folder(tmp_path)
    clean = Stage.load(tmp_path, opened, UNEVEN[1])
    weights = tmp_path / checkpoints.SINGLE
    content = bytearray(b"\xff" * weights.stat().st_size)
    original = weights.read_bytes()
    for part in opened.ranges(UNEVEN[1])[checkpoints.SINGLE]:
        content[part.start : part.stop] = original[part.start : part.stop]
    weights.write_bytes(content)
    holed = Stage.load(tmp_path, opened, UNEVEN[1])
    hidden = torch.linspace(-1, 1, 96).view(3, 32)
    assert torch.equal(clean.run(hidden, clean.new_cache()), holed.run(hidden, holed.new_cache()))


def test_bfloat16_stages_pass_bfloat16(tmp_path: Path) -> None:
    import torch

    first, middle, _ = load(tiny.save("llama", tmp_path), UNEVEN, dtype="bfloat16")
    hidden = first.run(torch.tensor(PROMPT), first.new_cache())
    assert hidden.dtype == torch.bfloat16
    back = from_wire(to_wire(hidden), len(PROMPT), 32, "bfloat16")
    assert torch.equal(back, hidden)
    assert middle.run(back, middle.new_cache()).shape == (len(PROMPT), 32)


def test_the_wire_keeps_every_bit() -> None:
    import torch

    hidden = torch.linspace(-3, 3, 64).view(2, 32)
    assert torch.equal(from_wire(to_wire(hidden), 2, 32, "float32"), hidden)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = tiny.save("llama", tmp_path) / checkpoints.SINGLE
    tensors = load_file(weights)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match=r"layers 1-3 lack tensors: .*up_proj"):
        load(tmp_path, UNEVEN)


def test_a_config_that_lies_about_its_shapes(tmp_path: Path) -> None:
    config = tiny.save("llama", tmp_path) / checkpoints.CONFIG
    config.write_text(config.read_text().replace('"intermediate_size": 48', '"intermediate_size": 64'))
    with pytest.raises((CheckpointError, UnsupportedModelError)):
        load(tmp_path, UNEVEN)


def test_an_unknown_architecture(tmp_path: Path) -> None:
    config = tiny.save("llama", tmp_path) / checkpoints.CONFIG
    config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "hovercraft"'))
    with pytest.raises(UnsupportedModelError, match="hovercraft"):
        load(tmp_path, UNEVEN)


def test_layers_that_know_their_number_cannot_be_cut(tmp_path: Path) -> None:
    config = tiny.save("gpt2", tmp_path) / checkpoints.CONFIG
    text = config.read_text().replace(
        '"scale_attn_by_inverse_layer_idx": false', '"scale_attn_by_inverse_layer_idx": true'
    )
    config.write_text(text)
    with pytest.raises(UnsupportedModelError, match="layer's number"):
        load(tmp_path, UNEVEN)


def test_an_unknown_dtype(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="float13"):
        load(tiny.save("llama", tmp_path), UNEVEN, dtype="float13")
