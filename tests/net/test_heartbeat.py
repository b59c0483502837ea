"""Heartbeats: who is pinged, who is dead, and that a peer's own pause buries nobody."""

import pytest

from hivemind_p2p.net.heartbeat import (
    INTERVAL,
    LONGEST_INTERVAL,
    LONGEST_STEP,
    MOST_PATIENCE,
    TICK,
    Heartbeat,
    SteadyClock,
    Verdict,
    idle_interval,
    patience,
)


def death_of_a_silent_peer(rtt):
    heartbeat, now = Heartbeat(0.0), 0.0
    while True:
        now += TICK
        if heartbeat.look(now, mark=0, rtt=rtt) is Verdict.DEAD:
            return now


@pytest.mark.parametrize("rtt", [None, 0.0001, 0.1, 2.0])
def test_a_silent_peer_is_dead_within_three_seconds(rtt):
    assert death_of_a_silent_peer(rtt) <= 3.0


def test_a_far_peer_is_given_longer():
    assert death_of_a_silent_peer(0.2) > death_of_a_silent_peer(0.01)
    assert patience(10.0) == MOST_PATIENCE


def test_a_peer_that_talks_is_not_pinged():
    heartbeat = Heartbeat(0.0)
    assert all(heartbeat.look(tick * TICK, mark=tick) is Verdict.WAIT for tick in range(1, 100))


def test_any_byte_after_a_ping_is_a_sign_of_life():
    heartbeat = Heartbeat(0.0)
    assert heartbeat.look(INTERVAL, mark=0) is Verdict.PING
    assert heartbeat.look(INTERVAL + TICK, mark=1) is Verdict.WAIT
    assert heartbeat.look(INTERVAL + 2 * TICK, mark=1) is Verdict.WAIT
    assert heartbeat.look(2 * INTERVAL + TICK, mark=1) is Verdict.PING


def test_one_ping_is_sent_for_one_silence():
    heartbeat = Heartbeat(0.0)
    verdicts = [heartbeat.look(INTERVAL + tick * TICK, mark=0) for tick in range(4)]
    assert verdicts == [Verdict.PING, Verdict.WAIT, Verdict.WAIT, Verdict.WAIT]


def test_a_peer_that_was_itself_stopped_buries_nobody():
    clock, heartbeat = SteadyClock(0.0), Heartbeat(0.0)
    verdicts = [heartbeat.look(clock.read(tick * TICK), mark=0) for tick in range(1, 4)]
    assert verdicts[-1] is Verdict.PING

    assert heartbeat.look(clock.read(60.0), mark=0) is Verdict.WAIT
    assert clock.lost == pytest.approx(60.0 - INTERVAL - LONGEST_STEP)


def test_a_steady_clock_runs_with_the_time():
    clock = SteadyClock(5.0)
    assert [clock.read(5.0 + tick * TICK) for tick in range(1, 4)] == [5.25, 5.5, 5.75]


def test_many_idle_connections_are_pinged_less_often():
    assert idle_interval(6) == INTERVAL
    assert idle_interval(80) == 10.0
    assert idle_interval(6400) == LONGEST_INTERVAL
