"""When a silent route is waited for, and when somebody is to blame."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.sharding import watch
from hivemind_p2p.sharding.watch import Health, RouteWatch
from hivemind_p2p.types import PeerId

A, B, C = PeerId("a"), PeerId("b"), PeerId("c")


def until_blamed(route: RouteWatch, answers: dict[int, Health], *, start: float = 0.0, end: float = 200.0):
    """Asks whenever it is due, and lets some answer at once; who is blamed, and when."""
    now = start
    while now < end:
        if blamed := route.to_blame(now):
            return blamed, now
        if route.due(now):
            for index, health in answers.items():
                route.answered(index, health)
        now += watch.TICK
    return frozenset(), now


def test_a_stage_that_does_not_answer_is_lost_within_three_seconds() -> None:
    blamed, when = until_blamed(RouteWatch([A, B, C], 0.0), {0: Health(3, 3), 2: Health(2, 2)})
    assert blamed == {B}
    assert when <= 3 - watch.TICK


def test_two_can_fall_silent() -> None:
    blamed, _ = until_blamed(RouteWatch([A, B, C], 0.0), {1: Health(3, 2)})
    assert blamed == {A, C}


def test_a_stage_that_computes_is_waited_for_but_not_for_ever() -> None:
    waiting = {0: Health(3, 3), 1: Health(3, 2, busy=5.0), 2: Health(2, 2)}
    assert until_blamed(RouteWatch([A, B, C], 0.0), waiting)[0] == frozenset()
    stuck = waiting | {1: Health(3, 2, busy=watch.LONGEST_STEP + 1)}
    assert until_blamed(RouteWatch([A, B, C], 0.0), stuck)[0] == {B}


def test_a_step_that_got_lost_is_blamed_on_who_should_have_received_it() -> None:
    blamed, when = until_blamed(RouteWatch([A, B, C], 0.0), {0: Health(3, 3), 1: Health(2, 2), 2: Health(2, 2)})
    assert blamed == {B}
    assert when > 4, "a large step may take its time on a slow link"
    assert until_blamed(RouteWatch([A, B], 0.0), {0: Health(3, 3), 1: Health(3, 3)})[0] == {A}


def test_while_tokens_come_nobody_is_asked() -> None:
    route = RouteWatch([A], 0.0)
    for step in range(100):
        now = step * watch.ASK_AFTER * 0.9
        assert not route.due(now)
        route.token(now)


def test_steps_that_move_on_are_progress() -> None:
    route = RouteWatch([A, B], 0.0)
    now, steps = 0.0, 0
    while now < 20:
        assert not route.to_blame(now)
        if route.due(now):
            steps += 1
            route.answered(0, Health(steps, steps))
            route.answered(1, Health(steps - 1, steps - 1))
        now += watch.TICK


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50), st.integers(0, 50), st.floats(0, 3)), max_size=60))
def test_who_has_just_answered_is_never_deaf(events: list[tuple[int, int, int, float]]) -> None:
    route = RouteWatch([A, B, C], 0.0, ask_after=0.5)
    now = 0.0
    for index, received, behind, seconds in events:
        now += seconds
        route.due(now)
        route.answered(index, Health(received, max(0, received - behind)))
        blamed = route.to_blame(now)
        busy = received > max(0, received - behind)
        assert not busy or [A, B, C][index] not in blamed
