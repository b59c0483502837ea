"""Half-open connections: bounded, and a flood drives out itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.net.half_open import HalfOpen, network_of


def test_there_is_room_at_first():
    half_open = HalfOpen(most=2)
    assert half_open.enter("10.0.0.1") == (0, None)
    assert half_open.enter("10.0.0.2") == (1, None)
    assert len(half_open) == 2


def test_one_network_drives_out_its_own_oldest():
    half_open = HalfOpen(most=10, most_of_one_network=2)
    half_open.enter("10.0.0.9")
    for _ in range(2):
        half_open.enter("10.0.0.1")
    assert half_open.enter("10.0.0.1") == (3, 1)


def test_a_newcomer_drives_out_the_oldest_of_the_loudest_network():
    half_open = HalfOpen(most=4, most_of_one_network=4)
    half_open.enter("10.0.0.9")
    for _ in range(3):
        half_open.enter("10.0.0.1")
    assert half_open.enter("10.0.0.2") == (4, 1)


def test_who_is_through_makes_room():
    half_open = HalfOpen(most=1)
    number, _ = half_open.enter("10.0.0.1")
    half_open.leave(number)
    half_open.leave(number)
    assert half_open.enter("10.0.0.2")[1] is None


@pytest.mark.parametrize(
    ("one", "other"),
    [("2001:db8::1", "2001:db8::ffff"), ("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::2")],
)
def test_addresses_of_one_network(one, other):
    assert network_of(one) == network_of(other)


def test_addresses_of_two_networks():
    assert network_of("10.0.0.1") != network_of("10.0.0.2")
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8:0:2::1")


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=200))
def test_there_are_never_more_than_allowed(steps):
    half_open, inside = HalfOpen(most=8, most_of_one_network=3), {}
    for network, leaves in steps:
        if leaves and inside:
            half_open.leave(next(iter(inside)))
            inside.pop(next(iter(inside)))
            continue
        number, victim = half_open.enter(f"10.0.0.{network}")
        inside[number] = network
        if victim is not None:
            inside.pop(victim)
        assert len(half_open) == len(inside) <= 8
        assert sum(other == network for other in inside.values()) <= 3
