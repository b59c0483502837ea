import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.bt.bitfield import Bitfield


@st.composite
def lengths_and_pieces(draw):
    length = draw(st.integers(1, 70))
    return length, draw(st.lists(st.integers(0, length - 1)))


@given(lengths_and_pieces(), st.data())
def test_it_is_a_set(drawn, data):
    length, added = drawn
    held = Bitfield(length, added)
    model = set(added)
    for piece in data.draw(st.lists(st.integers(0, length - 1))):
        assert held.discard(piece) == (piece in model)
        model.discard(piece)
    assert (list(held), len(held), held.complete) == (sorted(model), len(model), len(model) == length)
    assert Bitfield.from_bytes(length, held.to_bytes()) == held == held.copy()


@given(st.integers(0, 70))
def test_full_holds_every_piece(length):
    held = Bitfield.full(length)
    assert list(held) == list(range(length))
    assert held.complete
    assert Bitfield.from_bytes(length, held.to_bytes()) == held


def test_the_first_piece_is_the_highest_bit():
    assert Bitfield(10, [0, 9]).to_bytes() == b"\x80\x40"


@pytest.mark.parametrize(("length", "data"), [(10, b"\x00"), (10, b"\x00\x20"), (8, b"\x00\x00"), (0, b"\x00")])
def test_a_bitfield_of_another_length_is_refused(length, data):
    with pytest.raises(ValueError):
        Bitfield.from_bytes(length, data)


@pytest.mark.parametrize("piece", [-1, 10])
def test_no_piece_lies_outside(piece):
    held = Bitfield.full(10)
    assert piece not in held
    assert not held.discard(piece)
    with pytest.raises(IndexError):
        held.add(piece)
