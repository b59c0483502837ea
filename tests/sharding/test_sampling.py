"""The next token: greedy, drawn, and the same again from the same seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import ConfigurationError, GenerationError
from hivemind_p2p.sharding.choosing import Chooser
from hivemind_p2p.sharding.sampling import (
    MAX_SEED,
    MOST_LIKELIEST,
    SamplingOptions,
    candidates,
    log_probabilities,
    penalised,
    sample,
)

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
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"min_p": float("nan")},
        {"repetition_penalty": -1.0},
        {"repetition_penalty": float("inf")},
        {"log_probabilities": -1},
        {"log_probabilities": MOST_LIKELIEST + 2},
    ],
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        SamplingOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("logits", [[1.0, 3.0, 3.0, -np.inf], [0.0], [-np.inf, 2.0]])
def test_of_equal_tokens_the_first_is_taken_greedily(logits: list[float]) -> None:
    assert sample(np.array(logits), SamplingOptions(), 0) == int(np.argmax(logits))


def test_one_token_that_can_be_drawn_is_drawn() -> None:
    for options in ({"top_k": 1}, {"top_p": 0.01}, {"min_p": 1.0}):
        assert set(draws(SamplingOptions(temperature=9.0, **options), 50)) == {0}  # type: ignore[arg-type]
    assert sample(np.zeros(1, np.float32), SamplingOptions(temperature=1.0), 0) == 0


def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest() -> None:
    assert set(draws(SamplingOptions(temperature=1.0, min_p=0.28))) == {0, 1, 2}
    assert set(draws(SamplingOptions(temperature=2.0, min_p=0.5))) == {0, 1, 2}, "after the temperature"


def test_a_repetition_penalty_holds_back_what_was_said() -> None:
    options = SamplingOptions(repetition_penalty=2.0)
    assert sample(np.array([1.0, 0.9, -4.0]), options, 0, [0]) == 1
    assert sample(np.array([-1.0, -1.5, -4.0]), options, 0, {0}) == 1
    assert sample(np.array([1.0, 0.9]), options, 0, [0, 1]) == 0
    assert sample(np.array([1.0, 0.9]), SamplingOptions(repetition_penalty=0.0), 0, [0]) == 0, "0 is none"


def test_the_models_logits_are_left_as_they_are() -> None:
    logits = LOGITS.copy()
    sample(logits, SamplingOptions(temperature=0.7, top_k=2, repetition_penalty=1.5), 0, [0, 1])
    assert (logits == LOGITS).all()


def test_half_precision_logits() -> None:
    for kind in (np.float16, np.float32, np.float64):
        options = SamplingOptions(temperature=1e-4, repetition_penalty=1.5)
        assert sample(np.array([6e4, -6e4, 1.0], dtype=kind), options, 3, [1]) == 0


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(temperature=1.0),
        SamplingOptions(temperature=0.6, top_k=9),
        SamplingOptions(temperature=1.4, top_p=0.8),
        SamplingOptions(temperature=1.0, min_p=0.15, repetition_penalty=1.3),
    ],
)
def test_draws_pass_a_chi_square_test(options: SamplingOptions, seed: int) -> None:
    """Of 20,000 draws at 20,000 positions; the limit is exceeded once in 10,000 right samplers, and never by these."""
    logits = np.random.default_rng(5).normal(0, 1.5, 40).astype(np.float32)
    seen = [3, 17]
    count = 20_000
    drawn = np.zeros(40)
    for position in range(count):
        drawn[sample(logits, replace(options, seed=seed), position, seen)] += 1
    values = torch.tensor(logits)[None]
    expected = torch.softmax(library_scores(options, values, seen), -1)[0].numpy() * count
    assert (drawn[expected == 0] == 0).all()
    frequent = expected > 5
    statistic = ((drawn - expected)[frequent] ** 2 / expected[frequent]).sum()
    assert statistic < chi_square_limit(int(frequent.sum()) - 1)


def chi_square_limit(degrees: int) -> float:
    """What a chi-square statistic exceeds once in 10,000 times (Wilson and Hilferty's approximation)."""
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + 3.719 * part**0.5) ** 3)


def test_positions_and_neighbouring_seeds_are_independent() -> None:
    """How often a token follows itself, over positions and over seeds: as often as chance has it."""
    options = SamplingOptions(temperature=1.0)
    logits = np.zeros(8, np.float32)
    by_position = [sample(logits, options, position) for position in range(8000)]
    by_seed = [sample(logits, replace(options, seed=seed), 5) for seed in range(8000)]
    for drawn in (by_position, by_seed):
        repeats = sum(one == other for one, other in pairwise(drawn))
        assert repeats == pytest.approx(1000, abs=4 * (8000 / 8 * 7 / 8) ** 0.5)


def library_scores(options: SamplingOptions, scores: torch.Tensor, seen: list[int]) -> torch.Tensor:
    """What the transformers library makes of logits, by its own processors in its own order."""
    from transformers.generation import logits_process as library

    ids = torch.tensor([seen], dtype=torch.int64)
    processors: list[Any] = []
    if options.penalises:
        processors.append(library.RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    processors.append(library.TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        processors.append(library.TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        processors.append(library.TopPLogitsWarper(options.top_p))
    if options.min_p:
        processors.append(library.MinPLogitsWarper(options.min_p))
    return library.LogitsProcessorList(processors)(ids, scores)


@given(
    logits=st.lists(st.integers(-60, 60), min_size=1, max_size=600, unique=True),
    temperature=st.floats(0.3, 3),
    top_k=st.sampled_from([0, 1, 2, 7, 300]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.1]),
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    penalty=st.sampled_from([1.0, 1.2, 0.8]),
)
def test_what_can_be_drawn_is_what_the_transformers_library_leaves(
    logits: list[int], temperature: float, top_k: int, top_p: float, min_p: float, penalty: float
) -> None:
    options = SamplingOptions(temperature, top_k, top_p, min_p=min_p, repetition_penalty=penalty)
    seen = list(range(0, len(logits), 3))
    values = np.array(logits, np.float64) / 7
    scores = library_scores(options, torch.tensor(values)[None], seen)
    expected = torch.softmax(scores, -1)[0].numpy()
    ids, weights = candidates(penalised(values, options, seen), options)
    found = np.zeros(len(values))
    found[np.arange(len(values)) if ids is None else ids] = weights / weights.sum()
    if (found > 0).sum() == (expected > 0).sum():
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
        return
    # A token on the very border, where the two add up in another order.
    assert abs(int((found > 0).sum()) - int((expected > 0).sum())) == 1
    border = (found > 0) != (expected > 0)
    everything = np.sort(np.exp((penalised(values, options, seen) - values.max()) / temperature))[::-1]
    shares = np.cumsum(everything / everything.sum())
    assert top_p == 1 or border.sum() == 1
    assert np.abs(shares - top_p).min() < 1e-6 or np.abs(everything - min_p).min() < 1e-9 or top_k


def test_equal_tokens_at_the_border() -> None:
    """The k likeliest take those as likely as the last with them; a nucleus takes those with the lowest ids."""
    logits = np.array([1.0, 2.0, 1.0, 1.0, 0.0])
    ids, _ = candidates(logits, SamplingOptions(temperature=1.0, top_k=2))
    assert ids is not None
    assert ids.tolist() == [0, 1, 2, 3]
    ids, _ = candidates(logits, SamplingOptions(temperature=1.0, top_p=0.7))
    assert ids is not None
    assert ids.tolist() == [0, 1, 2]


@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
def test_a_nucleus_in_a_large_vocabulary(spread: float) -> None:
    logits = np.random.default_rng(1).normal(0, spread, 5000)
    weights = np.exp(logits - logits.max())
    ids, found = candidates(logits, SamplingOptions(temperature=1.0, top_p=0.7))
    assert ids is not None
    shares = np.sort(weights / weights.sum())[::-1].cumsum()
    assert len(ids) == int((shares < 0.7).sum()) + 1
    assert found.sum() >= 0.7 * weights.sum()
    assert weights[ids].min() >= np.delete(weights, ids).max()


def test_log_probabilities_are_the_models_own() -> None:
    found = log_probabilities(LOGITS, 2, 3)
    assert found.chosen == pytest.approx(np.log(0.15), abs=1e-6)
    assert found.tokens == (0, 1, 2)
    assert found.values == pytest.approx(np.log([0.5, 0.25, 0.15]), abs=1e-6)
    assert log_probabilities(LOGITS, 0, 0).tokens == ()
    assert log_probabilities(LOGITS, 0, 9).tokens == (0, 1, 2, 3)
    assert log_probabilities(np.array([1.0, 2.0, 2.0, 2.0, -np.inf]), 4, 2).tokens == (1, 2)
    assert log_probabilities(np.array([1.0, -np.inf]), 1, 0).chosen == -np.inf


def test_drawing_does_not_depend_on_what_else_can_be_drawn() -> None:
    """The noise is each token's own: leaving others out does not change which of two wins."""
    for position in range(300):
        narrow = sample(LOGITS, SamplingOptions(temperature=1.0, top_k=2), position)
        wide = sample(LOGITS, SamplingOptions(temperature=1.0), position)
        assert narrow == wide or wide in {2, 3}


def test_texts_of_a_seed_stay_what_they_were() -> None:
    """Peers of different versions in one hive draw the same."""
    options = SamplingOptions(temperature=1.0, seed=11)
    drawn = [sample(LOGITS, options, position) for position in range(16)]
    assert drawn == [2, 1, 0, 3, 2, 0, 0, 0, 2, 2, 0, 2, 0, 1, 0, 3]


def test_the_chooser_counts_accepted_drafts_into_the_text() -> None:
    chooser = Chooser(SamplingOptions(repetition_penalty=10.0, log_probabilities=3), [0])
    logits = torch.tensor([[5.0, 4.0, 3.0]] * 3)
    chosen = chooser.choose(logits, 1, [1, 2])
    assert chosen.tokens == [1, 2, 0], "each penalised once it was said, until all were"
    assert len(chosen.log_probabilities) == len(chosen.likeliest) == 3
    assert chosen.log_probabilities[0] == pytest.approx(float(torch.log_softmax(logits[0], 0)[1]))
    assert list(chosen.likeliest[0].tokens) == [0, 1]


def test_the_chooser_stops_at_the_first_draft_that_is_wrong() -> None:
    chooser = Chooser(SamplingOptions())
    assert chooser.choose(torch.tensor([[1.0, 2.0]] * 4), 0, [1, 0, 1]).tokens == [1, 1]
    with pytest.raises(GenerationError, match="rows of logits"):
        chooser.choose(torch.tensor([[1.0, 2.0]]), 0, [1])
