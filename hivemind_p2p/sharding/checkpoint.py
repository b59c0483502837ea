"""A checkpoint: a Hugging Face model folder, read without the model library.

`config.json` says what the model is, `*.safetensors` hold the weights, `tokenizer.json` the text. From the headers
alone (`headers.py`) we know which bytes of which file belong to which layer, so that a peer that hosts layers 8 to
16 fetches those bytes and no others. Where the weights are many files, their index tells which ones hold a span, and
the others are not even opened.

Which tensor belongs where is told from names and needs no code per model family: a number in a name is a layer
(``model.layers.7.mlp.up_proj.weight``, ``h.7.attn.c_attn.bias``), what says ``emb`` (or GPT's ``wte`` and ``wpe``)
stands before the layers, what says ``head`` stands after them, so does a norm, and what says none of that is given
to both ends.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from hivemind_p2p.errors import CheckpointError
from hivemind_p2p.sharding.headers import LENGTH_BYTES, TensorEntry, header_stop, parse_header
from hivemind_p2p.types import ByteRange, FileEntry, LayerSpan

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
GENERATION_CONFIG = "generation_config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_JSON_BYTES = 64 * 2**20
"""The largest published tokenizers take some 35 MB."""
MAX_LAYERS = 4096
FIRST_READ = 64 * 2**10
"""Bytes read of a weights file before its header's length is known: most headers fit."""

_LAYER = re.compile(r"^((?:[^.]+\.)*?)(\d+)\.")
_HEAD = re.compile(r"lm_head|embed_out|output")
_EMBEDDING = re.compile(r"emb|wte|wpe")
_NORM = re.compile(r"norm|ln_f")
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_SMALL = re.compile(
    r"^(tokenizer.*|special_tokens_map|vocab|added_tokens|chat_template|modules|.*sentence_.*)\.json$"
    r"|\.(model|jinja)$|^merges\.txt$|^\d+_\w+/(config\.json|model\.safetensors)$"
)


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor and the file that holds it."""

    file: str
    entry: TensorEntry


@dataclass(frozen=True)
class Checkpoint:
    """What a folder (or a link) holds, from its config and its headers.

    Attributes:
        config: `config.json` as it stands.
        tensors: Every tensor by name, of the weights files whose header was read.
        headers: Where the header of each of these ends.
        index: The file of every tensor, where the checkpoint has an index.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Placed]
    headers: Mapping[str, int]
    index: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_names(self) -> Iterable[str]:
        """Every tensor, also of the weights files whose header was not read."""
        return self.index or self.tensors

    @property
    def architecture(self) -> str:
        """The model library's name of the model class, for example ``LlamaForCausalLM``; empty if it is not told."""
        names = self.config.get("architectures")
        return str(names[0]) if isinstance(names, list) and names else ""

    @cached_property
    def layer_prefix(self) -> str:
        """What stands before the layer's number in the tensors' names, for example ``model.layers.``."""
        prefixes: Counter[str] = Counter(match[1] for name in self.all_names if (match := _LAYER.match(name)))
        if not prefixes:
            raise CheckpointError("no tensor belongs to a numbered layer: this is no decoder's checkpoint")
        return prefixes.most_common(1)[0][0]

    @cached_property
    def layer_count(self) -> int:
        """How many layers the model has."""
        return layer_count(self.config)

    def layer_of(self, name: str) -> int | None:
        """The layer that a tensor belongs to; None where it belongs to none."""
        match = _LAYER.match(name)
        return int(match[2]) if match and match[1] == self.layer_prefix else None

    def names(self, span: LayerSpan) -> tuple[str, ...]:
        """The tensors that a stage of these layers needs.

        Raises:
            CheckpointError: The model has no such layers, or a file lacks a tensor that the index says it has.
        """
        self._check_span(span)
        found = tuple(name for name in self.all_names if self._needed(name, span))
        if lacking := [name for name in found if name not in self.tensors]:
            raise CheckpointError(
                f"{self.index[lacking[0]]} lacks the tensor {lacking[0]!r}, which {INDEX} says it has"
            )
        return found

    def files(self, span: LayerSpan) -> frozenset[str]:
        """The weights files that hold tensors of a stage of these layers, or may do; told from the index.

        Raises:
            CheckpointError: The model has no such layers.
        """
        self._check_span(span)
        ends = span.start == 0 or span.stop == self.layer_count
        layers = {name: self.layer_of(name) for name in self.index}
        return frozenset(
            self.index[name]
            for name, layer in layers.items()
            if (ends if layer is None else span.start <= layer < span.stop)
        )

    def _check_span(self, span: LayerSpan) -> None:
        if not 0 <= span.start < span.stop <= self.layer_count:
            raise CheckpointError(f"a model of {self.layer_count} layers has no layers {span}")

    def _needed(self, name: str, span: LayerSpan) -> bool:
        layer = self.layer_of(name)
        if layer is not None:
            return span.start <= layer < span.stop
        first, last = span.start == 0, span.stop == self.layer_count
        if _HEAD.search(name):
            return last
        if _EMBEDDING.search(name):
            return first or (last and name in self._tied)
        if _NORM.search(name):
            return last
        return first or last

    @cached_property
    def _tied(self) -> frozenset[str]:
        """The embedding that serves as the head as well, where the checkpoint has no head of its own."""
        loose = {name: placed for name, placed in self.tensors.items() if self.layer_of(name) is None}
        if any(_HEAD.search(name) for name in loose) and not self.config.get("tie_word_embeddings"):
            return frozenset()
        vocabulary = self.config.get("vocab_size")
        embeddings = {name: placed for name, placed in loose.items() if _EMBEDDING.search(name)}
        tables = {name for name, placed in embeddings.items() if placed.entry.shape[:1] == (vocabulary,)}
        return frozenset(tables or embeddings)

    def ranges(self, span: LayerSpan) -> dict[str, tuple[ByteRange, ...]]:
        """The bytes of each weights file that a stage of these layers needs, headers included, neighbours merged."""
        found: dict[str, list[ByteRange]] = defaultdict(list)
        for name in self.names(span):
            placed = self.tensors[name]
            found[placed.file].append(placed.entry.where)
        return {file: merge([ByteRange(0, self.headers[file]), *parts]) for file, parts in found.items()}

    def weight_bytes(self, span: LayerSpan, element_bytes: int = 4) -> int:
        """The memory that the weights of a stage take once they are loaded."""
        shapes = (self.tensors[name].entry.shape for name in self.names(span))
        total = 0
        for shape in shapes:
            elements = 1
            for size in shape:
                elements *= size
            total += elements * element_bytes
        return total

    def check(self) -> None:
        """Raises CheckpointError, naming what is missing, unless every layer and an embedding are there."""
        present = {layer for name in self.all_names if (layer := self.layer_of(name)) is not None}
        if missing := sorted(set(range(self.layer_count)) - present):
            raise CheckpointError(f"the checkpoint lacks the tensors of layers {missing[:16]}")
        if extra := sorted(present - set(range(self.layer_count))):
            raise CheckpointError(
                f"config.json says {self.layer_count} layers, but there are tensors of layer {extra[-1]}"
            )
        if not any(_EMBEDDING.search(name) for name in self.all_names if self.layer_of(name) is None):
            raise CheckpointError("the checkpoint lacks the embedding")


def merge(ranges: Iterable[ByteRange]) -> tuple[ByteRange, ...]:
    """The same bytes as sorted ranges that neither overlap nor touch."""
    merged: list[ByteRange] = []
    for part in sorted(part for part in ranges if part.start < part.stop):
        if merged and part.start <= merged[-1].stop:
            merged[-1] = ByteRange(merged[-1].start, max(merged[-1].stop, part.stop))
        else:
            merged.append(part)
    return tuple(merged)


def layer_count(config: Mapping[str, Any]) -> int:
    """How many layers a config tells of.

    Raises:
        CheckpointError: It tells none, or an impossible number.
    """
    count = next((config[key] for key in _LAYER_COUNTS if key in config), None)
    if type(count) is not int or not 1 <= count <= MAX_LAYERS:
        raise CheckpointError(f"config.json tells no number of layers between 1 and {MAX_LAYERS}: {str(count)[:32]}")
    return count


def small_files(files: Sequence[FileEntry]) -> dict[str, tuple[ByteRange, ...]]:
    """What everybody needs whole: config, tokenizer and generation config, by path.

    Raises:
        CheckpointError: The content holds no config.json, or one of the files is absurdly large.
    """
    wanted = {CONFIG, GENERATION_CONFIG, INDEX}
    found = [file for file in files if file.path in wanted or _SMALL.search(file.path)]
    if CONFIG not in {file.path for file in found}:
        raise CheckpointError("the content holds no config.json: it is no checkpoint")
    if large := [file.path for file in found if file.length > MAX_JSON_BYTES]:
        raise CheckpointError(f"{large[0]} takes more than {MAX_JSON_BYTES} bytes")
    return {file.path: (ByteRange(0, file.length),) for file in found}


def weight_files(folder: Path, files: Sequence[FileEntry], span: LayerSpan | None = None) -> tuple[FileEntry, ...]:
    """The weights files of a checkpoint whose small files lie in `folder`; where `span` is given, those that it needs.

    Raises:
        CheckpointError: There are none, or a shard that the index names is missing.
    """
    known = {file.path: file for file in files}
    if INDEX not in known:
        if SINGLE not in known:
            raise CheckpointError(f"the checkpoint holds neither {SINGLE} nor {INDEX}")
        return (known[SINGLE],)
    table = _index(folder)
    shards = sorted(set(table.values()))
    if missing := [name for name in shards if name not in known]:
        raise CheckpointError(f"the shard {missing[0]!r}, which {INDEX} names, is missing")
    if unsafe := [name for name in shards if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
        raise CheckpointError(f"{INDEX} names a file outside the folder: {unsafe[0]!r}")
    if span is None:
        return tuple(known[name] for name in shards)
    outline = Checkpoint(read_json(folder / CONFIG), {}, {}, table)
    outline.check()
    needed = outline.files(span)
    return tuple(known[name] for name in shards if name in needed)


def _index(folder: Path) -> dict[str, str]:
    """The file of each tensor."""
    table = read_json(folder / INDEX).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise CheckpointError(f"{INDEX} holds no weight_map")
    return table


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: It is missing, too large, or no JSON object.
    """
    content = _json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds no JSON object")
    return content


def read_json_list(path: Path) -> list[Any]:
    """A JSON list from a file.

    Raises:
        CheckpointError: It is missing, too large, or no JSON list.
    """
    content = _json(path)
    if not isinstance(content, list):
        raise CheckpointError(f"{path.name} holds no JSON list")
    return content


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path.name} takes more than {MAX_JSON_BYTES} bytes")
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} is missing in {path.parent}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def first_header_ranges(weights: Sequence[FileEntry]) -> dict[str, tuple[ByteRange, ...]]:
    """Enough of each weights file to know how long its header is."""
    return {file.path: (ByteRange(0, min(FIRST_READ, file.length)),) for file in weights}


def header_ranges(folder: Path, weights: Sequence[FileEntry]) -> dict[str, tuple[ByteRange, ...]]:
    """The whole header of each weights file, of which the first bytes lie in `folder`."""
    return {
        file.path: (ByteRange(0, header_stop(_start(folder, file, LENGTH_BYTES), file.length)),) for file in weights
    }


def read(folder: Path, files: Sequence[FileEntry], span: LayerSpan | None = None) -> Checkpoint:
    """The checkpoint whose small files and headers lie in `folder`; the weights may be holes.

    Args:
        folder: Where they lie.
        files: All files of the checkpoint.
        span: The layers that will be asked for; by default all. Only the headers that they need are read.

    Raises:
        CheckpointError: Something is missing or malformed; the message names it.
    """
    config = read_json(folder / CONFIG)
    tensors: dict[str, Placed] = {}
    headers: dict[str, int] = {}
    for file in weight_files(folder, files, span):
        stop = header_stop(_start(folder, file, LENGTH_BYTES), file.length)
        headers[file.path] = stop
        entries = parse_header(_start(folder, file, stop), file.length)
        tensors |= {name: Placed(file.path, entry) for name, entry in entries.items()}
    index = _index(folder) if any(file.path == INDEX for file in files) else {}
    checkpoint = Checkpoint(config, tensors, headers, index)
    checkpoint.check()
    checkpoint.names(span or LayerSpan(0, checkpoint.layer_count))
    return checkpoint


def open_folder(folder: Path) -> Checkpoint:
    """A complete checkpoint folder of this machine, checked before it is published.

    Raises:
        CheckpointError: It is no folder, or something is missing or malformed; the message names it.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder")
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    files = tuple(FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size) for path in found)
    try:
        small_files(files)
        checkpoint = read(folder, files)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} is no complete checkpoint: {error.message}", hint=error.hint) from error
    if not (folder / TOKENIZER).is_file():
        raise CheckpointError(f"{folder} is no complete checkpoint: {TOKENIZER} is missing")
    return checkpoint


def _start(folder: Path, file: FileEntry, size: int) -> bytes:
    try:
        with (folder / file.path).open("rb") as stream:
            return stream.read(min(size, file.length))
    except OSError as error:
        raise CheckpointError(f"cannot read {file.path}: {error}") from error
