"""Checkpoints are read from headers alone, and nonsense is refused with its name."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hivemind_p2p.errors import CheckpointError
from hivemind_p2p.sharding import checkpoint as checkpoints
from hivemind_p2p.sharding.headers import MAX_HEADER_BYTES, header_stop, parse_header
from hivemind_p2p.types import ByteRange, FileEntry, LayerSpan
from tests.sharding import tiny

ALL = LayerSpan(0, 5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: tiny.save(family, tmp_path_factory.mktemp(family)) for family in ("llama", "gpt2")}


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folders["llama"], tmp_path / "llama"))


def header(content: Any, data: int = 0) -> bytes:
    body = json.dumps(content).encode()
    return len(body).to_bytes(8, "little") + body + bytes(data)


def names(folder: Path, start: int, stop: int) -> set[str]:
    return set(checkpoints.open_folder(folder).names(LayerSpan(start, stop)))


def test_the_first_stage_has_the_embedding_and_the_last_norm_and_head(folders: dict[str, Path]) -> None:
    first, middle, last = (names(folders["llama"], *span) for span in [(0, 1), (1, 4), (4, 5)])
    assert "model.embed_tokens.weight" in first
    assert {name for name in first if ".layers." not in name} == {"model.embed_tokens.weight"}
    assert all(".layers.1." in name or ".layers.2." in name or ".layers.3." in name for name in middle)
    assert {name for name in last if ".layers." not in name} == {"lm_head.weight", "model.norm.weight"}
    assert first | middle | last == names(folders["llama"], 0, 5)


def test_a_tied_embedding_goes_to_both_ends(folders: dict[str, Path]) -> None:
    last = names(folders["gpt2"], 4, 5)
    assert {name for name in last if ".h." not in name} == {
        "transformer.wte.weight",
        "transformer.ln_f.weight",
        "transformer.ln_f.bias",
    }
    assert "transformer.wpe.weight" in names(folders["gpt2"], 0, 2)


def test_ranges_hold_every_tensor_of_the_span_and_little_else(folders: dict[str, Path]) -> None:
    opened = checkpoints.open_folder(folders["llama"])
    whole = (folders["llama"] / checkpoints.SINGLE).stat().st_size
    assert opened.ranges(ALL) == {checkpoints.SINGLE: (ByteRange(0, whole),)}
    span = LayerSpan(1, 2)
    parts = opened.ranges(span)[checkpoints.SINGLE]
    for name in opened.names(span):
        where = opened.tensors[name].entry.where
        assert any(part.start <= where.start and where.stop <= part.stop for part in parts)
    wanted = sum(part.stop - part.start for part in parts)
    assert wanted == opened.weight_bytes(span) + opened.headers[checkpoints.SINGLE]


@pytest.mark.parametrize("span", [LayerSpan(0, 6), LayerSpan(2, 2), LayerSpan(-1, 2)])
def test_a_span_outside_the_model(span: LayerSpan, folders: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="has no layers"):
        checkpoints.open_folder(folders["llama"]).names(span)


@pytest.mark.parametrize("name", [checkpoints.CONFIG, checkpoints.SINGLE, checkpoints.TOKENIZER])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        checkpoints.open_folder(folder)


def test_no_folder() -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        checkpoints.open_folder(Path("/nowhere"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_hidden_layers", 7, r"lacks the tensors of layers \[5, 6\]"),
        ("num_hidden_layers", 3, "there are tensors of layer 4"),
        ("num_hidden_layers", 10**9, "no number of layers"),
        ("num_hidden_layers", True, "no number of layers"),
        ("num_hidden_layers", None, "no number of layers"),
    ],
)
def test_a_config_that_lies(key: str, value: object, message: str, folder: Path) -> None:
    config = json.loads((folder / checkpoints.CONFIG).read_text())
    (folder / checkpoints.CONFIG).write_text(json.dumps(config | {key: value}))
    with pytest.raises(CheckpointError, match=message):
        checkpoints.open_folder(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_config_that_is_no_object(content: str, folder: Path) -> None:
    (folder / checkpoints.CONFIG).write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        checkpoints.open_folder(folder)


def test_a_truncated_weights_file(folder: Path) -> None:
    weights = folder / checkpoints.SINGLE
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="does not lie inside its file"):
        checkpoints.open_folder(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "gone.safetensors"}}, "gone.safetensors"),
        ({"weight_map": {"a": 3}}, "weight_map"),
        ({}, "weight_map"),
    ],
)
def test_an_index_that_lies(index: dict[str, Any], message: str, folder: Path) -> None:
    (folder / checkpoints.INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        checkpoints.open_folder(folder)


def test_an_index_cannot_leave_the_folder(folder: Path) -> None:
    (folder / checkpoints.INDEX).write_text(json.dumps({"weight_map": {"a": "../secret"}}))
    files = [FileEntry(checkpoints.INDEX, 10), FileEntry("../secret", 10)]
    with pytest.raises(CheckpointError, match="outside"):
        checkpoints.weight_files(folder, files)


def test_everybody_gets_the_small_files_whole() -> None:
    small = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "merges.txt"]
    large = ["model-00001-of-00002.safetensors", "pytorch_model.bin", "README.md", "training_args.json"]
    found = checkpoints.small_files([FileEntry(name, 7) for name in small + large])
    assert found == {name: (ByteRange(0, 7),) for name in small}


def test_an_absurd_small_file() -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        checkpoints.small_files([FileEntry("config.json", 1), FileEntry("tokenizer.json", 2**40)])


@given(st.lists(st.builds(ByteRange, st.integers(0, 40), st.integers(0, 40))))
def test_merged_ranges_hold_the_same_bytes(parts: list[ByteRange]) -> None:
    merged = checkpoints.merge(parts)
    assert {byte for part in merged for byte in range(part.start, part.stop)} == {
        byte for part in parts for byte in range(part.start, part.stop)
    }
    assert all(first.stop < second.start for first, second in pairwise(merged))


def test_a_header() -> None:
    tensor = {"dtype": "BF16", "shape": [2, 3], "data_offsets": [4, 16]}
    raw = header({"__metadata__": {"format": "pt"}, "a": tensor}, 16)
    (entry,) = parse_header(raw, len(raw)).values()
    stop = header_stop(raw, len(raw))
    assert entry.where == ByteRange(stop + 4, stop + 16)
    assert entry.shape == (2, 3)


@pytest.mark.parametrize(
    "tensor",
    [
        3,
        {},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 5]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [14, 18]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]},
        {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
    ],
)
def test_a_malformed_entry(tensor: object) -> None:
    raw = header({"a": tensor}, 16)
    with pytest.raises(CheckpointError):
        parse_header(raw, len(raw))


def test_a_header_that_is_too_long_is_refused_before_it_is_read() -> None:
    start = (MAX_HEADER_BYTES + 1).to_bytes(8, "little")
    with pytest.raises(CheckpointError, match="at most"):
        header_stop(start, 2**40)


@given(st.binary(max_size=200), st.integers(0, 300))
@example(b"\xff" * 8, 300)
def test_any_bytes_are_a_header_or_a_checkpoint_error(raw: bytes, length: int) -> None:
    with suppress(CheckpointError):
        assert all(entry.where.stop <= length for entry in parse_header(raw, length).values())


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_entry = st.fixed_dictionaries({}, optional={"dtype": st.just("F32") | _json, "shape": _json, "data_offsets": _json})


@given(st.dictionaries(st.text(max_size=4), _entry | _json, max_size=3) | _json, st.integers(0, 64))
def test_any_json_is_a_header_or_a_checkpoint_error(content: object, data: int) -> None:
    raw = header(content, data)
    with suppress(CheckpointError):
        assert all(entry.where.stop <= len(raw) for entry in parse_header(raw, len(raw)).values())
