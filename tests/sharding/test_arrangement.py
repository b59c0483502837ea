"""Giving layers out from the first to the last."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.sharding.arrangement import arrange
from hivemind_p2p.sharding.layer_spans import Choices, candidates
from hivemind_p2p.sharding.throughput import ModelSizes, Server, tokens_per_second, uncovered, upper_bound
from hivemind_p2p.types import LayerSpan, PeerId

SIX = ModelSizes.of(6, 10)


def server(name: str, *, speed: float = 60.0, memory: int = 20, spans: tuple[LayerSpan, ...] = ()) -> Server:
    return Server(PeerId(name), speed, memory, spans)


def placed(servers: list[Server], sizes: ModelSizes, fixed: list[Server] | None = None) -> list[Server]:
    found = arrange(fixed or [], servers, Choices(sizes, sizes.layers))
    return [replace(each, spans=(found[each.peer],)) for each in servers if each.peer in found]


def test_equal_peers_lie_one_behind_the_other() -> None:
    found = placed([server(name) for name in "abc"], SIX)
    assert sorted(each.spans[0] for each in found) == [LayerSpan(0, 2), LayerSpan(2, 4), LayerSpan(4, 6)]
    assert tokens_per_second(found, SIX) > 2.99


def test_a_slow_peer_gets_help_where_it_stands() -> None:
    servers = [server("slow", speed=20.0), server("a"), server("b"), server("helper", speed=40.0)]
    assert tokens_per_second(placed(servers, SIX), SIX) > 2.9


def test_peers_that_stay_are_counted() -> None:
    fixed = [server("a", spans=(LayerSpan(2, 4),))]
    found = placed([server("b"), server("c")], SIX, fixed)
    assert {each.spans[0].start for each in found} == {0, 4}


def test_too_few_peers_get_nothing() -> None:
    assert placed([server("a"), server("b")], SIX) == []


def test_a_layer_that_is_too_large_for_some_goes_to_others() -> None:
    sizes = ModelSizes.of(4, 10, head_bytes=100)
    found = placed([server("small"), server("large", memory=140)], sizes)
    assert uncovered(found, sizes) == 0
    assert next(each for each in found if each.peer == "large").spans[0].stop == 4


_servers = st.lists(st.tuples(st.floats(1.0, 1000.0), st.integers(0, 80)), min_size=1, max_size=12).map(
    lambda given: [server(f"p{index}", speed=speed, memory=memory) for index, (speed, memory) in enumerate(given)]
)


@given(_servers, st.integers(1, 8), st.integers(0, 30))
def test_what_comes_out_fits_everybody_and_is_no_better_than_can_be(
    servers: list[Server], layers: int, head: int
) -> None:
    sizes = ModelSizes.of(layers, 10, head_bytes=head)
    choices = Choices(sizes, layers)
    found = placed(servers, sizes)
    for each in found:
        assert each.spans[0] in candidates(sizes, each.memory, layers)
    if found:
        assert uncovered(found, sizes) == 0
        bound = upper_bound(servers, sizes, lambda each: choices.work(each.memory))
        assert 0.0 < tokens_per_second(found, sizes) <= bound * (1 + 1e-6)
