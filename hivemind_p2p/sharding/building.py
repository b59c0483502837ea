"""Builds the layers [start, stop) of a model from the model library's own code, with no code per model family.

The library builds the architecture from its config without taking memory (on torch's meta device); then all layers
but the span's are dropped, and the library loads the tensors that are left. Each layer was built as the one that it is
in the whole model, so what depends on a layer's number comes out right. What differs from a whole model is declared:

- A stage that is not the first takes hidden states (``inputs_embeds``), so its embedding is not used and holds one row.
  Whoever adds positions right there (`POSITIONS`) adds nothing instead, and what is scaled there (`SCALES`) is not.
- A stage that is not the last gives hidden states before the final norm (`FINAL_NORMS`), which becomes the identity.
- The last stage is the library's causal language model, so that scaled heads and soft caps are the library's own too.

That nothing else happens before the layers is tried out when a stage is loaded (`checking.py`).

Importing this module loads torch and transformers: load it lazily.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING, AutoConfig

from hivemind_p2p.errors import CheckpointError, UnsupportedModelError
from hivemind_p2p.sharding import packed
from hivemind_p2p.sharding.checkpoint import Checkpoint
from hivemind_p2p.sharding.tensors import read_tensors
from hivemind_p2p.types import LayerSpan

BUILDING = threading.RLock()
"""Held while a stage is built: the library's lazy imports and its verbosity are one a process, and no thread's own."""

FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "final_norm", "layer_norm", "norm_f")
"""What architectures call the norm behind their last layer."""

POSITIONS = ("wpe", "embed_positions")
"""What architectures call learned positions that are added to the embeddings whoever made those (GPT-2, OPT)."""

SCALES = ("embedding_multiplier",)
"""What architectures call a factor of the embeddings that is applied whoever made those (Granite)."""


@dataclass(frozen=True, slots=True)
class Built:
    """A span of a model.

    Attributes:
        module: The library's model: of the last stage of a decoder the causal language model, else the base model.
        config: Of the whole model.
        span: Its layers.
        first: Whether it begins with the embedding.
        last: Whether it ends with the final norm, and with the head if it is a decoder.
        encoder: Whether its rows see both ways and it keeps no cache.
    """

    module: Any
    config: Any
    span: LayerSpan
    first: bool
    last: bool
    encoder: bool

    @property
    def base(self) -> Any:
        """The model without its head."""
        return self.module.base_model


def build(folder: Path, checkpoint: Checkpoint, span: LayerSpan, dtype: torch.dtype) -> Built:
    """The span with its weights, in the library's own form, on the CPU.

    Raises:
        UnsupportedModelError: The library does not know the architecture, or it cannot be cut.
        CheckpointError: Tensors are missing, or have other shapes than the config says.
    """
    first, last = span.start == 0, span.stop == checkpoint.layer_count
    packed.register()
    with BUILDING, _quiet():
        config = _read_config(folder, checkpoint)
        encoder = _is_encoder(config, checkpoint)
        family = _family(config, checkpoint, head=last and not encoder)
        cut = _CutFamily(family, span, checkpoint.layer_count, width=int(config.hidden_size), encoder=encoder)
        tensors = read_tensors(folder, checkpoint, span, dtype)
        try:
            module, report = cut.made.from_pretrained(
                None,
                config=copy.deepcopy(config),
                state_dict=tensors,
                dtype=dtype,
                attn_implementation=packed.NAME,
                output_loading_info=True,
            )
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
            raise UnsupportedModelError(
                f"the model library cannot build {checkpoint.architecture or config.model_type}: {error}"
            ) from error
        finally:
            tensors.clear()
    _check(report, span, cut.replaced)
    module.eval()
    return Built(module, config, span, first, last, encoder)


def _check(report: Any, span: LayerSpan, replaced: set[str]) -> None:
    if wrong := [*report["mismatched_keys"], *report["error_msgs"]]:
        raise CheckpointError(f"tensors do not have the shapes that config.json says: {str(wrong[0])[:200]}")
    missing = [name for name in report["missing_keys"] if not replaced & set(name.split("."))]
    if missing:
        raise CheckpointError(f"layers {span} lack tensors: {', '.join(sorted(missing)[:4])}")


def _read_config(folder: Path, checkpoint: Checkpoint) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        config = config.get_text_config(decoder=True)
    except Exception as error:
        # A config is a stranger's: whatever the library raises on it, it cannot be read.
        raise UnsupportedModelError(f"the model library cannot read {folder / 'config.json'}: {error}") from error
    if getattr(config, "num_hidden_layers", None) != checkpoint.layer_count:
        raise UnsupportedModelError(f"{config.model_type} models keep their number of layers where it is not found")
    return config


def _is_encoder(config: Any, checkpoint: Checkpoint) -> bool:
    """Told from the class that the checkpoint was saved as: a BERT may be a decoder as well, but hardly ever is."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return True
    if getattr(config, "is_decoder", None) is not False:
        return False
    return bool(checkpoint.architecture != MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__)


def _family(config: Any, checkpoint: Checkpoint, *, head: bool) -> Any:
    try:
        return (MODEL_FOR_CAUSAL_LM_MAPPING if head else MODEL_MAPPING)[type(config)]
    except KeyError as error:
        raise UnsupportedModelError(
            f"the model library has no layers of its own for {checkpoint.architecture or config.model_type}"
        ) from error


class _CutFamily:
    """A subclass of the library's class that drops what is not the span's as soon as it is built.

    That is before its tensors are loaded, so what was dropped has taken no memory.

    Attributes:
        made: The class.
        replaced: Names of modules that were replaced and so need no tensors.
    """

    def __init__(self, family: Any, span: LayerSpan, layer_count: int, *, width: int, encoder: bool) -> None:
        self.replaced: set[str] = set()
        self._span, self._layer_count = span, layer_count
        self._width, self._encoder = width, encoder

        def initialise(model: Any, config: Any, *arguments: Any, **options: Any) -> None:
            family.__init__(model, config, *arguments, **options)
            if type(model) is self.made:
                self._cut(model)

        self.made: Any = type(family.__name__, (family,), {"__init__": initialise, "__module__": family.__module__})

    def _cut(self, model: Any) -> None:
        base, span = model.base_model, self._span
        first, last = span.start == 0, span.stop == self._layer_count
        holder, name = find_layers(base, self._layer_count)
        setattr(holder, name, getattr(holder, name)[span.start : span.stop])
        for part in getattr(holder, name).modules():
            if isinstance(getattr(part, "layer_idx", None), int):
                part.layer_idx -= span.start
        narrow_config(model.config, span, self._layer_count)
        if getattr(base, "pooler", None) is not None:
            base.pooler = None
        if not last:
            self.replaced |= drop_norm(holder)
        if not first and self._encoder:
            self.replaced |= _replace(base, ("embeddings",), nn.Identity())
        elif not first:
            self._drop_embedding(model, base, holder, last=last)

    def _drop_embedding(self, model: Any, base: Any, holder: Any, *, last: bool) -> None:
        embedding = base.get_input_embeddings()
        if not (last and _tied(model, embedding)):
            paths = [path for path, module in base.named_modules() if module is embedding]
            self.replaced |= {path.rpartition(".")[2] for path in paths}
            base.set_input_embeddings(nn.Embedding(1, self._width, device="meta"))
        self.replaced |= drop_beginning(holder)


def drop_norm(holder: Any) -> set[str]:
    """Takes away the norm behind the last layer from the module that holds the layers; encoders may have none."""
    return _replace(holder, FINAL_NORMS, nn.Identity())


def drop_beginning(holder: Any) -> set[str]:
    """Takes away what is added to, or multiplied with, the embeddings in the module that holds the layers."""
    for name in SCALES:
        if hasattr(holder, name):
            setattr(holder, name, 1.0)
    return _replace(holder, POSITIONS, _Nothing())


def _replace(holder: Any, names: Iterable[str], instead: nn.Module) -> set[str]:
    found = {name for name in names if isinstance(getattr(holder, name, None), nn.Module)}
    for name in found:
        setattr(holder, name, instead)
    return found


class _Nothing(nn.Module):
    """Stands for learned positions that the first stage has added already."""

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        """Zero."""
        return torch.zeros(())


def _tied(model: Any, embedding: Any) -> bool:
    head = model.get_output_embeddings()
    if head is None:
        return False
    return head.weight is embedding.weight or bool(getattr(model.config, "tie_word_embeddings", False))


def find_layers(base: Any, layer_count: int) -> tuple[Any, str]:
    """Where the list of layers is: the module that holds it, and under which name.

    Raises:
        UnsupportedModelError: There is none, or more than one.
    """
    found = [
        (path, part)
        for path, part in base.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) == layer_count
    ]
    outermost = [path for path, _ in found if not any(path.startswith(other + ".") for other, _ in found)]
    if len(outermost) != 1:
        raise UnsupportedModelError(
            f"{type(base).__name__} has {len(outermost)} lists of {layer_count} layers, not one"
        )
    path, _, name = outermost[0].rpartition(".")
    return base.get_submodule(path), name


def narrow_config(config: Any, span: LayerSpan, layer_count: int) -> None:
    """Makes a config tell of the span's layers only; `layer_count` is how many it told of."""
    for name, value in list(vars(config).items()):
        if "layer" in name and isinstance(value, list | tuple) and len(value) == layer_count:
            setattr(config, name, list(value[span.start : span.stop]))
    config.num_hidden_layers = len(span)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the library's progress bars and its report on missing tensors, which we make ourselves, off the screen."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


__all__ = ["Built", "build", "drop_beginning", "drop_norm", "find_layers", "narrow_config"]
