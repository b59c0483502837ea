"""Large arguments are put into the hive when they come again, told apart by what they hold."""

import numpy
import pytest
import torch

from hivemind_p2p import large_arguments
from hivemind_p2p.large_arguments import LargeArguments
from hivemind_p2p.tasks.references import Reference


@pytest.fixture
def hive(monkeypatch):
    """Puts what is asked for, and counts it."""
    monkeypatch.setattr(large_arguments, "LARGE", 100)
    monkeypatch.setattr(large_arguments, "AT_ONCE", 10_000)
    put = []

    def put_one(value):
        put.append(value)
        return Reference(None, f"magnet:{len(put)}", 1)

    large = LargeArguments(put_one)
    large.put = put
    return large


@pytest.mark.parametrize(
    "value", [b"x" * 200, bytearray(b"x" * 200), numpy.zeros(50), torch.zeros(50), numpy.zeros((10, 10)).T]
)
def test_what_comes_again_is_put_once(hive, value):
    first, _ = hive.replaced([value, 5], {})
    assert first[0] is value
    again, named = hive.replaced([5, value], {"data": value})
    assert isinstance(again[1], Reference)
    assert named["data"] is again[1]
    assert len(hive.put) == 1


def test_an_equal_one_is_the_same_and_a_changed_one_is_another(hive):
    array = numpy.zeros(50)
    hive.replaced([array], {})
    assert isinstance(hive.replaced([numpy.zeros(50)], {})[0][0], Reference)
    array[7] = 1.0
    assert hive.replaced([array], {})[0][0] is array
    assert hive.replaced([numpy.zeros(50, numpy.int64)], {})[0][0].dtype == numpy.int64
    assert hive.replaced([numpy.zeros((5, 10))], {})[0][0].shape == (5, 10)


def test_a_very_large_one_is_put_the_first_time(hive):
    value = numpy.zeros(5_000)
    assert isinstance(hive.replaced([], {"data": value})[1]["data"], Reference)
    assert hive.put == [value] or numpy.array_equal(hive.put[0], value)


@pytest.mark.parametrize("value", [b"x" * 99, "x" * 200, [1] * 200, numpy.array([object()] * 50), None])
def test_small_ones_and_those_of_other_kinds_stay(hive, value):
    for _ in range(3):
        assert hive.replaced([value], {"named": value}) == ([value], {"named": value})
    assert hive.put == []


def test_only_so_many_are_remembered(hive, monkeypatch):
    monkeypatch.setattr(large_arguments, "MOST_SEEN", 2)
    for number in range(3):
        hive.replaced([bytes([number]) * 200], {})
    assert hive.replaced([b"\0" * 200], {})[0][0] == b"\0" * 200
    assert isinstance(hive.replaced([b"\2" * 200], {})[0][0], Reference)
