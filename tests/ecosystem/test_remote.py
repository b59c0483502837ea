"""Functions with a decorator: called here, submitted there."""

import pytest

import hivemind_p2p as hm
from hivemind_p2p import current
from hivemind_p2p.errors import ConfigurationError

DEADLINE = 20.0


@hm.remote
def square(number):
    """The square of a number."""
    return number * number


@hm.remote(priority="high", max_retries=0)
def cube(number):
    return number * square(number)


@pytest.fixture
def opened(hive):
    current.opened(hive)
    yield hive
    current.closed(hive)


def test_a_call_is_a_call(opened):
    assert (square(3), cube(3)) == (9, 27)
    assert (square.__name__, square.__doc__) == ("square", "The square of a number.")
    assert opened.launched == []


def test_submitting_runs_it_on_the_hive_that_was_opened_last(opened):
    assert square.submit(3).result(DEADLINE) == 9
    assert cube.map(range(4)).results(DEADLINE) == [0, 1, 8, 27]
    assert [spec.priority for _, spec, _ in opened.launched] == [0, 1, 1, 1, 1]


def test_other_options(opened):
    cube.with_options(priority="low").submit(2).result(DEADLINE)
    _, spec, _ = opened.launched[0]
    assert (spec.priority, spec.max_retries) == (-1, 0)


def test_a_hive_may_be_named(hive):
    doubled = hive.remote(lambda number: 2 * number)
    assert doubled.submit(4).result(DEADLINE) == 8
    assert hive.remote(deadline=5.0)(abs).submit(-4).result(DEADLINE) == 4


def test_without_a_hive(hive):
    with pytest.raises(ConfigurationError, match="no hive is open"):
        square.submit(3)


def test_the_hive_that_was_opened_last_and_is_open(opened, hive):
    current.opened("other")
    assert current.current_hive() == "other"
    current.closed("other")
    assert current.current_hive() is opened
