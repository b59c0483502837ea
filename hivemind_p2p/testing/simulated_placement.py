"""A hive whose peers place themselves, simulated: who comes, who goes, and what becomes of the model's layers.

Everybody decides at once, round after round, from what everybody offers, as real peers do that look at the same
moment: the worst case for deciding alone. What a peer has decided takes a round to load; what it gives up for it is
served meanwhile only if its memory holds both.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

from hivemind_p2p.sharding import placement
from hivemind_p2p.sharding.layer_spans import Choices
from hivemind_p2p.sharding.throughput import ModelSizes, Server, tokens_per_second, uncovered, upper_bound
from hivemind_p2p.types import LayerSpan, PeerId

SPEEDS = (5e9, 1e10, 2e10, 4e10, 1e11, 4e11)
"""Bytes of weights a second: a small board, laptops, workstations, GPUs."""

MEMORIES = (2, 3, 4, 6, 8, 12)
"""Layers that peers have room for."""

LAYER_BYTES = 100


def model(layers: int) -> ModelSizes:
    """A model whose ends take a third of a layer more."""
    return ModelSizes.of(layers, LAYER_BYTES, embedding_bytes=30, head_bytes=30)


def peers(chance: random.Random, names: Iterable[str], memories: tuple[int, ...] = MEMORIES) -> list[Server]:
    """Peers of mixed speed and memory."""
    return [
        Server(PeerId(name), chance.choice(SPEEDS) * chance.uniform(0.7, 1.3), chance.choice(memories) * LAYER_BYTES)
        for name in names
    ]


class PlacedHive:
    """The peers of a hive that serve one model.

    Attributes:
        servers: The peers, with what they host.
        moves: Spans that were loaded so far.
        interruptions: Rounds in which a layer that had a host before had none because of a move.
    """

    def __init__(self, sizes: ModelSizes, servers: Iterable[Server]) -> None:
        self.sizes = sizes
        self.servers = {server.peer: server for server in servers}
        self.moves = self.interruptions = 0

    def settle(self, rounds: int = 60) -> int:
        """Lets everybody decide until nobody wants to move; how many rounds it took.

        Raises:
            RuntimeError: It did not end within so many rounds.
        """
        for number in range(rounds):
            if not self._round():
                return number
        raise RuntimeError(f"peers still move after {rounds} rounds")

    def come(self, newcomers: Iterable[Server]) -> None:
        """Peers join."""
        self.servers |= {server.peer: server for server in newcomers}

    def go(self, names: Iterable[PeerId]) -> None:
        """Peers leave without a word."""
        for name in names:
            del self.servers[name]

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return tokens_per_second(list(self.servers.values()), self.sizes)

    @property
    def gaps(self) -> int:
        """Layers without a host."""
        return uncovered(self.servers.values(), self.sizes)

    @property
    def bound(self) -> float:
        """Tokens a second that no placement of these peers can exceed."""
        choices = Choices(self.sizes, self.sizes.layers)
        return upper_bound(list(self.servers.values()), self.sizes, lambda server: choices.work(server.memory))

    def _round(self) -> bool:
        takes = placement.plan(list(self.servers.values()), self.sizes, most_layers=self.sizes.layers)
        covered = not self.gaps
        meanwhile = dict(self.servers)
        for peer, take in takes.items():
            server = self.servers[peer]
            kept = tuple(span for span in server.spans if span != take.instead_of)
            if self._memory(server.spans) + self.sizes.memory_of(take.span) > server.memory:
                meanwhile[peer] = replace(server, spans=kept)
            self.servers[peer] = replace(server, spans=(*kept, take.span))
            if self._memory(self.servers[peer].spans) > server.memory:
                raise RuntimeError(f"{peer} would host more than it has room for")
        self.moves += len(takes)
        self.interruptions += covered and uncovered(meanwhile.values(), self.sizes) > 0
        return bool(takes)

    def _memory(self, spans: Iterable[LayerSpan]) -> int:
        return sum(map(self.sizes.memory_of, spans))


__all__ = ["LAYER_BYTES", "MEMORIES", "SPEEDS", "PlacedHive", "model", "peers"]
