"""The engine: computes a span of a model for many generations in one forward pass.

A step takes chunks of any generations, prompts and next tokens mixed. Their rows are packed one behind the other and go
through the library's own model at once (`body.py`, `packed.py`), so the weights are read once for all of them. What a
generation needs from step to step is its key-value cache, whose room is set aside when it is opened (`caches.py`).

Rows of different generations never meet outside the linear layers, and these treat each row alone. So a chunk that
makes no numbers fails alone, and a text is the same whoever computes beside it (but for the last bits, which depend on
how many rows a product has).

Everything here blocks and belongs to one thread. Importing this module loads torch and transformers: load it lazily.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hivemind_p2p.errors import UnsupportedModelError
from hivemind_p2p.sharding.body import Body
from hivemind_p2p.sharding.building import BUILDING, build
from hivemind_p2p.sharding.cache import MemoryPool
from hivemind_p2p.sharding.caches import Caches
from hivemind_p2p.sharding.checking import check
from hivemind_p2p.sharding.checkpoint import Checkpoint
from hivemind_p2p.sharding.chunks import Chunk, Output, Shape
from hivemind_p2p.sharding.packed import Pack, Segment
from hivemind_p2p.types import LayerSpan, PeerId

DTYPES = ("float32", "bfloat16", "float16")
"""What a stage computes in, and what its activations are."""

CACHE_BYTES = 2**30
"""Room for caches where no memory pool is given."""


class Engine:
    """Computes a span; keeps the promise of `chunks.Engine`. Made by `load`.

    Attributes:
        span: Its layers.
        shape: Its model's sizes.
        first: Whether it takes token ids.
        last: Whether it ends with the final norm, and gives logits if it has a head.
        encoder: Whether it is an encoder's: each chunk is then one whole text, and no cache is kept.
        dtype: Of its hidden states.
        cache_bytes_per_token: What a token takes in its caches.
    """

    def __init__(self, body: Body, shape: Shape, caches: Caches, *, dtype: str, threads: int) -> None:
        self.span, self.first, self.last, self.encoder = body.span, body.first, body.last, body.encoder
        self.shape, self.dtype = shape, dtype
        self.cache_bytes_per_token = caches.bytes_per_token
        self._body = body
        self._caches = caches
        self._threads = threads
        self._parts: dict[LayerSpan, Engine] = {}

    @classmethod
    def load(  # noqa: PLR0913 - what a stage is loaded with is one list of options
        cls,
        folder: Path,
        checkpoint: Checkpoint,
        span: LayerSpan,
        *,
        dtype: str = "float32",
        quantise: str | None = None,
        threads: int = 1,
        device: str = "auto",
        pool: MemoryPool | None = None,
        fast: bool = True,
    ) -> Engine:
        """Builds the span and reads its tensors, and no others, from the folder.

        Args:
            folder: The checkpoint's folder; bytes of other layers may be holes.
            checkpoint: What it holds.
            span: Which layers.
            dtype: What to compute in: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for float32 on a CPU and
                bfloat16 elsewhere.
            quantise: ``int8`` for weights of one byte.
            threads: torch threads a step may use.
            device: ``cpu``, ``cuda``, ``mps``, or ``auto`` for the fastest that there is.
            pool: Where the caches' memory is set aside; by default one of `CACHE_BYTES` of its own.
            fast: Whether to rewrite the layers so that they run faster (`weights.optimise`); quantising needs it.

        Raises:
            UnsupportedModelError: The library does not know the architecture, or it cannot be cut.
            CheckpointError: Tensors are missing, cut short, or have other shapes than the config says.
        """
        where = choose_device(device)
        dtype = _dtype(dtype, where)
        number = getattr(torch, dtype)
        torch.set_num_threads(threads)
        built = build(folder, checkpoint, span, number)
        with BUILDING:
            bytes_per_token = check(built, number)
            built.module.to(where)
            if fast or quantise:
                from hivemind_p2p.sharding.weights import optimise

                optimise(built.module, dtype=dtype, quantise=quantise)
        config = built.config
        shape = Shape(
            int(config.hidden_size), int(config.vocab_size), int(getattr(config, "max_position_embeddings", 2**31))
        )
        caches = Caches(pool or MemoryPool(CACHE_BYTES, PeerId("")), bytes_per_token, len(span))
        return cls(Body.of(built), shape, caches, dtype=dtype, threads=threads)

    @property
    def device(self) -> str:
        """Where it computes: ``cpu``, ``cuda`` or ``mps``."""
        return self._body.device.type

    def part(self, span: LayerSpan) -> Engine:
        """Only these layers, on the same weights and memory; the same object for the same span.

        Raises:
            MissingLayersError: They are not among these.
        """
        if span == self.span:
            return self
        if span not in self._parts:
            body = self._body.part(span)
            caches = self._caches.part(len(span))
            self._parts[span] = Engine(body, self.shape, caches, dtype=self.dtype, threads=self._threads)
        return self._parts[span]

    def open(self, key: Hashable, room: int, prompt: Sequence[int] = ()) -> int:
        """Sets room for so many tokens aside.

        Args:
            key: Names the generation from now on.
            room: Tokens, the prompt's counted.
            prompt: Token ids with which the text begins, where they are known.

        Returns:
            How many tokens at the prompt's beginning are in the cache already.

        Raises:
            BusyError: There is no room now.
        """
        return self._caches.open(key, room, prompt)

    def close(self, key: Hashable) -> None:
        """Gives the room back; what was computed of the prompt may be kept for whoever begins with the same."""
        self._caches.close(key)

    def fork(self, source: Hashable, key: Hashable, room: int) -> None:
        """Opens a generation that begins as another one has come to now.

        Raises:
            BusyError: There is no room now.
        """
        self._caches.fork(source, key, room)

    def length(self, key: Hashable) -> int:
        """Tokens in a generation's cache."""
        return self._caches[key].length

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> list[Output]:
        """One step.

        Args:
            chunks: At most one of each generation.

        Returns:
            An output for each chunk; what is wrong with one chunk is said in its own output and concerns no other.
        """
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        outputs: list[Output | None] = [self._refusal(chunk) for chunk in chunks]
        sound = [index for index, output in enumerate(outputs) if output is None]
        if sound:
            made = self._step([chunks[index] for index in sound])
            for index, output in zip(sound, made, strict=True):
                outputs[index] = output
        return [output for output in outputs if output is not None]

    def _refusal(self, chunk: Chunk) -> Output | None:
        """What is wrong with a chunk; None if nothing is."""
        shape = (len(chunk.inputs),) if self.first else (len(chunk.inputs), self.shape.hidden_size)
        if tuple(chunk.inputs.shape) != shape or not len(chunk.inputs):
            return Output(error=f"layers {self.span} were given a chunk of shape {tuple(chunk.inputs.shape)}")
        if self.first:
            low, high = chunk.inputs.aminmax()
            if low < 0 or high >= self.shape.vocabulary:
                return Output(error=f"a token came that is not among the {self.shape.vocabulary} of the vocabulary")
        elif not are_numbers(chunk.inputs):
            return Output(error=f"layers {self.span} were given values that are no numbers")
        if self.encoder:
            return None
        if (wrong := self._caches.refusal(chunk.key, chunk.position, len(chunk.inputs))) is not None:
            return Output(error=wrong)
        return None

    def _step(self, chunks: Sequence[Chunk]) -> list[Output]:
        pack, inputs, positions = self._packed(chunks)
        rows = self._body.hidden(pack, inputs, positions)
        wanted = [min(chunk.logits, len(chunk.inputs)) if self.last and not self.encoder else 0 for chunk in chunks]
        logits = self._logits(pack, rows, wanted)
        rows = rows.cpu()
        fine = are_numbers(rows)
        outputs = []
        for chunk, segment, its_logits in zip(chunks, pack.segments, logits, strict=True):
            its_rows = rows[segment.start : segment.stop]
            sound = fine or are_numbers(its_rows)
            if not sound or (its_logits is not None and not _are_logits(its_logits)):
                outputs.append(Output(error=f"layers {self.span} came to no numbers at token {chunk.position}"))
                continue
            if segment.cache is not None:
                segment.cache.length = chunk.position + segment.rows
            outputs.append(Output(hidden=its_rows, logits=its_logits))
        return outputs

    def _packed(self, chunks: Sequence[Chunk]) -> tuple[Pack, Tensor, Tensor]:
        segments, start = [], 0
        for chunk in chunks:
            stop = start + len(chunk.inputs)
            cache = None if self.encoder else self._caches[chunk.key]
            segments.append(Segment(start, stop, chunk.position, cache))
            start = stop
        inputs = chunks[0].inputs if len(chunks) == 1 else torch.cat([chunk.inputs for chunk in chunks])
        spans = [torch.arange(chunk.position, chunk.position + len(chunk.inputs)) for chunk in chunks]
        positions = spans[0] if len(spans) == 1 else torch.cat(spans)
        device = self._body.device
        return Pack(segments), inputs.to(device), positions.to(device)

    def _logits(self, pack: Pack, rows: Tensor, wanted: Sequence[int]) -> list[Tensor | None]:
        """The head runs once, on the wanted rows of all."""
        if not any(wanted):
            return [None] * len(wanted)
        parts = [
            rows[segment.stop - count : segment.stop] for segment, count in zip(pack.segments, wanted, strict=True)
        ]
        logits = self._body.logits(parts[0] if len(parts) == 1 else torch.cat(parts)).cpu()
        split = torch.split(logits, list(wanted))
        return [part if count else None for part, count in zip(split, wanted, strict=True)]


def choose_device(wanted: str) -> torch.device:
    """The device of a name.

    Raises:
        UnsupportedModelError: This machine has none such.
    """
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present.insert(0, "cuda")
    if wanted == "auto":
        return torch.device(present[0])
    if wanted not in present:
        raise UnsupportedModelError(f"this machine computes on {' or '.join(present)}, not on {wanted}")
    return torch.device(wanted)


def _dtype(wanted: str, device: torch.device) -> str:
    if wanted == "auto":
        return "float32" if device.type == "cpu" else "bfloat16"
    if wanted not in DTYPES:
        raise UnsupportedModelError(f"a stage computes in one of {', '.join(DTYPES)}, not in {wanted}")
    return wanted


def are_numbers(rows: Tensor) -> bool:
    """Whether no row holds NaN or infinity. The sum tells it in one pass: what makes a sum infinite is no model's."""
    return bool(torch.isfinite(rows.sum(dtype=torch.float32)))


def _are_logits(rows: Tensor) -> bool:
    """Minus infinity is one: a token that never comes."""
    highest: Any = rows.amax(dim=-1)
    return are_numbers(highest)


__all__ = ["DTYPES", "Engine", "choose_device"]
