"""From offers to a route: the stages, one after another, that make the whole model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hivemind_p2p.errors import MissingLayersError
from hivemind_p2p.net.addresses import by_relay_only
from hivemind_p2p.types import LayerSpan, Link, Offer, PeerId, Prices


@dataclass(frozen=True, slots=True)
class Hop:
    """One stage of a route: who runs which layers, what it asks, and whether it is reached through a relay only."""

    peer: PeerId
    span: LayerSpan
    prices: Prices
    relayed: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """Stages that cover a model's layers without gap or overlap."""

    hops: tuple[Hop, ...]

    @property
    def peers(self) -> frozenset[PeerId]:
        """Who takes part."""
        return frozenset(hop.peer for hop in self.hops)


def choose(offers: Sequence[Offer], link: Link, layer_count: int, avoid: Collection[PeerId] = ()) -> Route:
    """A route with the fewest relayed stages, of those one with the fewest stages; always the same one of equals.

    Every token crosses every stage, so a relay in the way slows the whole model down.

    Args:
        offers: What the peers offer; only stages that are ready count.
        link: Which model.
        layer_count: How many layers it has.
        avoid: Peers that must not take part.

    Raises:
        MissingLayersError: No chain of stages covers the model; the message names the layers.
    """
    hops = _ready(offers, link, layer_count, avoid)
    best: dict[int, tuple[Hop, ...]] = {0: ()}
    for hop in hops:
        # Sorted by start: whatever leads up to this hop has been seen.
        before = best.get(hop.span.start)
        if before is None:
            continue
        known = best.get(hop.span.stop)
        if known is None or _cost((*before, hop)) < _cost(known):
            best[hop.span.stop] = (*before, hop)
    if layer_count not in best:
        raise _missing(hops, link, layer_count, max(best))
    return Route(best[layer_count])


def _cost(hops: Sequence[Hop]) -> tuple[int, int]:
    return sum(hop.relayed for hop in hops), len(hops)


def covered(offers: Sequence[Offer], link: Link, layer_count: int) -> int:
    """How many layers have a host that is ready."""
    return len(
        {layer for hop in _ready(offers, link, layer_count, ()) for layer in range(hop.span.start, hop.span.stop)}
    )


def _ready(offers: Sequence[Offer], link: Link, layer_count: int, avoid: Collection[PeerId]) -> list[Hop]:
    hops = (
        Hop(offer.peer.peer_id, stage.span, offer.prices, by_relay_only(offer.peer.addresses))
        for offer in offers
        for stage in offer.stages
        if stage.link == link and stage.ready and offer.peer.peer_id not in avoid
    )
    inside = (hop for hop in hops if 0 <= hop.span.start < hop.span.stop <= layer_count)
    return sorted(inside, key=lambda hop: (hop.span, hop.relayed, hop.peer))


def _missing(hops: Sequence[Hop], link: Link, layer_count: int, reached: int) -> MissingLayersError:
    held = {layer for hop in hops for layer in range(hop.span.start, hop.span.stop)}
    gaps = [layer for layer in range(layer_count) if layer not in held]
    if not gaps:
        return MissingLayersError(f"no stages of {link} fit together after layer {reached}: their spans overlap")
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
