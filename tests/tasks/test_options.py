"""What may be asked of tasks, and what not."""

from decimal import Decimal

import pytest

import hivemind_p2p as hm
from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.tasks.options import ORDINARY


def test_the_defaults_are_those_that_are_promised():
    assert (ORDINARY.needs.seconds, ORDINARY.max_retries, ORDINARY.priority) == (300.0, 3, "normal")
    assert (ORDINARY.idempotent, ORDINARY.limit, ORDINARY.ordinary) == (True, 1_000_000, True)


def test_amounts_are_exact():
    assert hm.Options(max_cost=0.1).limit == 100_000
    assert hm.Options(max_cost="0.000001").limit == 1
    assert hm.Options(max_cost=Decimal(2)).limit == 2_000_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"priority": "urgent"},
        {"trust": "blind"},
        {"max_retries": -1},
        {"max_retries": 10_000},
        {"deadline": 0},
        {"deadline": float("inf")},
        {"max_cost": -1},
        {"max_cost": "much"},
        {"max_cost": float("nan")},
        {"max_cost": float("inf")},
        {"verify": hm.Quorum(2), "idempotent": False},
        {"verify": hm.Quorum(2), "trust": "pickle"},
        {"colour": "blue"},
    ],
)
def test_what_cannot_be(wrong):
    with pytest.raises(ConfigurationError):
        ORDINARY.but(**wrong)


def test_changed_options_leave_the_others():
    careful = ORDINARY.but(max_retries=0)
    assert careful.but(priority="high") == hm.Options(max_retries=0, priority="high")
    assert ORDINARY.max_retries == 3
