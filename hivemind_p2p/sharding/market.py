"""From offers to what `placement` decides about: what a model's layers cost, and what each peer could host of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hivemind_p2p.net.addresses import by_relay_only
from hivemind_p2p.sharding import placement
from hivemind_p2p.sharding.throughput import ModelSizes, Server, uncovered
from hivemind_p2p.sharding.wire import ModelRecord
from hivemind_p2p.types import LayerSpan, Link, Offer, PeerId

UNMEASURED_SPEED = 5e9
"""Bytes of weights a second of a peer that has not said: an ordinary machine."""


WEIGHT_PART = 0.75
"""Of the memory lent to models, the part that weights may take; caches need the rest."""


def weight_bytes(memory_bytes: int) -> int:
    """What a peer that lends so much memory gives to weights at most."""
    return int(memory_bytes * WEIGHT_PART)


def sizes_of(model: ModelRecord) -> ModelSizes:
    """What the layers cost, as the publisher says."""
    return ModelSizes.of(
        model.layer_count,
        max(1, model.layer_bytes),
        embedding_bytes=model.embedding_bytes,
        head_bytes=model.head_bytes,
    )


def bytes_of(model: ModelRecord, span: LayerSpan) -> int:
    """The memory that a span's weights will take, as the publisher says."""
    return sizes_of(model).memory_of(span)


def serves(offer: Offer, link: Link) -> bool:
    """Whether a peer would host layers of a model."""
    return offer.serves_models and (not offer.served_links or link in offer.served_links)


def servers_of(link: Link, sizes: ModelSizes, offers: Sequence[Offer]) -> list[Server]:
    """The peers that host layers of a model or would; claims count as hosted.

    Peers that are reached through a relay only are asked for nothing new while there are others.
    """
    serving = {offer.peer.peer_id: offer for offer in offers if serves(offer, link)}
    direct = any(not by_relay_only(offer.peer.addresses) for offer in serving.values())
    found = (_server(link, sizes, offer) for offer in serving.values())
    return [
        server
        for server in found
        if server.spans or not (direct and by_relay_only(serving[server.peer].peer.addresses))
    ]


def served(model: ModelRecord, offers: Sequence[Offer]) -> bool:
    """Whether every layer has a host that is ready."""
    sizes = sizes_of(model)
    return not uncovered(map(_ready, servers_of(model.link, sizes, offers)), sizes)


def _ready(server: Server) -> Server:
    return replace(server, spans=tuple(span for span in server.spans if span not in server.loading))


def _server(link: Link, sizes: ModelSizes, offer: Offer) -> Server:
    stages = [stage for stage in offer.stages if stage.link == link and stage.span.stop <= sizes.layers]
    spans = tuple(dict.fromkeys(stage.span for stage in stages))
    return Server(
        peer=offer.peer.peer_id,
        speed=float(offer.weight_bytes_per_second or UNMEASURED_SPEED),
        memory=offer.weight_bytes_free + sum(map(sizes.memory_of, spans)),
        spans=spans,
        loading=tuple(stage.span for stage in stages if not stage.ready),
    )


def decide(model: ModelRecord, me: PeerId, offers: Sequence[Offer]) -> placement.Take | None:
    """What this peer should host of a model, besides or instead of what it hosts."""
    sizes = sizes_of(model)
    servers = servers_of(model.link, sizes, offers)
    return placement.decide(me, servers, sizes, most_layers=model.most_layers)


__all__ = ["bytes_of", "decide", "served", "servers_of", "serves", "sizes_of", "weight_bytes"]
