import pytest

from hivemind_p2p.dht.round_trips import LONGEST_PATIENCE, SHORTEST_PATIENCE, RoundTrips


def test_patience_begins_long_and_follows_what_is_measured():
    trips = RoundTrips()
    assert (trips.smoothed, trips.patience) == (None, LONGEST_PATIENCE)
    for _ in range(50):
        trips.took(0.15)
    assert trips.smoothed == pytest.approx(0.15)
    assert SHORTEST_PATIENCE < trips.patience < 0.4


@pytest.mark.parametrize(("seconds", "patience"), [(0.001, SHORTEST_PATIENCE), (5.0, LONGEST_PATIENCE)])
def test_patience_has_bounds(seconds, patience):
    trips = RoundTrips()
    for _ in range(50):
        trips.took(seconds)
    assert trips.patience == patience


def test_round_trips_that_vary_ask_for_more_patience():
    steady, varying = RoundTrips(), RoundTrips()
    for number in range(100):
        steady.took(0.1)
        varying.took(0.02 if number % 2 else 0.18)
    assert varying.patience > steady.patience
