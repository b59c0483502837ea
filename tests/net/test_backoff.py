"""When to try again: growing waits with a bound, spread out, and short again once it has worked."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.net.backoff import Backoff


def longest():
    return 1.0


def test_the_first_try_is_at_once():
    assert Backoff(longest, first=1, most=10).next_try == -math.inf


def test_waits_double_up_to_the_longest():
    backoff = Backoff(longest, first=1, most=10)
    assert [backoff.failed(100) - 100 for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert backoff.next_try == 110


def test_each_wait_is_drawn_between_nothing_and_the_bound():
    draws = iter([0.0, 0.25, 1.0])
    backoff = Backoff(lambda: next(draws), first=4, most=100)
    assert [backoff.failed(0), backoff.failed(0), backoff.failed(0)] == [0, 2, 16]


def test_a_sign_of_life_ends_the_wait():
    backoff = Backoff(longest, first=1, most=10)
    for _ in range(5):
        backoff.failed(0)
    backoff.reset()
    assert backoff.next_try == -math.inf
    assert backoff.failed(0) == 1


@pytest.mark.parametrize(("first", "most"), [(0, 1), (-1, 1), (2, 1)])
def test_bounds_that_do_not_fit(first, most):
    with pytest.raises(ValueError, match="does not fit"):
        Backoff(longest, first=first, most=most)


@given(st.lists(st.sampled_from(["failed", "reset"]), max_size=300), st.lists(st.floats(0, 1), min_size=1))
def test_no_wait_is_ever_too_long_or_in_the_past(events, draws):
    source = random.Random(0)
    backoff = Backoff(lambda: source.choice(draws), first=0.5, most=60)
    for now, event in enumerate(events):
        if event == "reset":
            backoff.reset()
            assert (backoff.failures, backoff.next_try) == (0, -math.inf)
        else:
            assert now <= backoff.failed(now) <= now + 60


def test_a_thousand_peers_of_one_bootstrap_come_back_over_the_whole_wait():
    source = random.Random(1)
    tries = []
    for _ in range(1000):
        backoff = Backoff(source.random, first=0.5, most=60)
        for _ in range(8):
            when = backoff.failed(0)
        tries.append(when)
    buckets = [sum(second <= each < second + 6 for each in tries) for second in range(0, 60, 6)]
    assert max(buckets) < 3 * min(buckets)


def test_failures_are_counted_without_end():
    backoff = Backoff(longest, first=0.5, most=60)
    for _ in range(5000):
        assert backoff.failed(0) <= 60
