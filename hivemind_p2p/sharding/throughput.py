"""How many tokens a second a model makes, given who hosts which of its layers.

A decode step reads every weight of a layer once, so what a layer takes is its bytes over the speed of the peer that
runs it. Peers that host the same layer share its tokens. The model is as fast as its weakest layer.

Two measures are used. `densities` shares each peer's speed evenly over all that it hosts: cheap, and what a peer
compares when it looks for its place (as Petals does, Borzunov et al. 2023, section 3.2). `tokens_per_second` is what
routes can make of it when each peer's speed is spent where it is needed: the value that placement is judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from hivemind_p2p.types import LayerSpan, PeerId

_STEPS = 40
"""Halvings when the largest rate is searched: enough for nine digits."""


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What each layer of a model costs. The first one counts with the embedding, the last one with the head.

    Attributes:
        work: For each layer, bytes of weights that one token reads.
        memory: For each layer, bytes of weights that a host keeps.
    """

    work: tuple[float, ...]
    memory: tuple[int, ...]
    _work_before: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _memory_before: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_work_before", tuple(accumulate(self.work, initial=0.0)))
        object.__setattr__(self, "_memory_before", tuple(accumulate(self.memory, initial=0)))

    @classmethod
    def of(cls, layers: int, layer_bytes: int = 1, *, embedding_bytes: int = 0, head_bytes: int = 0) -> ModelSizes:
        """A model whose layers are equal but for its two ends."""
        work = [float(layer_bytes)] * layers
        memory = [layer_bytes] * layers
        memory[0] += embedding_bytes
        work[-1] += head_bytes
        memory[-1] += head_bytes
        return cls(tuple(work), tuple(memory))

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self.work)

    def work_of(self, span: LayerSpan) -> float:
        """Bytes that one token reads in a span."""
        return self._work_before[span.stop] - self._work_before[span.start]

    def memory_of(self, span: LayerSpan) -> int:
        """Bytes that a host of a span keeps."""
        return self._memory_before[span.stop] - self._memory_before[span.start]


@dataclass(frozen=True, slots=True)
class Server:
    """A peer that hosts layers, or would.

    Attributes:
        speed: Bytes of weights that it runs through in a second.
        memory: Bytes that it gives to this model's weights.
        spans: What it hosts, or has claimed.
        loading: Those of its spans that are not ready.
    """

    peer: PeerId
    speed: float
    memory: int
    spans: tuple[LayerSpan, ...] = ()
    loading: tuple[LayerSpan, ...] = ()

    def density(self, sizes: ModelSizes) -> float:
        """Tokens a second that it gives to each of its layers when it works on all of them alike."""
        work = sum(sizes.work_of(span) for span in self.spans)
        return self.speed / work if work else 0.0


def densities(servers: Iterable[Server], sizes: ModelSizes) -> list[float]:
    """Tokens a second by layer, each server's speed spread evenly over what it hosts."""
    found = [0.0] * sizes.layers
    for server in servers:
        density = server.density(sizes)
        for span in server.spans:
            for layer in range(span.start, span.stop):
                found[layer] += density
    return found


def uncovered(servers: Iterable[Server], sizes: ModelSizes) -> int:
    """How many layers nobody hosts."""
    held = {layer for server in servers for span in server.spans for layer in range(span.start, span.stop)}
    return sizes.layers - len(held)


def ideal_tokens_per_second(servers: Iterable[Server], sizes: ModelSizes) -> float:
    """What no placement can exceed: all peers busy all the time, with no layer in want of a host."""
    return sum(server.speed for server in servers) / sum(sizes.work)


def upper_bound(servers: Sequence[Server], sizes: ModelSizes, most_work: Callable[[Server], float]) -> float:
    """What no placement can exceed, since a peer with little memory helps few layers, none of them beyond the rate.

    Args:
        servers: The peers, wherever they are.
        sizes: What the layers cost.
        most_work: For a peer, bytes that a token reads in the largest span that it could host.
    """
    work = [most_work(server) for server in servers]
    whole = sum(sizes.work)
    low, high = 0.0, ideal_tokens_per_second(servers, sizes)
    for _ in range(_STEPS):
        rate = (low + high) / 2
        helped = sum(min(server.speed, most * rate) for server, most in zip(servers, work, strict=True))
        low, high = (rate, high) if helped >= whole * rate * (1 - 1e-12) else (low, rate)
    return high


def tokens_per_second(servers: Sequence[Server], sizes: ModelSizes) -> float:
    """The most that routes can make of a placement, any route taking any part of what a peer hosts."""
    high = ideal_tokens_per_second(servers, sizes)
    if uncovered(servers, sizes) or high == 0.0:
        return 0.0
    if feasible(servers, sizes, high):
        return high
    low = 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if feasible(servers, sizes, middle):
            low = middle
        else:
            high = middle
    return low


def feasible(servers: Sequence[Server], sizes: ModelSizes, rate: float) -> bool:
    """Whether every layer gets `rate`: layer by layer, from the hosts whose last layer comes first.

    For spans that are intervals this greedy choice is optimal: whoever can help for longest is kept for later.
    """
    holders: list[list[int]] = [[] for _ in range(sizes.layers)]
    for index, server in sorted(enumerate(servers), key=lambda item: max((s.stop for s in item[1].spans), default=0)):
        for span in server.spans:
            for layer in range(span.start, span.stop):
                holders[layer].append(index)
    left = [server.speed for server in servers]
    for layer, work in enumerate(sizes.work):
        wanted = work * rate * (1 - 1e-9)
        for index in holders[layer]:
            spent = min(wanted, left[index])
            left[index] -= spent
            wanted -= spent
            if wanted <= 0:
                break
        if wanted > 0:
            return False
    return True


__all__ = [
    "ModelSizes",
    "Server",
    "densities",
    "feasible",
    "ideal_tokens_per_second",
    "tokens_per_second",
    "uncovered",
    "upper_bound",
]
