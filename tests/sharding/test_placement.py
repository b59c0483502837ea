"""What each peer decides about the layers that it hosts."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.sharding.placement import Take, decide, plan
from hivemind_p2p.sharding.throughput import ModelSizes, Server
from hivemind_p2p.testing.simulated_placement import PlacedHive
from hivemind_p2p.types import LayerSpan, PeerId

SIX = ModelSizes.of(6, 10)
FIRST, SECOND, THIRD = LayerSpan(0, 2), LayerSpan(2, 4), LayerSpan(4, 6)


def server(
    name: str, *spans: LayerSpan, loading: Sequence[LayerSpan] = (), memory: int = 20, speed: float = 60.0
) -> Server:
    return Server(PeerId(name), speed, memory, (*spans, *loading), tuple(loading))


def decisions(*servers: Server, most_layers: int = 6) -> dict[str, Take | None]:
    return {str(each.peer): decide(each.peer, servers, SIX, most_layers=most_layers) for each in servers}


def spans_of(takes: dict[str, Take | None]) -> list[LayerSpan]:
    return sorted(take.span for take in takes.values() if take is not None)


def test_peers_that_decide_at_the_same_moment_choose_differently() -> None:
    assert spans_of(decisions(server("c"), server("a"), server("b"))) == [FIRST, SECOND, THIRD]


def test_the_order_in_which_peers_are_known_does_not_matter() -> None:
    assert decisions(server("c"), server("a"), server("b")) == decisions(server("b"), server("c"), server("a"))


def test_everybody_plays_through_the_same() -> None:
    servers = [server("a"), server("b", memory=40), server("c", speed=200.0)]
    taken = plan(servers, SIX, most_layers=6)
    assert {name: take for name, take in decisions(*servers).items() if take} == taken


def test_a_claim_counts_like_a_stage_that_is_ready() -> None:
    found = decisions(server("a", loading=[FIRST]), server("b", THIRD), server("c"))
    assert found == {"a": None, "b": None, "c": Take(SECOND)}


def test_a_peer_that_comes_later_helps_where_it_is_needed_most() -> None:
    hosts = [server("a", FIRST), server("b", SECOND, speed=20.0), server("c", THIRD)]
    assert decisions(*hosts, server("d"))["d"] == Take(SECOND)


def test_the_publisher_may_want_shorter_spans() -> None:
    found = decisions(*(server(name, memory=60) for name in "abc"), most_layers=2)
    assert spans_of(found) == [FIRST, SECOND, THIRD]


def test_a_peer_with_memory_left_takes_what_nobody_hosts() -> None:
    found = decisions(server("a", FIRST, memory=40), server("b", SECOND))
    assert found == {"a": Take(THIRD), "b": None}


def test_peers_that_have_loaded_move_where_layers_are_left_in_any_other_way() -> None:
    hive = PlacedHive(SIX, [server("a", FIRST), server("b", FIRST), server("c", SECOND)])
    hive.settle()
    assert hive.gaps == 0


def test_a_peer_whose_layers_others_serve_better_moves() -> None:
    hosts = [server("a", FIRST, speed=600.0), server("b", FIRST), server("c", SECOND), server("d", THIRD, speed=600.0)]
    assert decisions(*hosts)["b"] == Take(SECOND, instead_of=FIRST)


def test_nobody_moves_while_somebody_loads() -> None:
    hosts = [server("a", FIRST, speed=600.0), server("b", FIRST), server("c", SECOND), server("d", THIRD)]
    assert set(decisions(*hosts, server("e", loading=[SECOND])).values()) == {None}


def test_the_only_host_of_a_layer_stays() -> None:
    hosts = [server("a", FIRST, speed=600.0), server("b", SECOND), server("c", THIRD)]
    assert set(decisions(*hosts).values()) == {None}


def test_nothing_is_left_to_do() -> None:
    assert set(decisions(server("a", FIRST), server("b", SECOND), server("c", THIRD)).values()) == {None}


def test_a_peer_without_room_for_a_single_layer_hosts_nothing() -> None:
    assert decisions(server("a", memory=9))["a"] is None


_spans = st.tuples(st.integers(0, 5), st.integers(1, 3)).map(lambda it: LayerSpan(it[0], min(6, it[0] + it[1])))
_hosts = st.lists(
    st.tuples(st.floats(1.0, 1000.0), st.integers(0, 40), st.lists(_spans, max_size=1)), min_size=1, max_size=9
)


@given(_hosts)
def test_from_any_state_it_comes_to_rest_without_a_gap_that_was_not_there(
    hosts: list[tuple[float, int, list[LayerSpan]]],
) -> None:
    servers = [
        Server(PeerId(f"p{index}"), speed, memory + 10 * sum(map(len, spans)), tuple(spans))
        for index, (speed, memory, spans) in enumerate(hosts)
    ]
    hive = PlacedHive(SIX, servers)
    gaps = hive.gaps
    hive.settle()
    assert hive.gaps <= gaps
    assert hive.interruptions == 0
    if sum(each.memory // 10 for each in servers) < 6:
        assert hive.gaps > 0
