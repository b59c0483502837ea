"""When to dial again: growing waits with a bound, spread out, and short again once a connection has lasted."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.net.backoff import FIRST, MOST, STABLE, Backoff


def longest():
    return 1.0


def test_the_first_dial_is_at_once():
    assert Backoff(longest).may_try(-1e9)


def test_waits_double_up_to_the_longest():
    backoff = Backoff(longest, first=1, most=10)
    assert [backoff.failed(100) - 100 for _ in range(6)] == [1, 2, 4, 8, 10, 10]


def test_each_wait_is_drawn_between_nothing_and_the_bound():
    draws = iter([0.0, 0.25, 1.0])
    backoff = Backoff(lambda: next(draws), first=4, most=100)
    assert [backoff.failed(0), backoff.failed(0), backoff.failed(0)] == [0, 2, 16]


def test_it_is_time_when_the_wait_is_over():
    backoff = Backoff(longest, first=2)
    backoff.failed(10)
    assert not backoff.may_try(11.9)
    assert backoff.may_try(12)


def test_nothing_is_dialled_while_connected():
    backoff = Backoff(longest)
    backoff.connected(5)
    assert not backoff.may_try(1e9)
    assert backoff.next_try == math.inf


def test_a_connection_that_lasted_begins_anew():
    backoff = Backoff(longest)
    for _ in range(5):
        backoff.failed(0)
    backoff.connected(10)
    assert backoff.lost(10 + STABLE) == 10 + STABLE + FIRST
    assert backoff.failures == 1


def test_one_that_accepts_and_hangs_up_is_dialled_ever_more_rarely():
    backoff = Backoff(longest)
    waits = []
    now = 0.0
    for _ in range(10):
        backoff.connected(now)
        now += STABLE / 2
        waits.append(backoff.lost(now) - now)
    assert waits == sorted(waits)
    assert waits[-1] == MOST


def test_a_failed_dial_after_a_stable_connection_does_not_count_that_connection_twice():
    backoff = Backoff(longest)
    backoff.connected(0)
    backoff.lost(STABLE)
    backoff.failed(STABLE + 1)
    assert backoff.failures == 2
    assert backoff.lost(10 * STABLE) == 10 * STABLE + 4 * FIRST


def test_a_sign_of_life_ends_the_wait():
    backoff = Backoff(longest)
    for _ in range(5):
        backoff.failed(0)
    backoff.reset()
    assert backoff.may_try(0)
    assert backoff.failed(0) == FIRST


@pytest.mark.parametrize(("first", "most"), [(0, 1), (-1, 1), (2, 1)])
def test_bounds_that_do_not_fit(first, most):
    with pytest.raises(ValueError, match="does not fit"):
        Backoff(longest, first=first, most=most)


@given(
    st.lists(st.sampled_from(["failed", "connected", "lost", "reset"]), max_size=300),
    st.lists(st.floats(0, 1), min_size=1),
    st.floats(0, 100),
)
def test_no_wait_is_ever_too_long_or_in_the_past(events, draws, step):
    source = random.Random(0)
    backoff = Backoff(lambda: source.choice(draws))
    now = 0.0
    for event in events:
        now += step
        if event == "reset":
            backoff.reset()
            assert backoff.may_try(now)
        elif event == "connected":
            backoff.connected(now)
            assert not backoff.may_try(now)
        else:
            assert now <= getattr(backoff, event)(now) <= now + MOST
        assert backoff.failures >= 0


def test_a_thousand_peers_of_one_bootstrap_come_back_over_the_whole_wait():
    source = random.Random(1)
    tries = []
    for _ in range(1000):
        backoff = Backoff(source.random)
        for _ in range(8):
            when = backoff.failed(0)
        tries.append(when)
    buckets = [sum(second <= each < second + 6 for each in tries) for second in range(0, 60, 6)]
    assert max(buckets) < 3 * min(buckets)


def test_failures_are_counted_without_end():
    backoff = Backoff(longest)
    for _ in range(5000):
        assert backoff.failed(0) <= MOST
