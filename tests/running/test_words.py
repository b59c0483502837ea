"""Events, times and amounts in words; and lines that fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from hivemind_p2p.running import canvas
from hivemind_p2p.running.words import LONGEST, count, duration, event_in_words

PEER = "12D3KooWRmvSyKzMbNNgS82gGHabMu483riHgZQMS3qoB7Hc6DDD"


@pytest.mark.parametrize(
    ("source", "event", "details", "words"),
    [
        ("lending", "lending_changed", {"state": "paused", "reason": "its user has paused it"}, "paused: its user has"),
        ("lending", "lending_changed", {"state": "open", "reason": None}, "open"),
        ("tasks", "task_cancelled", {"task": "t", "caller": PEER}, "…Hc6DDD cancelled a task"),
        ("purse", "it_went_wrong", {"reason": "nobody\nanswers\x1b[2J"}, "it went wrong: nobody answers\ufffd[2J"),
        ("purse", "it_went_wrong", {}, "it went wrong"),
    ],
)
def test_events(source, event, details, words):
    assert event_in_words(source, event, details, important=True).startswith(words)
    assert len(event_in_words(source, event, details | {"reason": "x" * 1000}, important=True)) <= LONGEST


def test_what_is_of_no_importance_is_not_told():
    assert event_in_words("purse", "it_went_well", {}, important=False) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (9.96, "10.0 s"), (59.4, "59 s"), (60, "1:00"), (3725, "1:02:05"), (200_000, "2 d 7 h")],
)
def test_times(seconds, text):
    assert duration(seconds) == text


def test_numbers():
    assert count(1234567) == "1,234,567"


@given(st.text(), st.integers(1, 60))
def test_a_line_is_as_wide_as_it_has_to_be(text, width):
    plain = "".join(letter for letter in text if letter.isprintable())
    assert canvas.fitted(Text(plain), width).cell_len == width


@given(st.floats(-1, 2), st.integers(1, 50))
def test_a_bar_is_as_wide_as_it_has_to_be(share, width):
    assert canvas.bar(share, width).cell_len == width


@given(st.lists(st.integers(0, 100_000)), st.integers(1, 50))
def test_a_curve_shows_the_newest_at_its_right(values, width):
    line = canvas.curve(values, width)
    assert line.cell_len == width
    last = values[-1] if values else 0
    assert (line.plain[-1] == "·") == (last == 0)
    if values and last == max(values[-width:]) > 0:
        assert line.plain[-1] in "█▇▅"


def test_a_table_keeps_numbers_right():
    head, row = canvas.table([canvas.Column("what", 6), canvas.Column("n", 4, right=True)], [["far too long", "7"]])
    assert head.plain == "what       n  "
    assert row.plain == "far t…     7  "
