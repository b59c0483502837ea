"""What people read while data moves: made-up times, made-up figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.notebook import reprs
from hivemind_p2p.notebook.words import FetchWords, Rate, amount, counted, duration, part, runs, signs
from hivemind_p2p.types import FetchProgress

MIB = 2**20


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (256 * MIB, "256.0 MiB"), (5 * 2**40, "5.0 TiB")],
)
def test_amounts(size, text):
    assert amount(size) == text


def test_parts_share_a_unit():
    assert part(512 * 1024, 3 * MIB) == "0.5 of 3.0 MiB"
    assert part(7, 900) == "7 of 900 B"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (75, "1:15 min"), (3600, "1:00 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_numbers_of_things():
    assert [counted(number, "peer") for number in (0, 1, 2)] == ["0 peers", "1 peer", "2 peers"]


def test_a_rate_is_that_of_the_last_seconds():
    rate = Rate(0.0, 1000)
    assert rate.per_second(0.0) == 0
    for second in range(1, 21):
        rate.seen(float(second), 1000 + second * 100)
    assert rate.per_second(20.0) == pytest.approx(100)
    assert rate.per_second(23.0) == pytest.approx(40)
    assert rate.per_second(30.0) == 0


def test_a_fetch_in_words():
    words = FetchWords(100.0)
    assert (words.title, words.amount, words.speed(100.0)) == ("fetching", "", "looking for sources")
    words.told(FetchProgress(10 * MIB, 100 * MIB, 0, name="data"), 101.0)
    assert words.speed(101.0) == "looking for sources"
    for second in range(1, 5):
        words.told(FetchProgress((10 + 10 * second) * MIB, 100 * MIB, 3, name="data"), 101.0 + second)
    assert words.title == "fetching data"
    assert words.amount == "50.0 of 100.0 MiB"
    assert words.speed(105.0) == "10.0 MiB/s from 3 sources, 5 s left"
    words.told(FetchProgress(50 * MIB, 100 * MIB, 3, name="data", paused="no room to write x"), 106.0)
    assert words.speed(106.0) == "paused: no room to write x. It goes on by itself once there is room"
    words.told(FetchProgress(100 * MIB, 100 * MIB, 1, name="data"), 109.0)
    assert words.summary(109.0) == "90.0 MiB in 9.0 s, 10.0 MiB/s from 3 sources"


def test_what_was_here_already():
    words = FetchWords(0.0)
    words.told(FetchProgress(MIB, MIB, 0, name="data"), 0.1)
    assert words.summary(0.1) == "1.0 MiB, all of it was here"
    assert FetchWords(0.0).summary(1.0) == ""


def test_signs_tell_nothing_some_most_and_all():
    assert signs(bytes([0, 1, 127, 128, 254, 255]), 80) == "·░░▓▓█"
    assert signs(b"", 80) == ""
    assert signs(bytes([0, 0, 255, 255, 255, 254]), 3) == "·█▓"
    assert signs(bytes([0] * 63 + [1]), 2) == "·░", "what has begun shows"


@given(st.binary(min_size=1, max_size=64), st.integers(1, 100))
def test_a_full_sign_means_full(pieces, width):
    row = signs(pieces, width)
    assert len(row) == min(width, len(pieces))
    assert (set(row) == {"█"}) == (set(pieces) == {255})
    assert (set(row) == {"·"}) == (set(pieces) == {0})


@given(st.binary(max_size=64))
def test_runs_cover_what_is_there(pieces):
    found = runs(pieces)
    assert all(0 < share <= 1 and width > 0 for _, width, share in found)
    covered = sum(width for _, width, _ in found)
    assert covered == pytest.approx(100 * sum(map(bool, pieces)) / len(pieces) if pieces else 0)


def test_a_fetch_in_a_cell_escapes_names():
    words = FetchWords(0.0)
    words.told(FetchProgress(1, 2, 1, name="<script>", pieces=bytes([255, 0])), 0.0)
    html = reprs.fetch_html(words, "running", "now")
    assert "<script>" not in html
    assert "width: 50%" in html
    assert "width: 50.000%" in html
