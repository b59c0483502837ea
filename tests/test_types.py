"""The nouns and their arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.types import CREDIT, LayerSpan, Needs, format_credits, parse_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0),
        (17, 17),
        ("17", 17),
        ("512MiB", 512 * 2**20),
        ("512mib", 512 * 2**20),
        ("1.5GB", 1_500_000_000),
        ("2K", 2000),
        ("2Ki", 2048),
        (" 1 TiB ", 2**40),
        ("3B", 3),
    ],
)
def test_sizes(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "MiB", "1.5.5GB", "-1", "-1MiB", "1 XB", "1e9", "ten", "1MiBB", -1, "9" * 400])
def test_what_is_no_size(text):
    with pytest.raises(ConfigurationError):
        parse_bytes(text)


@given(st.integers(0, 2**60))
def test_a_number_is_its_own_size(number):
    assert parse_bytes(number) == number
    assert parse_bytes(f"{number % 2**50}") == number % 2**50


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_clear_error(text):
    try:
        size = parse_bytes(text)
    except ConfigurationError:
        return
    assert size >= 0


@given(st.integers(-(10**15), 10**15))
def test_credits_are_shown_exactly(amount):
    shown = format_credits(amount)
    whole, _, fraction = shown.removeprefix("-").partition(".")
    assert len(fraction) == 6
    assert (int(whole) * CREDIT + int(fraction)) * (-1 if shown.startswith("-") else 1) == amount


def test_needs():
    needs = Needs(cpus=2, memory="1GiB", seconds=5)
    assert needs.memory_bytes == 2**30
    assert Needs().memory_bytes == 512 * 2**20
    assert needs == Needs(cpus=2, memory=2**30, seconds=5)


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"cpus": -1}, {"seconds": 0}, {"memory": "much"}, {"memory": -1}])
def test_needs_that_make_no_sense(wrong):
    with pytest.raises(ConfigurationError):
        Needs(**wrong)


@pytest.mark.parametrize("wrong", [{"cpus": float("nan")}, {"seconds": float("nan")}, {"cpus": float("inf")}])
def test_needs_that_are_no_numbers(wrong):
    with pytest.raises(ConfigurationError):
        Needs(**wrong)


def test_layer_spans():
    assert len(LayerSpan(8, 16)) == 8
    assert str(LayerSpan(8, 16)) == "8-15"
    assert str(LayerSpan(3, 3)) == "3 (empty)"
    assert sorted([LayerSpan(4, 6), LayerSpan(0, 9), LayerSpan(0, 4)])[0] == LayerSpan(0, 4)
