"""How long the loop was busy at a stretch."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.sharding.loop_watch import SHORTEST, SLOTS_A_DOUBLING, LoopWatch


def test_without_a_measurement_nothing_is_said() -> None:
    assert LoopWatch().quantile(0.999) == 0


def test_one_long_stretch_in_a_thousand_shows_only_at_the_top() -> None:
    made = LoopWatch()
    for _ in range(9990):
        made.note(0.001)
    for _ in range(10):
        made.note(0.5)
    assert made.quantile(0.999) == pytest.approx(0.001, rel=0.2)
    assert made.quantile(0.9995) == pytest.approx(0.5, rel=0.2)


@given(st.lists(st.floats(1e-7, 100), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_the_true_one_rounded_up(stretches: list[float], share: float) -> None:
    made = LoopWatch()
    for seconds in stretches:
        made.note(seconds)
    ordered = sorted(stretches)
    below = sum(seconds <= made.quantile(share) * (1 + 1e-9) for seconds in ordered)
    assert below >= min(len(ordered), share * len(ordered) - 1e-6)
    assert made.quantile(share) <= max(SHORTEST, *ordered) * 2 ** (1 / SLOTS_A_DOUBLING) * (1 + 1e-9)


async def test_it_measures_the_loop_that_it_is_added_to() -> None:
    made = LoopWatch()
    trio.lowlevel.add_instrument(made)
    for _ in range(5):
        await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(made)
    assert made.quantile(1.0) > 0
