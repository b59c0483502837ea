"""From the hidden states of a text's tokens to the one vector that stands for the text.

How is told by the files that the sentence-transformers library keeps beside a checkpoint: `modules.json` lists what
comes behind the model (pooling, dense layers, normalisation), each with a folder of its own for its settings. A
checkpoint without them is pooled by the mean, as that library would.

Pure, but for reading these files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hivemind_p2p.errors import CheckpointError, ConfigurationError, UnsupportedModelError
from hivemind_p2p.sharding.checkpoint import read_json, read_json_list

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
LENGTHS = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlnet_config.json")
TOKENIZER_CONFIG = "tokenizer_config.json"

MOST_TOKENS = 2**20
"""A `model_max_length` above is no length: the tokenizers library writes 10**30 for none."""

Array: TypeAlias = npt.NDArray[np.float32]

_FOLDER = re.compile(r"^[\w-]{1,64}$")


def _mean(rows: Array) -> Array:
    return np.asarray(rows.mean(axis=0), dtype=np.float32)


def _weighted_mean(rows: Array) -> Array:
    weights = np.arange(1, len(rows) + 1, dtype=np.float32)
    return np.asarray(weights @ rows / weights.sum(), dtype=np.float32)


_POOLINGS: Mapping[str, Callable[[Array], Array]] = {
    "cls": lambda rows: rows[0],
    "max": lambda rows: rows.max(axis=0),
    "mean": _mean,
    "mean_sqrt_len_tokens": lambda rows: rows.sum(axis=0) / np.float32(np.sqrt(len(rows))),
    "weightedmean": _weighted_mean,
    "lasttoken": lambda rows: rows[-1],
}
"""In the order in which several of them are put one behind the other."""

_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "Identity": lambda values: values,
    "Tanh": np.tanh,
    "ReLU": lambda values: np.maximum(values, 0),
}


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer behind the pooling.

    Attributes:
        weight: Shape (out, in).
        bias: Shape (out,); None for none.
        activation: What is done to its outputs.
    """

    weight: Array
    bias: Array | None
    activation: Callable[[Array], Array]

    def apply(self, vector: Array) -> Array:
        """Its outputs."""
        made = self.weight @ vector
        return self.activation(made if self.bias is None else made + self.bias)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a checkpoint's folder says that texts become vectors.

    Attributes:
        poolings: Names of poolings, whose results are put one behind the other.
        steps: What follows: dense layers, and None for normalisation to length 1.
        skips_prompt: Whether the tokens of the prompt are left out of the pooling.
        lower_case: Whether texts are put in lower case first.
        longest: Tokens that are read of a text at the most; None for as many as the model takes.
        prompts: What is put before a text, by name.
        usual_prompt: The name of the one that is put before texts if none is asked for.
    """

    poolings: tuple[str, ...] = ("mean",)
    steps: tuple[Dense | None, ...] = ()
    skips_prompt: bool = False
    lower_case: bool = False
    longest: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    usual_prompt: str | None = None

    @property
    def last_only(self) -> bool:
        """Whether the last token's row is all that is needed."""
        return self.poolings == ("lasttoken",)

    def prompt(self, name: str | None) -> str:
        """What is put before a text.

        Raises:
            ConfigurationError: The folder knows no prompt of this name.
        """
        name = self.usual_prompt if name is None else name
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(sorted(self.prompts)) or "none"
            raise ConfigurationError(f"the model has no prompt {name!r}; it has {known}")
        return self.prompts[name]

    def pool(self, rows: Array, *, skip: int = 0, normalise: bool | None = None) -> Array:
        """The vector of a text.

        Args:
            rows: Shape (tokens, hidden size).
            skip: Tokens of a prompt at its beginning.
            normalise: Whether its length becomes 1; None for what the folder says.
        """
        kept = rows[skip:] if self.skips_prompt and len(rows) > skip else rows
        vector = np.concatenate([_POOLINGS[name](kept) for name in self.poolings])
        for step in self.steps:
            if step is not None:
                vector = step.apply(vector)
            elif normalise is None:
                vector = _unit(vector)
        return np.asarray(_unit(vector) if normalise else vector, dtype=np.float32)


def _unit(vector: Array) -> Array:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), dtype=np.float32)


def read_recipe(folder: Path) -> Recipe:
    """What a checkpoint's folder says.

    Raises:
        CheckpointError: A file is missing or malformed.
        UnsupportedModelError: It asks for something that is not known here.
    """
    poolings: tuple[str, ...] = ("mean",)
    steps: list[Dense | None] = []
    skips_prompt = False
    for number, (kind, place) in enumerate(_modules(folder)):
        if kind == "Transformer" and number == 0:
            continue
        if kind == "Pooling" and not steps:
            settings = read_json(place / "config.json")
            poolings, skips_prompt = _poolings(settings), settings.get("include_prompt") is False
        elif kind == "Dense":
            steps.append(_dense(place))
        elif kind == "Normalize":
            steps.append(None)
        else:
            raise UnsupportedModelError(f"{MODULES} asks for {kind!r}, which is not known here")
    settings = _optional(folder / SETTINGS)
    lengths = next((found for name in LENGTHS if (found := _optional(folder / name))), {})
    prompts = settings.get("prompts")
    usual = settings.get("default_prompt_name")
    return Recipe(
        poolings,
        tuple(steps),
        skips_prompt,
        bool(lengths.get("do_lower_case")),
        _longest(lengths.get("max_seq_length"), _optional(folder / TOKENIZER_CONFIG).get("model_max_length")),
        {str(name): str(text) for name, text in prompts.items()} if isinstance(prompts, dict) else {},
        usual if isinstance(usual, str) else None,
    )


def _modules(folder: Path) -> list[tuple[str, Path]]:
    if not (folder / MODULES).is_file():
        return []
    found = []
    for module in read_json_list(folder / MODULES):
        path, kind = (module.get("path"), module.get("type")) if isinstance(module, dict) else (None, None)
        if not isinstance(path, str) or not isinstance(kind, str) or (path and not _FOLDER.match(path)):
            raise CheckpointError(f"{MODULES} holds {str(module)[:64]}, which is no module")
        found.append((kind.rpartition(".")[2], folder / path))
    return found


def _poolings(settings: Mapping[str, Any]) -> tuple[str, ...]:
    named = settings.get("pooling_mode")
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list):
        names = [name for flag, name in _FLAGS.items() if settings.get(flag)]
    if unknown := [name for name in names if name not in _POOLINGS]:
        raise UnsupportedModelError(f"pooling by {unknown[0]!r} is not known here")
    # By the flags the order is the library's own, whatever the order in the file.
    return tuple(names) or ("mean",)


def _dense(place: Path) -> Dense:
    from safetensors.numpy import load_file

    settings = read_json(place / "config.json")
    activation = str(settings.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise UnsupportedModelError(f"a dense layer's activation {activation!r} is not known here")
    try:
        tensors = load_file(place / "model.safetensors")
    except Exception as error:
        # Whatever the library raises on a stranger's file, it cannot be read.
        raise CheckpointError(f"{place.name}/model.safetensors cannot be read: {error}") from error
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    if weight is None or weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise CheckpointError(f"{place.name}/model.safetensors holds no linear layer")
    return Dense(weight.astype(np.float32), None if bias is None else bias.astype(np.float32), _ACTIVATIONS[activation])


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _longest(*found: Any) -> int | None:
    return next((value for value in found if type(value) is int and 0 < value < MOST_TOKENS), None)


__all__ = ["Dense", "Recipe", "read_recipe"]
