from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.super_seeding import AHEAD_BYTES, LEAST_AHEAD, STARVED, SuperSeeding
from hivemind_p2p.types import PeerId

A, B = PeerId("a"), PeerId("b")


def seeding(pieces=64, ahead=8):
    made = SuperSeeding(range(pieces), piece_length=AHEAD_BYTES // ahead)
    for peer in (A, B):
        made.joined(peer, Bitfield(pieces))
        made.wants(peer, Bitfield.full(pieces))
    return made


def test_no_piece_is_shown_to_two_while_there_are_others():
    made = seeding()
    first, second = made.show(A, 0.0), made.show(B, 0.0)
    assert len(first) == len(second) == 8
    assert not set(first) & set(second)
    assert made.show(A, 1.0) == []


def test_who_fetches_is_shown_more():
    made = seeding()
    shown = made.show(A, 0.0)
    made.has(A, shown[:6])
    assert len(made.show(A, 0.1)) == 6


def test_only_what_is_wanted_is_shown():
    made = seeding()
    made.wants(A, Bitfield(64, [30, 31]))
    assert made.show(A, 0.0) == [30, 31]
    made.wants(B, None)
    assert made.show(B, 0.0) == []


def test_of_a_small_content_only_a_part_is_shown_to_the_first():
    assert len(seeding(pieces=40).show(A, 0.0)) == 5
    assert len(seeding(pieces=8).show(A, 0.0)) == LEAST_AHEAD


def test_what_one_took_along_is_shown_to_another():
    made = seeding(pieces=8)
    assert made.show(A, 0.0) == [0, 1, 2, 3]
    made.has(A, [0])
    made.left(A)
    assert made.show(B, 0.0) == [4, 5, 6, 7]
    made.has(B, [4, 5, 6, 7])
    assert sorted(made.show(B, 0.0)) == [1, 2, 3]


def test_who_starves_is_shown_what_others_were_shown_the_rarest_first():
    made = seeding(pieces=8)
    assert made.show(A, 0.0) == [0, 1, 2, 3]
    assert made.show(B, 0.0) == [4, 5, 6, 7]
    made.has(A, [0, 1])
    made.has(B, [4, 5, 6, 7])
    assert made.show(B, 0.0) == []
    assert made.show(B, STARVED / 2) == []
    assert made.show(B, STARVED) == [2, 3, 0, 1]


def test_long_pieces_are_shown_a_few_at_a_time_too():
    made = SuperSeeding(range(9), piece_length=AHEAD_BYTES)
    made.joined(A, Bitfield(9))
    made.wants(A, Bitfield.full(9))
    assert len(made.show(A, 0.0)) == LEAST_AHEAD


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_whoever_stays_is_shown_everything_in_the_end(data):
    pieces = data.draw(st.integers(1, 30))
    made = SuperSeeding(data.draw(st.permutations(range(pieces))), piece_length=AHEAD_BYTES // 4)
    here = {}
    now = 0.0
    for number in range(data.draw(st.integers(1, 4))):
        here[PeerId(str(number))] = set()
        made.joined(PeerId(str(number)), Bitfield(pieces))
        made.wants(PeerId(str(number)), Bitfield.full(pieces))
    stays = PeerId("0")
    for _ in range(pieces * 30):
        now += 0.5
        peer = data.draw(st.sampled_from(sorted(here))) if len(here) > 1 else stays
        here[peer] |= set(made.show(peer, now))
        if peer != stays and data.draw(st.integers(0, 9)) == 0:
            made.left(peer)
            del here[peer]
        elif data.draw(st.booleans()) or peer == stays:
            made.has(peer, sorted(here[peer]))
        here[stays] |= set(made.show(stays, now))
        made.has(stays, sorted(here[stays]))
        if len(here[stays]) == pieces:
            return
    raise AssertionError(f"shown {len(here[stays])} of {pieces}")


def test_a_fast_peer_is_shown_more_ahead_and_a_slow_one_less_again():
    made = SuperSeeding(range(1000), piece_length=AHEAD_BYTES // 8)
    made.joined(A, Bitfield(1000))
    made.wants(A, Bitfield.full(1000))
    now, waiting = 0.0, made.show(A, 0.0)
    counts = [len(waiting)]
    for step in (0.01, 0.01, 0.01, 0.01, 0.5, 2.0, 2.0, 2.0):
        now += step
        made.has(A, waiting)
        waiting = made.show(A, now)
        counts.append(len(waiting))
    assert counts == [8, 16, 32, 64, 64, 64, 32, 16, 8]
