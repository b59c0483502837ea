"""Hours of the week, and whether tasks are taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.worker.readiness import BUSY_SECONDS, CALM_SECONDS, Readiness, State
from hivemind_p2p.worker.schedule import DAYS, MINUTES_OF_DAY, Hours, parse

MON, FRI, SAT, SUN = (DAYS.index(name) for name in ("mon", "fri", "sat", "sun"))


def at(hour, minute=0):
    return hour * 60 + minute


def test_a_night_belongs_to_the_day_on_which_it_begins():
    hours = parse("mon-fri 20:00-07:00")
    assert hours.open_at(MON, at(20))
    assert not hours.open_at(MON, at(19, 59))
    assert not hours.open_at(MON, at(6)), "the night from sunday to monday is not named"
    assert hours.open_at(SAT, at(6, 59)), "the night that began on friday"
    assert not hours.open_at(SAT, at(7))
    assert not hours.open_at(SAT, at(21))


@pytest.mark.parametrize(
    ("text", "day", "minute", "expected"),
    [
        ("", MON, 0, True),
        ("sat-sun", SUN, at(23, 59), True),
        ("sat-sun", MON, 0, False),
        ("fri-mon", SUN, 5, True),
        ("fri-mon", 1, 5, False),
        ("22:00-24:00", FRI, at(23), True),
        ("09:00-12:00, 13:00-17:00", FRI, at(12, 30), False),
        ("Mon 8:00-9:00,  SUN 8:00-9:00", SUN, at(8), True),
    ],
)
def test_ways_to_write_hours(text, day, minute, expected):
    assert parse(text).open_at(day, minute) is expected


@pytest.mark.parametrize(
    "text", ["noon", "mon-", "mon-day 8:00-9:00", "8:00", "8:00-8:00", "25:00-26:00", "8:75-9:00", "xyz 8:00-9:00"]
)
def test_what_is_no_hours_is_refused_with_an_example(text):
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert "mon-fri 20:00-07:00" in caught.value.hint


def test_always_never_changes():
    assert Hours().minutes_to_change(MON, 5) == 0
    assert parse("mon-sun").minutes_to_change(MON, 5) == 0


SPANS = st.builds(
    lambda first, last, start, stop: f"{first}-{last} {start // 60}:{start % 60:02}-{stop // 60}:{stop % 60:02}",
    st.sampled_from(DAYS),
    st.sampled_from(DAYS),
    st.integers(0, 1439),
    st.integers(0, 1440),
).filter(lambda text: len(set(text.partition(" ")[2].split("-"))) == 2)


@given(st.lists(SPANS, min_size=1, max_size=3), st.integers(0, 6), st.integers(0, 1439))
def test_the_next_change_is_the_first_minute_that_differs(spans, day, minute):
    hours = parse(", ".join(spans))
    now, start = hours.open_at(day, minute), day * MINUTES_OF_DAY + minute
    found = hours.minutes_to_change(day, minute)
    for passed in range(1, found or 7 * MINUTES_OF_DAY, 7):
        assert hours.open_at(*divmod((start + passed) % (7 * MINUTES_OF_DAY), MINUTES_OF_DAY)) == now
    if found:
        assert hours.open_at(*divmod((start + found) % (7 * MINUTES_OF_DAY), MINUTES_OF_DAY)) != now
        assert hours.open_at(*divmod((start + found - 1) % (7 * MINUTES_OF_DAY), MINUTES_OF_DAY)) == now


def test_a_peer_is_open_unless_something_closes_it():
    readiness = Readiness()
    assert readiness.verdict(MON, 0).state is State.OPEN
    readiness.pause()
    assert readiness.verdict(MON, 0).reason == "its user has paused it"
    readiness.resume()
    assert readiness.verdict(MON, 0).reason == ""
    readiness.leave()
    readiness.resume()
    assert readiness.verdict(MON, 0).state is State.LEAVING


def test_outside_its_hours_it_says_when_it_opens():
    verdict = Readiness(parse("mon-fri 20:00-07:00")).verdict(SAT, at(12))
    assert verdict.state is State.OFF_HOURS
    assert verdict.reason.endswith("from mon 20:00 on")


def test_it_opens_once_the_machine_was_calm_for_a_while():
    readiness = Readiness(only_when_idle=True)
    assert readiness.verdict(MON, 0).state is State.IN_USE
    readiness.observe(0.05, now=100.0)
    readiness.observe(0.05, now=100.0 + CALM_SECONDS - 1)
    assert readiness.verdict(MON, 0).state is State.IN_USE
    readiness.observe(0.05, now=100.0 + CALM_SECONDS)
    assert readiness.verdict(MON, 0).state is State.OPEN


def test_it_closes_for_somebody_at_work_and_not_for_a_blink():
    readiness = Readiness(only_when_idle=True)
    for now in (0.0, CALM_SECONDS):
        readiness.observe(0.0, now)
    start = CALM_SECONDS + 5
    readiness.observe(0.9, start)
    readiness.observe(0.0, start + 5)
    readiness.observe(0.9, start + 6)
    assert readiness.verdict(MON, 0).state is State.OPEN
    readiness.observe(0.9, start + 6 + BUSY_SECONDS)
    assert readiness.verdict(MON, 0).state is State.IN_USE
    readiness.observe(0.0, start + 20)
    readiness.observe(0.9, start + 20 + CALM_SECONDS - 1)
    readiness.observe(0.0, start + 20 + CALM_SECONDS)
    assert readiness.verdict(MON, 0).state is State.IN_USE


def test_a_busy_machine_matters_only_to_those_who_asked():
    readiness = Readiness()
    for now in range(100):
        readiness.observe(1.0, float(now))
    assert readiness.verdict(MON, 0).state is State.OPEN
