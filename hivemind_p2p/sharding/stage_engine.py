"""A `Stage` as an engine: the chunks of a step one after the other, each through the model library's own cache."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from hivemind_p2p.errors import MissingLayersError
from hivemind_p2p.sharding.cache import MemoryPool
from hivemind_p2p.sharding.chunks import Chunk, Output
from hivemind_p2p.sharding.computation import are_numbers
from hivemind_p2p.sharding.stage import Shape, Stage
from hivemind_p2p.types import LayerSpan


class StageEngine:
    """Keeps the promise of `chunks.Engine`.

    Args:
        stage: The loaded span.
        pool: Where the caches' memory is reserved.
    """

    def __init__(self, stage: Stage, pool: MemoryPool) -> None:
        self._stage = stage
        self._pool = pool
        self._caches: dict[Hashable, Any] = {}

    @property
    def span(self) -> LayerSpan:
        """Its layers."""
        return self._stage.span

    @property
    def shape(self) -> Shape:
        """Its model's sizes."""
        return self._stage.shape

    @property
    def first(self) -> bool:
        """Whether it takes token ids."""
        return self._stage.first

    @property
    def last(self) -> bool:
        """Whether it gives logits."""
        return self._stage.last

    @property
    def dtype(self) -> str:
        """Of its hidden states."""
        return self._stage.dtype

    def part(self, span: LayerSpan) -> StageEngine:
        """Not offered: the model library's own loop runs over all layers."""
        raise MissingLayersError(f"layers {self.span} are hosted as a whole, not {span} alone")

    def open(self, key: Hashable, room: int, prompt: Sequence[int] = ()) -> int:  # noqa: ARG002 - nothing is reused
        """Sets room aside."""
        self._pool.reserve((id(self), key), room * self._stage.cache_bytes_per_token, f"{room} tokens")
        self._caches[key] = self._stage.new_cache()
        return 0

    def close(self, key: Hashable) -> None:
        """Gives the room back."""
        self._caches.pop(key, None)
        self._pool.release((id(self), key))

    def run(self, chunks: Sequence[Chunk]) -> list[Output]:
        """One step."""
        return [self._run(chunk) for chunk in chunks]

    def _run(self, chunk: Chunk) -> Output:
        cache = self._caches[chunk.key]
        if cache.get_seq_length() > chunk.position:
            cache.crop(chunk.position)
        result = self._stage.run(chunk.inputs, cache, rows=chunk.logits)
        if not are_numbers(result.nan_to_num(neginf=0.0) if self._stage.last else result):
            return Output(error=f"layers {self.span} came to values that are no numbers at token {chunk.position}")
        return Output(logits=result) if self._stage.last and chunk.logits else Output(hidden=result)


__all__ = ["StageEngine"]
