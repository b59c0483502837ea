from hivemind_p2p.dht.hive_clock import TOLERATED, HiveClock
from hivemind_p2p.net.clock import ClockDifference


def test_a_clock_that_is_far_off_is_put_right():
    clock = HiveClock(lambda: 1000.0)
    assert clock() == 1000.0
    assert clock.correct(ClockDifference(ahead=-3600.0, uncertainty=0.1))
    assert clock() == 4600.0
    assert clock.machine() == 1000.0


def test_a_clock_that_was_set_meanwhile_needs_no_correction_any_more():
    clock = HiveClock(lambda: 1000.0)
    clock.correct(ClockDifference(ahead=60.0, uncertainty=0.1))
    assert clock() == 940.0
    assert clock.correct(ClockDifference(ahead=0.5, uncertainty=0.1))
    assert clock() == 1000.0


def test_small_and_uncertain_differences_are_left_alone():
    clock = HiveClock(lambda: 1000.0)
    assert not clock.correct(ClockDifference(ahead=TOLERATED, uncertainty=0.0))
    assert not clock.correct(ClockDifference(ahead=5.0, uncertainty=6.0))
    assert clock() == 1000.0
