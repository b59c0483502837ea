"""Where peers would best be if they could all be placed at once.

`arrange` looks for the highest rate at which the layers can be given out from the first to the last: at each layer,
the peers that hold it work as much as the rate asks for; when they are not enough, one more peer is put there, holding
this layer and as many behind it as fit. A peer that is fast for its memory runs its whole span at the rate; one that
is slow for its memory runs as many layers as it can: so nobody's speed is left over but at the last layers and where
two spans overlap. It depends on the order in which peers are taken, so several are tried, and for few peers all.

How good it is stands in benchmarks/README.md: at least 0.9 of what no placement can exceed (`throughput.upper_bound`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import permutations
from operator import attrgetter
from zlib import crc32

from hivemind_p2p.sharding.layer_spans import Choices
from hivemind_p2p.sharding.throughput import Server, upper_bound
from hivemind_p2p.types import LayerSpan, PeerId

FEW = 5
"""Peers up to which every order is tried."""

SOME = 32
"""Peers up to which `SHUFFLES` orders are tried besides; with more, some orders are as good as any."""

SHUFFLES = 64

_STEPS = 12
"""Halvings when the best rate is searched: within a part in a thousand of the best one."""

_SPENT = 1e-9
"""The part of a layer's work, or of a peer's speed, that counts as nothing."""


def arrange(fixed: Sequence[Server], free: Sequence[Server], choices: Choices) -> Mapping[PeerId, LayerSpan]:
    """A span for each free peer that is needed for the best rate that was found; empty if layers are left in any case.

    Args:
        fixed: Peers that stay where they are.
        free: Peers that can be put anywhere; what they host now does not count.
        choices: What peers could host.
    """
    everybody = [*fixed, *free]
    low, high = 0.0, upper_bound(everybody, choices.sizes, lambda server: choices.work(server.memory))
    found: Mapping[PeerId, LayerSpan] = {}
    for _ in range(_STEPS):
        rate = (low + high) / 2
        at_rate = _try_orders(fixed, free, choices, rate)
        if at_rate is None:
            high = rate
        else:
            found, low = at_rate, rate
    return found


def _try_orders(
    fixed: Sequence[Server], free: Sequence[Server], choices: Choices, rate: float
) -> Mapping[PeerId, LayerSpan] | None:
    for order in _orders(free, choices, rate):
        found = _give_out(fixed, order, choices, rate)
        if found is not None:
            return found
    return None


def _orders(free: Sequence[Server], choices: Choices, rate: float) -> Iterator[Iterable[Server]]:
    """Those first that run whole spans, so that these lie one behind the other; the others fill what is left."""

    def work(server: Server) -> float:
        return choices.work(server.memory)

    named = sorted(free, key=attrgetter("peer"))
    whole = [server for server in named if server.speed >= work(server) * rate]
    parts = [server for server in named if server.speed < work(server) * rate]
    parts.sort(key=attrgetter("speed"), reverse=True)
    yield sorted(whole, key=work, reverse=True) + parts
    yield sorted(whole, key=work) + parts
    yield parts[::-1] + sorted(whole, key=work, reverse=True)
    yield sorted(named, key=lambda server: min(server.speed, work(server) * rate), reverse=True)
    if len(named) <= FEW:
        yield from permutations(named)
    elif len(named) <= SOME:
        for number in range(SHUFFLES):
            yield sorted(named, key=lambda server: crc32(f"{number} {server.peer}".encode()))


def _give_out(
    fixed: Sequence[Server], order: Iterable[Server], choices: Choices, rate: float
) -> dict[PeerId, LayerSpan] | None:
    """Where the peers go so that each layer gets `rate`; None if they are too few in this order."""
    left = {server.peer: server.speed for server in fixed}
    holders = [(span.stop, server.peer, span.start) for server in fixed for span in server.spans]
    waiting = list(order)
    placed: dict[PeerId, LayerSpan] = {}
    for layer, work in enumerate(choices.sizes.work):
        # Whoever can help for longest is kept for later.
        holders = sorted(holder for holder in holders if holder[0] > layer and left[holder[1]] > 0.0)
        wanted = work * rate
        enough = wanted * _SPENT
        for _, peer, start in holders:
            if start <= layer and wanted > enough:
                wanted = _spend(left, peer, wanted)
        while wanted > enough:
            new = _next(waiting, choices, layer)
            if new is None:
                return None
            server, span = new
            placed[server.peer] = span
            left[server.peer] = server.speed
            holders.append((span.stop, server.peer, span.start))
            wanted = _spend(left, server.peer, wanted)
    return placed


def _spend(left: dict[PeerId, float], peer: PeerId, wanted: float) -> float:
    """What is still wanted after a peer has given what it has left."""
    spent = min(wanted, left[peer])
    left[peer] -= spent
    return wanted - spent


def _next(waiting: list[Server], choices: Choices, layer: int) -> tuple[Server, LayerSpan] | None:
    for index, server in enumerate(waiting):
        span = choices.from_layer(server.memory, layer)
        if span is not None:
            del waiting[index]
            return server, span
    return None


__all__ = ["FEW", "arrange"]
