"""Peers that decide alone, from the same offers, end up covering every layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import MissingLayersError
from hivemind_p2p.sharding import route
from hivemind_p2p.sharding.placement import cut, decide
from hivemind_p2p.types import LayerSpan, Link, Offer, PeerId, PeerInfo, StageOffer

LINK, OTHER = Link("magnet:a"), Link("magnet:b")
SPANS = (LayerSpan(0, 2), LayerSpan(2, 4), LayerSpan(4, 6))


def offer(name: str, *spans: LayerSpan, ready: bool = True, serves: bool = True, link: Link = LINK) -> Offer:
    stages = tuple(StageOffer(link, span, ready) for span in spans)
    return Offer(peer=PeerInfo(PeerId(name)), serves_models=serves, stages=stages)


def decisions(offers: list[Offer], layers: int = 6, stages: int = 3) -> dict[str, LayerSpan | None]:
    return {str(each.peer.peer_id): decide(LINK, layers, stages, each.peer.peer_id, offers) for each in offers}


def taken(each: Offer, span: LayerSpan | None) -> Offer:
    return each if span is None else replace(each, stages=(*each.stages, StageOffer(LINK, span, False)))


@given(st.integers(1, 60), st.integers(1, 70))
def test_a_cut_is_even_and_whole(layers: int, stages: int) -> None:
    spans = cut(layers, stages)
    assert [layer for span in spans for layer in range(span.start, span.stop)] == list(range(layers))
    assert len(spans) == min(stages, layers)
    assert max(map(len, spans)) - min(map(len, spans)) <= 1


def test_peers_that_decide_at_the_same_moment_choose_differently() -> None:
    assert decisions([offer("c"), offer("a"), offer("b")]) == {"a": SPANS[0], "b": SPANS[1], "c": SPANS[2]}


def test_one_more_peer_doubles_the_least_covered_span() -> None:
    held = [offer("a", SPANS[0]), offer("b", SPANS[1]), offer("c", SPANS[2]), offer("d", SPANS[0]), offer("e")]
    assert decisions(held)["e"] == SPANS[1]


def test_a_claim_counts_like_a_stage_that_is_ready() -> None:
    assert decisions([offer("a", SPANS[0], ready=False), offer("b")])["b"] == SPANS[1]


def test_whoever_hosts_something_waits_for_those_that_host_nothing() -> None:
    found = decisions([offer("a", SPANS[0]), offer("b")])
    assert found == {"a": None, "b": SPANS[1]}


def test_the_peer_with_the_fewest_spans_takes_what_is_left() -> None:
    held = [offer("a", SPANS[0], SPANS[1]), offer("b", SPANS[1])]
    assert decisions(held) == {"a": None, "b": SPANS[2]}


def test_nothing_is_left_to_do() -> None:
    held = [offer("a", SPANS[0]), offer("b", SPANS[1]), offer("c", SPANS[2])]
    assert set(decisions(held).values()) == {None}


def test_who_serves_no_models_hosts_none() -> None:
    assert decisions([offer("a", serves=False), offer("b")]) == {"a": None, "b": SPANS[0]}


def test_other_models_do_not_count() -> None:
    assert decide(LINK, 6, 3, PeerId("a"), [offer("a", SPANS[0], link=OTHER)]) == SPANS[0]


_names = st.sets(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=12)


@given(_names, st.integers(1, 24), st.integers(1, 12), st.data())
def test_deciding_again_and_again_covers_every_layer(
    names: set[str], layers: int, stages: int, data: st.DataObject
) -> None:
    """From any state, all peers deciding at once each round; an answer is never a span that one holds already."""
    spans = cut(layers, stages)
    held = st.lists(st.sampled_from(spans), unique=True, max_size=3)
    offers = [offer(name, *data.draw(held)) for name in sorted(names)]
    for _ in range(len(spans) + 2):
        found = decisions(offers, layers, stages)
        for each in offers:
            assert found[each.peer.peer_id] not in [stage.span for stage in each.stages]
        offers = [taken(each, found[each.peer.peer_id]) for each in offers]
    assert {stage.span for each in offers for stage in each.stages} == set(spans)
    assert set(decisions(offers, layers, stages).values()) == {None}, "and then everybody rests"
    ready = [replace(each, stages=tuple(replace(stage, ready=True) for stage in each.stages)) for each in offers]
    chosen = route.choose(ready, LINK, layers)
    assert [hop.span for hop in chosen.hops] == list(spans)


@given(_names, st.integers(1, 24), st.integers(1, 12), st.data())
def test_a_death_is_healed(names: set[str], layers: int, stages: int, data: st.DataObject) -> None:
    offers = [offer(name) for name in sorted(names)]
    rounds = len(cut(layers, stages)) + 2
    for _ in range(rounds):
        found = decisions(offers, layers, stages)
        offers = [taken(each, found[each.peer.peer_id]) for each in offers]
    survivors = [each for each in offers if each is not data.draw(st.sampled_from(offers))]
    for _ in range(rounds):
        found = decisions(survivors, layers, stages)
        survivors = [taken(each, found[each.peer.peer_id]) for each in survivors]
    covered = {stage.span for each in survivors for stage in each.stages}
    assert covered == (set(cut(layers, stages)) if survivors else set())


# ---- routes


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
        ((offer("a", LayerSpan(0, 3), LayerSpan(2, 6)),), "fit together"),
        ((offer("a", LayerSpan(0, 600)),), "layers 0-5"),
    ],
)
def test_missing_layers_are_named(offers: tuple[Offer, ...], message: str) -> None:
    with pytest.raises(MissingLayersError, match=message):
        route.choose(offers, LINK, 6)


RELAYED = ("/ip4/9.9.9.9/tcp/4001/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5/p2p-circuit",)


def relayed(each: Offer) -> Offer:
    return replace(each, peer=PeerInfo(each.peer.peer_id, RELAYED))


def test_a_relayed_peer_hosts_nothing_as_long_as_there_are_others() -> None:
    assert decisions([relayed(offer("a")), offer("b"), offer("c")]) == {"a": None, "b": SPANS[0], "c": SPANS[1]}
    assert decisions([relayed(offer("a")), offer("b", SPANS[0])]) == {"a": None, "b": SPANS[1]}


def test_relayed_peers_host_where_nobody_else_is() -> None:
    assert decisions([relayed(offer("a")), relayed(offer("b"))]) == {"a": SPANS[0], "b": SPANS[1]}


def test_a_route_leads_around_relays_even_over_more_stages() -> None:
    whole = relayed(offer("a", LayerSpan(0, 6)))
    parts = [offer("b", SPANS[0]), relayed(offer("c", SPANS[1])), offer("d", SPANS[1]), offer("e", SPANS[2])]
    assert route.choose([whole, *parts], LINK, 6).peers == {"b", "d", "e"}
    assert route.choose([whole, *parts[:2]], LINK, 6).peers == {"a"}
