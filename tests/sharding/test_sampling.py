"""The next token: greedy, drawn, and the same again from the same seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import ConfigurationError, GenerationError
from hivemind_p2p.sharding.sampling import MAX_SEED, SamplingOptions, sample

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1], dtype=np.float32))


def draws(options: SamplingOptions, count: int = 4000) -> Counter[int]:
    return Counter(sample(LOGITS, options, position) for position in range(count))


def test_greedy_takes_the_likeliest() -> None:
    assert draws(SamplingOptions(), 10) == {0: 10}


def test_drawing_follows_the_probabilities() -> None:
    found = draws(SamplingOptions(temperature=1.0, seed=3))
    assert [found[token] / 4000 for token in range(4)] == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=0.03)


def test_a_high_temperature_evens_out_and_a_low_one_sharpens() -> None:
    assert draws(SamplingOptions(temperature=50.0))[3] > 800
    assert draws(SamplingOptions(temperature=0.05))[0] > 3990


def test_top_k_keeps_the_likeliest_k() -> None:
    assert set(draws(SamplingOptions(temperature=1.0, top_k=2))) == {0, 1}


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, {0}), (0.6, {0, 1}), (0.8, {0, 1, 2}), (1.0, {0, 1, 2, 3})])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: set[int]) -> None:
    assert set(draws(SamplingOptions(temperature=1.0, top_p=top_p))) == kept


def test_top_p_counts_within_top_k() -> None:
    assert set(draws(SamplingOptions(temperature=1.0, top_k=3, top_p=0.6))) == {0, 1}


@given(st.integers(0, MAX_SEED), st.integers(0, 2**20), st.lists(st.floats(-30, 30), min_size=1, max_size=50))
def test_the_seed_and_the_position_decide(seed: int, position: int, logits: list[float]) -> None:
    options = SamplingOptions(temperature=0.8, top_p=0.9, seed=seed)
    first = sample(np.array(logits), options, position)
    assert first == sample(np.array(logits), options, position)
    assert 0 <= first < len(logits)


def test_seeds_and_positions_differ() -> None:
    options = [SamplingOptions(temperature=1.0, seed=seed) for seed in range(2)]
    texts = [tuple(sample(LOGITS, each, position) for position in range(40)) for each in options]
    assert texts[0] != texts[1]
    assert len(set(texts[0])) > 1


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = np.array([0.0, -np.inf, 0.0])
    assert {sample(logits, SamplingOptions(temperature=5.0), position) for position in range(200)} == {0, 2}


@pytest.mark.parametrize("logits", [[np.nan, 1.0], [1.0, np.nan], [np.inf, 0.0], [-np.inf, -np.inf]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers(logits: list[float], temperature: float) -> None:
    with pytest.raises(GenerationError, match="position 7"):
        sample(np.array(logits), SamplingOptions(temperature=temperature), 7)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"seed": -1},
        {"seed": MAX_SEED + 1},
    ],
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        SamplingOptions(**options)  # type: ignore[arg-type]
