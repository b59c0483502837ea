"""Which stages a route takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hivemind_p2p.errors import MissingLayersError
from hivemind_p2p.sharding import route
from hivemind_p2p.types import LayerSpan, Link, Offer, PeerId, PeerInfo, StageOffer

LINK, OTHER = Link("magnet:a"), Link("magnet:b")
SPANS = (LayerSpan(0, 2), LayerSpan(2, 4), LayerSpan(4, 6))


def offer(name: str, *spans: LayerSpan, ready: bool = True, link: Link = LINK) -> Offer:
    stages = tuple(StageOffer(link, span, ready) for span in spans)
    return Offer(peer=PeerInfo(PeerId(name)), serves_models=True, stages=stages)


def hops(*offers: Offer, layers: int = 6, avoid: tuple[str, ...] = ()) -> list[str]:
    chosen = route.choose(offers, LINK, layers, [PeerId(name) for name in avoid])
    return [f"{hop.peer}:{hop.span}" for hop in chosen.hops]


def test_a_route_covers_every_layer_once() -> None:
    assert hops(offer("c", SPANS[2]), offer("a", SPANS[0]), offer("b", SPANS[1])) == ["a:0-1", "b:2-3", "c:4-5"]


def test_fewer_stages_are_better() -> None:
    whole = offer("z", LayerSpan(0, 6))
    assert hops(offer("a", *SPANS), whole) == ["z:0-5"]
    assert hops(offer("a", *SPANS), offer("b", LayerSpan(2, 6))) == ["a:0-1", "b:2-5"]


def test_the_order_of_the_offers_does_not_matter() -> None:
    offers = [offer("a", *SPANS), offer("b", *SPANS), offer("c", SPANS[1])]
    assert hops(*offers) == hops(*reversed(offers))


def test_avoided_peers_take_no_part() -> None:
    offers = [offer("a", *SPANS), offer("b", SPANS[1])]
    assert hops(*offers, offer("c", SPANS[0], SPANS[2]), avoid=("a",)) == ["c:0-1", "b:2-3", "c:4-5"]


@pytest.mark.parametrize(
    ("offers", "message"),
    [
        ((), "layers 0-5"),
        ((offer("a", SPANS[1]),), "layers 0-1, 4-5"),
        ((offer("a", SPANS[0], ready=False), offer("b", SPANS[1], SPANS[2])), "layers 0-1"),
        ((offer("a", *SPANS, link=OTHER),), "layers 0-5"),
        ((offer("a", LayerSpan(0, 600)),), "layers 0-5"),
    ],
)
def test_missing_layers_are_named(offers: tuple[Offer, ...], message: str) -> None:
    with pytest.raises(MissingLayersError, match=message):
        route.choose(offers, LINK, 6)


RELAYED = ("/ip4/9.9.9.9/tcp/4001/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5/p2p-circuit",)


def relayed(each: Offer) -> Offer:
    return replace(each, peer=PeerInfo(each.peer.peer_id, RELAYED))


def test_a_route_leads_around_relays_even_over_more_stages() -> None:
    whole = relayed(offer("a", LayerSpan(0, 6)))
    parts = [offer("b", SPANS[0]), relayed(offer("c", SPANS[1])), offer("d", SPANS[1]), offer("e", SPANS[2])]
    assert route.choose([whole, *parts], LINK, 6).peers == {"b", "d", "e"}
    assert route.choose([whole, *parts[:2]], LINK, 6).peers == {"a"}


def test_a_route_uses_parts_of_what_is_hosted() -> None:
    assert hops(offer("a", LayerSpan(0, 4)), offer("b", LayerSpan(2, 6))) == ["a:0-3", "b:4-5"]
    assert hops(offer("a", LayerSpan(0, 3), LayerSpan(2, 6))) == ["a:0-2", "a:3-5"]


def test_faster_peers_are_better_where_the_stages_are_as_many() -> None:
    fast = replace(offer("z", SPANS[1]), weight_bytes_per_second=10**11)
    slow = replace(offer("b", SPANS[1]), weight_bytes_per_second=10**9)
    assert route.choose([offer("a", SPANS[0], SPANS[2]), slow, fast], LINK, 6).peers == {"a", "z"}


def test_generations_are_shared_among_peers_that_are_as_good() -> None:
    hosts = [offer(name, LayerSpan(0, 6)) for name in "abcd"]
    chosen = [route.choose(hosts, LINK, 6, chance=b"%d" % number).peers for number in range(40)]
    assert set().union(*chosen) == {"a", "b", "c", "d"}
    assert route.choose(hosts, LINK, 6, chance=b"7") == route.choose(hosts, LINK, 6, chance=b"7")


def test_nobody_draws_a_peer_that_is_much_slower() -> None:
    hosts = [
        replace(offer(name, LayerSpan(0, 6)), weight_bytes_per_second=speed) for name, speed in (("a", 9), ("b", 5))
    ]
    assert {route.choose(hosts, LINK, 6, chance=b"%d" % number).peers for number in range(40)} == {frozenset({"a"})}
