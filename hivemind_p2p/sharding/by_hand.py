"""A placement that somebody has made by hand: checked against who is there and what they serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.sharding import market
from hivemind_p2p.types import LayerSpan, Link, Offer, PeerId


def spans_of(
    placement: Mapping[PeerId | str, LayerSpan | tuple[int, int]], offers: Sequence[Offer], link: Link, layers: int
) -> dict[PeerId, LayerSpan]:
    """The placement with ids for names.

    Args:
        placement: For a peer's id or name, its first layer and the one behind its last.
        offers: Who is there.
        link: Which model.
        layers: How many it has.

    Raises:
        ConfigurationError: A peer is not there, or serves no such model, or layers are wrong or left out.
    """
    found = {_peer(name, offers, link).peer.peer_id: _span(name, span, layers) for name, span in placement.items()}
    held = {layer for span in found.values() for layer in range(span.start, span.stop)}
    if missing := sorted(set(range(layers)) - held):
        raise ConfigurationError(f"the placement leaves out layer {missing[0]}, of {layers} layers 0 to {layers - 1}")
    return found


def _peer(name: PeerId | str, offers: Sequence[Offer], link: Link) -> Offer:
    matching = [offer for offer in offers if name in (offer.peer.peer_id, offer.name)]
    if not matching:
        raise ConfigurationError(f"no peer is called {name!r}", hint="hive.peers() shows who is there.")
    if len(matching) > 1:
        raise ConfigurationError(f"{len(matching)} peers are called {name!r}", hint="Use the peer's id.")
    if not market.serves(matching[0], link):
        raise ConfigurationError(
            f"peer {name!r} does not serve this model", hint="Start it with `hivemind-peer run --serve-models any`."
        )
    return matching[0]


def _span(name: str, span: LayerSpan | tuple[int, int], layers: int) -> LayerSpan:
    start, stop = span if isinstance(span, tuple) else (span.start, span.stop)
    if not 0 <= start < stop <= layers:
        raise ConfigurationError(
            f"peer {name!r} cannot host layers [{start}, {stop}) of {layers}: the first is 0, the end is not counted"
        )
    return LayerSpan(start, stop)


__all__ = ["spans_of"]
