import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.net.relay_book import Refusal, RelayBook, RelayLimits
from hivemind_p2p.types import PeerId

ALICE, BOB, CAROL = PeerId("alice"), PeerId("bob"), PeerId("carol")
HOST = "9.9.9.9"


def book(**limits):
    return RelayBook(RelayLimits(**limits))


def test_a_place_lasts_until_it_expires_and_can_be_renewed():
    relay = book(reservation_seconds=10)
    assert relay.reserve(ALICE, HOST, 0) == 10
    assert relay.open_circuit(BOB, ALICE, 9) is None
    assert relay.open_circuit(BOB, ALICE, 10) is Refusal.NO_PLACE
    assert relay.reserve(ALICE, HOST, 10) == 20
    assert relay.open_circuit(BOB, ALICE, 11) is None


def test_who_has_no_place_is_not_called():
    relay = book()
    assert relay.open_circuit(BOB, ALICE, 0) is Refusal.NO_PLACE
    relay.reserve(ALICE, HOST, 0)
    relay.give_up(ALICE)
    assert relay.open_circuit(BOB, ALICE, 0) is Refusal.NO_PLACE


def test_places_are_bounded_for_all_and_for_one_host_but_can_always_be_renewed():
    relay = book(reservations=2, reservations_a_host=1)
    assert relay.reserve(ALICE, HOST, 0) == 3600
    assert relay.reserve(BOB, HOST, 0) is Refusal.FULL
    assert relay.reserve(BOB, "8.8.8.8", 0) == 3600
    assert relay.reserve(CAROL, "7.7.7.7", 0) is Refusal.FULL
    assert relay.reserve(ALICE, HOST, 1) == 3601
    assert relay.reserve(CAROL, "7.7.7.7", 3600) == 7200, "Bob's has expired"


def test_calls_are_bounded_for_all_and_for_one_peer():
    relay = book(circuits=2, circuits_a_peer=1)
    for number, peer in enumerate((ALICE, BOB, CAROL)):
        relay.reserve(peer, str(number), 0)
    assert relay.open_circuit(BOB, ALICE, 0) is None
    assert relay.open_circuit(CAROL, ALICE, 0) is Refusal.FULL
    assert relay.open_circuit(BOB, CAROL, 0) is Refusal.FULL
    relay.close_circuit(BOB, ALICE, 5)
    assert relay.open_circuit(CAROL, ALICE, 0) is None
    assert relay.statistics().relayed_bytes == 5


@pytest.mark.parametrize("wrong", [{"reservations": -1}, {"reservation_seconds": 0}, {"circuit_bytes": -1}])
def test_limits_make_sense(wrong):
    with pytest.raises(ConfigurationError):
        RelayLimits(**wrong)


_peers = st.sampled_from([ALICE, BOB, CAROL])


@given(st.lists(st.tuples(st.sampled_from(["reserve", "open", "close", "drop"]), _peers, _peers), max_size=60))
def test_the_limits_hold_whatever_happens(steps):
    relay = book(reservations=2, circuits=3, circuits_a_peer=2, reservation_seconds=7)
    going_on = []
    for now, (step, one, other) in enumerate(steps):
        if step == "reserve":
            relay.reserve(one, one, now)
        elif step == "drop":
            relay.give_up(one)
        elif step == "open" and one != other and relay.open_circuit(one, other, now) is None:
            going_on.append((one, other))
        elif step == "close" and going_on:
            relay.close_circuit(*going_on.pop(), 1)
        assert relay.statistics().circuits == len(going_on) <= 3
        assert len(relay.holders()) <= 2
        assert all(sum(peer in pair for pair in going_on) <= 2 for peer in (ALICE, BOB, CAROL))
