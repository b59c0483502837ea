"""From offers to what placement decides about."""

from __future__ import annotations

from dataclasses import replace

from hivemind_p2p.sharding import market
from hivemind_p2p.sharding.placement import Take
from hivemind_p2p.sharding.wire import ModelRecord
from hivemind_p2p.types import LayerSpan, Link, Offer, PeerId, PeerInfo, StageOffer

LINK, OTHER = Link("magnet:a"), Link("magnet:b")
MODEL = ModelRecord(LINK, "model", 6, 1, "LlamaForCausalLM", layer_bytes=10, embedding_bytes=5, head_bytes=5)
RELAYED = ("/ip4/9.9.9.9/tcp/4001/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5/p2p-circuit",)
FIRST, LAST = LayerSpan(0, 3), LayerSpan(3, 6)


def offer(name: str, *stages: StageOffer, free: int = 35, speed: int = 0, serves: bool = True) -> Offer:
    return Offer(
        peer=PeerInfo(PeerId(name)),
        serves_models=serves,
        stages=stages,
        weight_bytes_free=free,
        weight_bytes_per_second=speed,
    )


def relayed(each: Offer) -> Offer:
    return replace(each, peer=PeerInfo(each.peer.peer_id, RELAYED))


def servers(*offers: Offer) -> dict[str, tuple[LayerSpan, ...]]:
    return {str(each.peer): each.spans for each in market.servers_of(LINK, market.sizes_of(MODEL), offers)}


def test_what_a_peer_hosts_counts_to_its_memory() -> None:
    sizes = market.sizes_of(MODEL)
    (found,) = market.servers_of(LINK, sizes, [offer("a", StageOffer(LINK, FIRST, False), free=7, speed=123)])
    assert found.memory == 7 + 35
    assert found.speed == 123
    assert found.loading == (FIRST,)


def test_a_peer_that_has_not_measured_itself_counts_as_an_ordinary_one() -> None:
    (found,) = market.servers_of(LINK, market.sizes_of(MODEL), [offer("a")])
    assert found.speed == market.UNMEASURED_SPEED


def test_other_models_and_layers_that_there_are_not_do_not_count() -> None:
    stages = (StageOffer(OTHER, FIRST, True), StageOffer(LINK, LayerSpan(0, 600), True))
    assert servers(offer("a", *stages)) == {"a": ()}


def test_who_serves_no_models_takes_no_part() -> None:
    assert servers(offer("a", serves=False), offer("b")) == {"b": ()}


def test_a_relayed_peer_hosts_nothing_as_long_as_there_are_others() -> None:
    assert servers(relayed(offer("a")), offer("b")) == {"b": ()}
    assert servers(relayed(offer("a", StageOffer(LINK, FIRST, True))), offer("b")) == {"a": (FIRST,), "b": ()}
    assert servers(relayed(offer("a")), relayed(offer("b"))) == {"a": (), "b": ()}


def test_two_peers_share_a_model_that_neither_can_hold() -> None:
    offers = [offer("a"), offer("b")]
    found = {name: market.decide(MODEL, PeerId(name), offers) for name in "ab"}
    assert {take.span for take in found.values() if take} == {FIRST, LAST}


def test_a_model_is_served_once_every_layer_has_a_host_that_is_ready() -> None:
    ready, loading = StageOffer(LINK, FIRST, True), StageOffer(LINK, LAST, False)
    assert not market.served(MODEL, [offer("a", ready), offer("b", loading)])
    assert market.served(MODEL, [offer("a", ready), offer("b", replace(loading, ready=True))])


def test_a_publisher_that_lies_about_sizes_gets_an_answer_all_the_same() -> None:
    lying = replace(MODEL, layer_bytes=0, embedding_bytes=0, head_bytes=0)
    assert market.decide(lying, PeerId("a"), [offer("a")]) == Take(LayerSpan(0, 6))
