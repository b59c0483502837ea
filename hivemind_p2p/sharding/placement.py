"""Which layers a peer should host: decided by every peer for itself, from the same offers, without a master.

A model is cut into a number of even spans. The peers that serve models are put in the order of their ids; the r-th
peer that hosts nothing takes the r-th span that nobody hosts. Peers that decide at the same moment from the same
offers therefore choose different spans. When spans are left and every willing peer hosts something already, those
with the fewest spans take one more each.

Peers that are reached through a relay only host nothing as long as there are others: every token crosses every stage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from hivemind_p2p.net.addresses import by_relay_only
from hivemind_p2p.types import LayerSpan, Link, Offer, PeerId


def cut(layer_count: int, stages: int) -> tuple[LayerSpan, ...]:
    """A model's layers in even spans; the first ones hold one more where it does not divide."""
    stages = max(1, min(stages, layer_count))
    size, larger = divmod(layer_count, stages)
    bounds = [index * size + min(index, larger) for index in range(stages + 1)]
    return tuple(LayerSpan(start, stop) for start, stop in pairwise(bounds))


def decide(link: Link, layer_count: int, stages_wanted: int, me: PeerId, offers: Sequence[Offer]) -> LayerSpan | None:
    """The span that this peer should host besides what it hosts; None if nothing is left for it to do.

    Args:
        link: Which model.
        layer_count: How many layers it has.
        stages_wanted: Into how many spans it is cut.
        me: Who decides.
        offers: Everybody's offers, one's own among them. A stage that is loading counts like one that is ready.
    """
    hosted = {
        offer.peer.peer_id: [stage.span for stage in offer.stages if stage.link == link]
        for offer in offers
        if offer.serves_models or offer.stages
    }
    willing = _willing(offers)
    if me not in willing:
        return None
    spans = cut(layer_count, stages_wanted)
    cover = Counter(span for held in hosted.values() for span in set(held))
    if not hosted[me]:
        return _first_span([peer for peer in willing if not hosted[peer]], me, spans, cover)
    if any(not hosted[peer] for peer in willing):
        return None
    order = sorted(willing, key=lambda peer: (len(hosted[peer]), peer))
    uncovered = [span for span in spans if not cover[span]]
    return dict(zip(order, uncovered, strict=False)).get(me)


def _willing(offers: Sequence[Offer]) -> list[PeerId]:
    """Who is to host stages, in the order in which they choose."""
    serving = [offer for offer in offers if offer.serves_models]
    direct = [offer for offer in serving if not by_relay_only(offer.peer.addresses)]
    return sorted({offer.peer.peer_id for offer in direct or serving})


def _first_span(
    unplaced: Sequence[PeerId], me: PeerId, spans: Sequence[LayerSpan], cover: Counter[LayerSpan]
) -> LayerSpan | None:
    """Plays through what the unplaced peers before this one take: the least covered span, the first of equals."""
    played = Counter(cover)
    for peer in unplaced:
        span = min(spans, key=lambda candidate: (played[candidate], candidate))
        if peer == me:
            return span
        played[span] += 1
    return None
