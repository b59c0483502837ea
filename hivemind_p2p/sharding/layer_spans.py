"""The spans that a peer could host: as many layers as fit its memory, from any layer on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from hivemind_p2p.sharding.throughput import ModelSizes
from hivemind_p2p.types import LayerSpan


def largest_span(sizes: ModelSizes, start: int, memory: int, most_layers: int) -> LayerSpan:
    """From `start`, as many layers as fit; empty if not even one does."""
    stop = start
    while stop < min(sizes.layers, start + most_layers) and sizes.memory_of(LayerSpan(start, stop + 1)) <= memory:
        stop += 1
    return LayerSpan(start, stop)


def candidates(sizes: ModelSizes, memory: int, most_layers: int) -> tuple[LayerSpan, ...]:
    """Every largest span that fits, by their first layers; no span within another."""
    found: list[LayerSpan] = []
    for start in range(sizes.layers):
        span = largest_span(sizes, start, memory, most_layers)
        if len(span) and (not found or span.stop > found[-1].stop):
            found.append(span)
    return tuple(found)


class Choices:
    """The candidates of peers, worked out once for each amount of memory.

    Args:
        sizes: What the layers cost.
        most_layers: The longest span.
    """

    def __init__(self, sizes: ModelSizes, most_layers: int) -> None:
        self.sizes = sizes
        self.most_layers = most_layers
        self._spans: dict[int, tuple[LayerSpan, ...]] = {}
        self._starts: dict[int, list[int]] = {}
        self._work: dict[int, float] = {}

    def spans(self, memory: int) -> tuple[LayerSpan, ...]:
        """What a peer with so much memory could host."""
        if memory not in self._spans:
            found = candidates(self.sizes, memory, self.most_layers)
            self._spans[memory] = found
            self._starts[memory] = [span.start for span in found]
            self._work[memory] = max(map(self.sizes.work_of, found), default=0.0)
        return self._spans[memory]

    def work(self, memory: int) -> float:
        """Bytes that a token reads in the largest of these spans."""
        self.spans(memory)
        return self._work[memory]

    def from_layer(self, memory: int, layer: int) -> LayerSpan | None:
        """The span that holds a layer and reaches furthest behind it; None if the layer does not fit."""
        spans = self.spans(memory)
        index = bisect_right(self._starts[memory], layer) - 1
        return spans[index] if index >= 0 and layer < spans[index].stop else None

    def within(self, gaps: Sequence[int], memory: int) -> Iterator[LayerSpan]:
        """The largest spans of nothing but layers in `gaps` that fit."""
        wanted = set(gaps)
        for start in gaps:
            span = largest_span(self.sizes, start, memory, self.most_layers)
            stop = next((layer for layer in range(span.start, span.stop) if layer not in wanted), span.stop)
            if stop > start:
                yield LayerSpan(start, stop)


__all__ = ["Choices", "candidates", "largest_span"]
