import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.bt.rate_limit import BURST, TokenBucket
from hivemind_p2p.bt.request_window import FEW_BYTES, GAIN, MOST_BYTES, SLACK, ArrivalRate, RequestWindow

PIECE = 256 * 1024


def test_without_a_limit_nobody_waits():
    assert TokenBucket().take(1 << 40, 0.0) == 0.0
    assert not TokenBucket(0).limited


@given(st.floats(1, 1e9), st.lists(st.tuples(st.integers(0, 1 << 24), st.floats(0, 10)), max_size=50))
def test_the_rate_holds_whatever_is_taken(rate, takes):
    bucket, now, moved = TokenBucket(rate), 0.0, 0
    for amount, pause in takes:
        now += pause
        now += bucket.take(amount, now)
        moved += amount
        assert moved <= rate * (now + BURST) * 1.001 + 1


def test_what_was_not_used_is_made_up_for_within_bounds():
    bucket = TokenBucket(100)
    assert bucket.take(100, 0.0) == 0.0
    assert bucket.take(50, 0.0) == 0.5
    assert bucket.take(100, 1000.0) == 0.0
    assert bucket.take(100, 1000.0) == 1.0


def steady(rate, delay, seconds):
    """A source that sends `rate` bytes a second after `delay` seconds, asked for as much as the window says."""
    window, now, asked, arrivals, free_at, number = RequestWindow(PIECE), 0.0, 0, [], 0.0, 0
    while now < seconds:
        while asked < window.bytes:
            window.asked(number, now)
            free_at = max(free_at, now + delay) + PIECE / rate
            arrivals.append((free_at, number))
            asked += PIECE
            number += 1
        now, piece = arrivals.pop(0)
        asked -= PIECE
        window.arrived(piece, PIECE, now)
    return window


@pytest.mark.parametrize(("rate", "delay"), [(50e6, 0.05), (10e6, 0.2), (1e6, 0.01)])
def test_the_window_finds_bandwidth_times_delay(rate, delay):
    window = steady(rate, delay, seconds=20)
    room = GAIN * rate * (delay + PIECE / rate + SLACK)
    assert 0.8 * rate < window.rate <= 1.01 * rate
    assert window.bytes == pytest.approx(max(room, FEW_BYTES), rel=0.25)


def test_the_window_is_bounded():
    assert steady(1e9, 1.0, seconds=10).bytes == MOST_BYTES
    assert RequestWindow(16 * 1024 * 1024).bytes == 32 * 1024 * 1024


def test_what_arrives_counts_less_with_time():
    rate = ArrivalRate(0.0)
    for second in range(1, 21):
        rate.arrived(1000, float(second))
    assert 800 < rate.rate(20.0) < 1400
    assert rate.rate(100.0) < 200
