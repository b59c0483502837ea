"""What may arrive at a stage, and what waits for the next one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.sharding.intake import MOST_WAITING, PREFILL_CHUNK, WINDOW, Intake, Piece


def piece(position: int, rows: int, *, last: bool = False) -> Piece:
    return Piece(position, rows, last=last)


def intake(**changed: object) -> Intake:
    values: dict[str, object] = {"room": 10_000, "vocabulary": 10}
    return Intake(**(values | changed))  # type: ignore[arg-type]


def test_pieces_in_order() -> None:
    made = intake(forwards=False)
    assert made.take(piece(0, 5)) == [piece(0, 5)]
    assert made.take(piece(5, 1, last=True)) == [piece(5, 1, last=True)]
    assert (made.arrived, made.received, made.done, made.idle) == (6, 2, 0, False)
    made.computed(piece(0, 5))
    made.computed(piece(5, 1))
    assert made.idle


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (piece(1, 1), "arrived"),
        (piece(0, 101), "fit"),
        (Piece(0, 1, last=True, tokens=(10,)), "vocabulary"),
    ],
)
def test_what_does_not_fit(wrong: Piece, word: str) -> None:
    with pytest.raises(ProtocolError, match=word):
        intake(room=100).take(wrong)


def test_what_is_in_the_cache_already_is_passed_over_or_cut() -> None:
    assert intake(reusable=40).take(piece(40, 2)) == [piece(40, 2)]
    made = intake(reusable=40)
    made.take(piece(10, 2))
    assert made.arrived == 12
    with pytest.raises(ProtocolError):
        made.take(piece(40, 1))


def test_drafts_that_this_stage_adds_count_as_arrived() -> None:
    made = intake()
    first = piece(0, 4, last=True)
    made.take(first)
    made.computed(first, drafted=3)
    assert made.arrived == 7
    made.take(piece(5, 1, last=True))
    assert made.arrived == 6


def test_a_budget_counts_what_was_fed_twice() -> None:
    made = intake(budget=10)
    made.take(piece(0, 6))
    made.take(piece(2, 4))
    with pytest.raises(ProtocolError, match="agreed on"):
        made.take(piece(6, 1))


def test_no_more_waits_than_an_honest_neighbour_sends() -> None:
    made = intake(forwards=False)
    for start in range(0, MOST_WAITING - PREFILL_CHUNK + 1, PREFILL_CHUNK):
        made.take(piece(start, PREFILL_CHUNK))
    with pytest.raises(ProtocolError, match="before any"):
        made.take(piece(made.arrived, PREFILL_CHUNK))


@given(st.lists(st.tuples(st.integers(1, PREFILL_CHUNK), st.booleans()), max_size=30), st.data())
def test_the_next_stage_is_never_more_than_a_window_behind(sizes: list[tuple[int, bool]], data: st.DataObject) -> None:
    made = intake(room=10**6, most_waiting=10**6)
    sent: list[Piece] = []
    released: list[Piece] = []
    untaken: list[Piece] = []
    position = 0
    for rows, last in sizes:
        new = piece(position, rows, last=last)
        position += rows
        sent.append(new)
        fresh = made.take(new)
        released += fresh
        untaken += [each for each in fresh if not each.last]
        assert sum(each.rows for each in untaken) <= WINDOW
        while untaken and data.draw(st.booleans()):
            fresh = made.taken(untaken.pop(0).rows)
            released += fresh
            untaken += [each for each in fresh if not each.last]
            assert sum(each.rows for each in untaken) <= WINDOW
    while untaken:
        fresh = made.taken(untaken.pop(0).rows)
        released += fresh
        untaken += [each for each in fresh if not each.last]
    assert released == sent, "everything, in order"
