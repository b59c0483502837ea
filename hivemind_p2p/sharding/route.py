"""From offers to a route: the stages, one after another, that make the whole model.

A route may use any part of what a peer hosts. Of what is left to choose, callers choose differently, so that peers that
host the same layers share the generations.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from zlib import crc32

from hivemind_p2p.errors import MissingLayersError
from hivemind_p2p.net.addresses import by_relay_only
from hivemind_p2p.types import LayerSpan, Link, Offer, PeerId, Prices


@dataclass(frozen=True, slots=True)
class Hop:
    """One stage of a route.

    Attributes:
        peer: Who runs it.
        span: Which layers.
        prices: What it asks.
        relayed: Whether it is reached through a relay only.
        speed: Bytes of weights a second that it has measured of itself; 0 if it has not.
    """

    peer: PeerId
    span: LayerSpan
    prices: Prices
    relayed: bool = False
    speed: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """Stages that cover a model's layers without gap or overlap."""

    hops: tuple[Hop, ...]

    @property
    def peers(self) -> frozenset[PeerId]:
        """Who takes part."""
        return frozenset(hop.peer for hop in self.hops)


def choose(
    offers: Sequence[Offer], link: Link, layer_count: int, avoid: Collection[PeerId] = (), *, chance: bytes = b""
) -> Route:
    """A route with the fewest relayed stages, of those one with the fewest stages, of those one of fast ones.

    Every token crosses every stage, so each stage costs its way on the network, and a relay slows the whole model down.

    Args:
        offers: What the peers offer; only stages that are ready count.
        link: Which model.
        layer_count: How many layers it has.
        avoid: Peers that must not take part.
        chance: Decides between peers that are nearly as good; the same one with the same bytes.

    Raises:
        MissingLayersError: No chain of stages covers the model; the message names the layers.
    """
    hops = _ready(offers, link, layer_count, avoid)
    best: dict[int, tuple[_Cost, tuple[Hop, ...]]] = {0: (_Cost(), ())}
    for layer in range(layer_count):
        if layer not in best:
            continue
        cost, before = best[layer]
        for hop in hops:
            if not hop.span.start <= layer < hop.span.stop:
                continue
            # The stage goes on as far as it can: what another one holds behind it can be entered anywhere.
            part = replace(hop, span=LayerSpan(layer, hop.span.stop))
            after = cost.with_hop(part, chance)
            known = best.get(part.span.stop)
            if known is None or after < known[0]:
                best[part.span.stop] = after, (*before, part)
    if layer_count not in best:
        raise _missing(hops, link, layer_count)
    return Route(best[layer_count][1])


_SPREAD = 0.25
"""Peers whose speeds differ by less than this part are as good as each other."""

_ORDINARY_SPEED = 5e9
"""Of a peer that has not measured itself."""


class _Cost(NamedTuple):
    relayed: int = 0
    stages: int = 0
    seconds: float = 0.0

    def with_hop(self, hop: Hop, chance: bytes) -> _Cost:
        drawn = crc32(chance + hop.peer.encode()) / 2**32 if chance else 0.0
        seconds = len(hop.span) / (hop.speed or _ORDINARY_SPEED) * (1 + _SPREAD * drawn)
        return _Cost(self.relayed + hop.relayed, self.stages + 1, self.seconds + seconds)


def covered(offers: Sequence[Offer], link: Link, layer_count: int) -> int:
    """How many layers have a host that is ready."""
    return len(
        {layer for hop in _ready(offers, link, layer_count, ()) for layer in range(hop.span.start, hop.span.stop)}
    )


def _ready(offers: Sequence[Offer], link: Link, layer_count: int, avoid: Collection[PeerId]) -> list[Hop]:
    hops = (
        Hop(
            offer.peer.peer_id,
            stage.span,
            offer.prices,
            by_relay_only(offer.peer.addresses),
            offer.weight_bytes_per_second,
        )
        for offer in offers
        for stage in offer.stages
        if stage.link == link and stage.ready and offer.peer.peer_id not in avoid
    )
    inside = (hop for hop in hops if 0 <= hop.span.start < hop.span.stop <= layer_count)
    return sorted(inside, key=lambda hop: (hop.span, hop.relayed, hop.peer))


def _missing(hops: Sequence[Hop], link: Link, layer_count: int) -> MissingLayersError:
    held = {layer for hop in hops for layer in range(hop.span.start, hop.span.stop)}
    gaps = [layer for layer in range(layer_count) if layer not in held]
    return MissingLayersError(f"no peer hosts layers {_runs(gaps)} of {link}")


def _runs(layers: Sequence[int]) -> str:
    """``0-3, 7`` for 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
