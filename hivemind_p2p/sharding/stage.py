"""A stage: the layers [start, stop) of a model, run by the model library's own code.

No code per model family. The library builds the architecture from a copy of its config that says it has
``stop - start`` layers, and loads the span's tensors under the numbers that they have there. Masks, rotary
positions, sliding windows and caches are then the library's own. What differs from a whole model is declared here:

- A stage that is not the first takes hidden states (``inputs_embeds``), so its embedding is not used and holds one row.
  An architecture that adds positions right there (`POSITION_EMBEDDINGS`) adds zeros instead.
- A stage that is not the last gives hidden states before the final norm (`FINAL_NORMS`), which becomes the identity.
- The last stage is the library's causal language model, so that scaled heads and soft caps are the library's own too.

Importing this module loads neither torch nor transformers; loading a stage does. Everything here blocks: callers run
it in a worker thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hivemind_p2p.errors import CheckpointError, UnsupportedModelError
from hivemind_p2p.sharding.checkpoint import Checkpoint
from hivemind_p2p.sharding.chunks import Shape
from hivemind_p2p.types import LayerSpan

if TYPE_CHECKING:
    import torch

_BUILDING = threading.Lock()
"""Held while a stage is built: the library's lazy imports and its verbosity are one a process, and no thread's own."""

FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "final_norm")
"""What architectures call the norm behind their last layer."""

POSITION_EMBEDDINGS = ("wpe",)
"""What architectures call learned positions that are added to the embeddings whoever made those (GPT-2)."""

DTYPES = ("float32", "bfloat16", "float16")
"""What a stage computes in, and what its activations are on the wire."""


class Stage:
    """A loaded span.

    Attributes:
        span: Its layers.
        shape: Its model's sizes.
        cache_bytes_per_token: What one token takes in this stage's key-value cache.
        dtype: What it computes in.
    """

    def __init__(self, model: Any, config: Any, span: LayerSpan, *, last: bool, dtype: str, threads: int) -> None:
        self.span = span
        self.dtype = dtype
        self.first = span.start == 0
        self.last = last
        self.shape = Shape(config.hidden_size, config.vocab_size, getattr(config, "max_position_embeddings", 2**31))
        self.cache_bytes_per_token = _cache_bytes(config, len(span), 4 if dtype == "float32" else 2)
        self._model = model
        self._config = config
        self._threads = threads

    @classmethod
    def load(
        cls,
        folder: Path,
        checkpoint: Checkpoint,
        span: LayerSpan,
        *,
        dtype: str = "float32",
        threads: int = 1,
        quantise: str | None = None,
        fast: bool = True,
    ) -> Stage:
        """Builds the span and reads its tensors, and no others, from the folder.

        Args:
            folder: The checkpoint's folder; bytes of other layers may be holes.
            checkpoint: What it holds.
            span: Which layers.
            dtype: What to compute in: ``float32``, ``bfloat16`` or ``float16``.
            threads: torch threads a step may use.
            quantise: ``int8`` for weights of one byte.
            fast: Whether to rewrite the layers so that they run faster (`weights.optimise`); quantising needs it.

        Raises:
            UnsupportedModelError: The library does not know the architecture, or it cannot be cut.
            CheckpointError: Tensors are missing, or have other shapes than the config says.
        """
        import torch

        if dtype not in DTYPES:
            raise UnsupportedModelError(f"a stage computes in one of {', '.join(DTYPES)}, not in {dtype}")
        torch.set_num_threads(threads)
        last = span.stop == checkpoint.layer_count
        with _BUILDING, _quiet():
            config = _config(folder, checkpoint, span)
            model, missing = _build(folder, checkpoint, span, config, dtype)
            replaced = _cut(model, first=span.start == 0, last=last, hidden_size=config.hidden_size)
        if lacking := [name for name in missing if not any(part in name.split(".") for part in replaced)]:
            raise CheckpointError(f"layers {span} lack tensors: {', '.join(sorted(lacking)[:4])}")
        model.eval()
        if fast or quantise:
            from hivemind_p2p.sharding.weights import optimise

            with _BUILDING:
                optimise(model, dtype=dtype, quantise=quantise)
        return cls(model, config, span, last=last, dtype=dtype, threads=threads)

    def new_cache(self) -> Any:
        """An empty key-value cache for one generation."""
        from transformers import DynamicCache

        return DynamicCache(config=self._config)

    def run(self, inputs: torch.Tensor, cache: Any, *, rows: int | None = None) -> torch.Tensor:
        """One step of one generation; the cache grows by the step's tokens.

        Args:
            inputs: Token ids of shape (tokens,), int64, for the first stage; for others hidden states of shape
                (tokens, hidden_size).
            cache: From `new_cache`.
            rows: From the last stage: of how many of the last tokens the logits are wanted; None for the last one's
                alone, without the dimension of the rows.

        Returns:
            Hidden states of shape (tokens, hidden_size); from the last stage logits of shape (rows, vocabulary),
            float32.
        """
        import torch

        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        given: dict[str, Any] = {"input_ids" if self.first else "inputs_embeds": inputs.unsqueeze(0)}
        if self.last:
            given["logits_to_keep"] = rows or 1
        with torch.inference_mode():
            result = self._model(**given, past_key_values=cache, use_cache=True)
        if self.last:
            logits: torch.Tensor = result.logits[0].float()
            return logits[-1] if rows is None else logits[len(logits) - rows :]
        hidden: torch.Tensor = result.last_hidden_state[0]
        return hidden


def _config(folder: Path, checkpoint: Checkpoint, span: LayerSpan) -> Any:
    """A copy of the model's config that has only the span's layers."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UnsupportedModelError(f"the model library cannot read {folder / 'config.json'}: {error}") from error
    if getattr(config, "num_hidden_layers", None) != checkpoint.layer_count:
        raise UnsupportedModelError(f"{config.model_type} models keep their number of layers where it is not found")
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise UnsupportedModelError("this model scales attention by the layer's number, which a stage does not have")
    for name, value in list(vars(config).items()):
        if "layer" in name and isinstance(value, list | tuple) and len(value) == checkpoint.layer_count:
            setattr(config, name, list(value[span.start : span.stop]))
    config.num_hidden_layers = len(span)
    if span.start > 0 and span.stop < checkpoint.layer_count:
        # Neither embedding nor head is used: one row instead of the whole vocabulary.
        config.vocab_size, config.pad_token_id = 1, None
    return config


def _build(
    folder: Path, checkpoint: Checkpoint, span: LayerSpan, config: Any, dtype: str
) -> tuple[Any, frozenset[str]]:
    """The model with the span's weights, and the names of weights that the checkpoint did not give it."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    mapping = MODEL_FOR_CAUSAL_LM_MAPPING if span.stop == checkpoint.layer_count else MODEL_MAPPING
    try:
        family = mapping[type(config)]
        model, report = family.from_pretrained(
            None,
            config=config,
            state_dict=dict(_tensors(folder, checkpoint, span)),
            dtype=getattr(torch, dtype),
            output_loading_info=True,
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UnsupportedModelError(f"the model library cannot build {checkpoint.architecture}: {error}") from error
    if wrong := [*report["mismatched_keys"], *report["error_msgs"]]:
        raise CheckpointError(f"tensors do not have the shapes that config.json says: {str(wrong[0])[:200]}")
    return model, frozenset(report["missing_keys"])


def _tensors(folder: Path, checkpoint: Checkpoint, span: LayerSpan) -> Iterator[tuple[str, torch.Tensor]]:
    """The span's tensors, numbered from zero. They are mapped, not read, until the library copies them."""
    from safetensors import SafetensorError, safe_open

    for file in sorted({checkpoint.tensors[name].file for name in checkpoint.names(span)}):
        try:
            with safe_open(folder / file, framework="pt") as opened:
                for name in checkpoint.names(span):
                    if checkpoint.tensors[name].file == file:
                        yield _renumbered(checkpoint, name, span), opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"cannot read {folder / file}: {error}") from error


def _renumbered(checkpoint: Checkpoint, name: str, span: LayerSpan) -> str:
    layer = checkpoint.layer_of(name)
    if layer is None:
        return name
    prefix = checkpoint.layer_prefix
    return f"{prefix}{layer - span.start}{name[len(prefix) + len(str(layer)) :]}"


def _cut(model: Any, *, first: bool, last: bool, hidden_size: int) -> frozenset[str]:
    """Replaces what does not belong to the span; returns the names of the modules that were replaced."""
    import torch

    class _NoPositions(torch.nn.Module):
        """Stands for learned positions that the first stage has added already."""

        def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
            return torch.zeros((*position_ids.shape, hidden_size), dtype=model.dtype)

    base = model.base_model
    replaced: set[str] = set()
    if not last:
        norm = next((name for name in FINAL_NORMS if hasattr(base, name)), None)
        if norm is None:
            raise UnsupportedModelError(f"{type(base).__name__} has no final norm under a name that is known")
        setattr(base, norm, torch.nn.Identity())
        replaced.add(norm)
    if not first:
        embedding = base.get_input_embeddings()
        replaced |= {name for name, module in base.named_children() if module is embedding}
        tied = last and model.get_output_embeddings().weight is embedding.weight
        if not tied:
            base.set_input_embeddings(torch.nn.Embedding(1, hidden_size))
        for name in POSITION_EMBEDDINGS:
            if hasattr(base, name):
                setattr(base, name, _NoPositions())
                replaced.add(name)
        if tied:
            replaced -= {name for name, module in base.named_children() if module is embedding}
    return frozenset(replaced)


def _cache_bytes(config: Any, layers: int, element_bytes: int) -> int:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * layers * heads * width * element_bytes)


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


def to_wire(hidden: torch.Tensor) -> memoryview:
    """The bytes of a tensor, row by row, in its own dtype."""
    import torch

    array: Any = hidden.contiguous().view(torch.uint8).numpy()
    return memoryview(array).cast("B")


def from_wire(payload: memoryview, tokens: int, hidden_size: int, dtype: str) -> torch.Tensor:
    """Hidden states of shape (tokens, hidden_size) from the bytes of a payload whose length was checked."""
    import torch

    return torch.frombuffer(bytearray(payload), dtype=getattr(torch, dtype)).view(tokens, hidden_size)


__all__ = ["DTYPES", "Shape", "Stage", "from_wire", "to_wire"]
