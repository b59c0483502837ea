"""The connection budget: what goes, what stays, and in which order."""

from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.net.connection_budget import GRACE, Usage, surplus

NOW = 1000.0


def usage(key, **settings):
    return Usage(key, **{"streams": 0, "carried": 1, "used_at": 0.0, "opened_at": 0.0} | settings)


def test_nothing_is_closed_within_the_budget():
    assert surplus([usage(key) for key in range(10)], NOW, budget=10) == ()


def test_those_of_no_use_for_longest_go_first():
    connections = [usage(key, used_at=100.0 - key) for key in range(11)]
    assert surplus(connections, NOW, budget=10) == (10, 9)


def test_a_connection_that_was_used_again_and_again_outlasts_one_that_was_not():
    connections = [usage(0, carried=40, used_at=0.0), *(usage(key, used_at=50.0) for key in range(1, 11))]
    assert 0 not in surplus(connections, NOW, budget=10)


def test_connections_in_use_kept_ones_and_new_ones_stay():
    connections = [
        usage(0, streams=1),
        usage(1, kept=True),
        usage(2, opened_at=NOW - GRACE / 2),
        usage(3, used_at=NOW),
    ]
    assert surplus(connections, NOW, budget=1) == (3,)


def test_a_doubled_connection_goes_even_within_the_budget():
    assert surplus([usage(0, doubled=True), usage(1), usage(2, doubled=True, streams=1)], NOW, budget=10) == (0,)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans(), st.floats(0, NOW)), max_size=40),
    st.integers(1, 20),
)
def test_what_goes_was_idle_and_enough_goes_where_it_can(made, budget):
    connections = [
        usage(key, streams=streams, kept=kept, doubled=doubled, used_at=at)
        for key, (streams, kept, doubled, at) in enumerate(made)
    ]
    gone = surplus(connections, NOW, budget=budget)

    assert len(set(gone)) == len(gone)
    assert not any(connections[key].streams or connections[key].kept for key in gone)
    in_use = sum(bool(one.streams or one.kept) for one in connections)
    assert len(connections) - len(gone) <= max(budget, in_use)
