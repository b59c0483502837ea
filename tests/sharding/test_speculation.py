"""Guessing ahead: what is guessed, how much of it, and that it changes nothing but the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.sharding import speculation
from hivemind_p2p.sharding.choosing import Chooser
from hivemind_p2p.sharding.sampling import SamplingOptions, sample
from hivemind_p2p.sharding.speculation import MODEL, DraftLength, LookupOrModel, Source, Speculator, TextLookup

VOCABULARY = 24
NEW = 150
PROMPT = [7, 1, 2, 3, 4, 9, 8, 1, 2, 3]


def logits(text: Sequence[int]) -> np.ndarray:
    """A model that follows the last two tokens, most of the time in circles."""
    generator = np.random.default_rng([text[-1], text[-2]])
    values = generator.normal(0, 1, VOCABULARY)
    values[(text[-1] * 5 + text[-2]) % VOCABULARY] += 4
    return values.astype(np.float32)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SimulatedRing:
    """A first stage that guesses and a last one that chooses, with the time that a step takes.

    Attributes:
        steps: Steps made.
        seconds: They took in all.
    """

    def __init__(self, options: SamplingOptions, *, step: float = 0.1, row: float = 0.01) -> None:
        self.clock = Clock()
        self._options = options
        self._step, self._row = step, row
        self.steps = 0

    def write(self, source: Callable[[list[int]], Source] | None, most: int = 8, new: int = NEW) -> list[int]:
        text = list(PROMPT)
        chooser = Chooser(self._options, text)
        speculator = None if source is None else Speculator(lambda: source(list(PROMPT)), self.clock)
        while len(text) < len(PROMPT) + new:
            guesses = [] if speculator is None else list(speculator.draft(most))
            assert len(guesses) <= most
            rows = [logits([*text, *guesses[:count]]) for count in range(len(guesses) + 1)]
            tokens = chooser.choose(torch.tensor(np.array(rows)), len(text), guesses).tokens
            text += tokens
            self.clock.now += self._step + self._row * len(guesses)
            self.steps += 1
            if speculator is not None:
                speculator.extend(tokens)
        return text[: len(PROMPT) + new]


class Copy:
    """A draft model that knows the large one, a little worse."""

    def __init__(self, noise: float) -> None:
        self._noise = noise

    def __call__(self, text: Sequence[int], count: int) -> list[int]:
        longer = list(text)
        for _ in range(count):
            noise = np.random.default_rng(len(longer)).normal(0, self._noise, VOCABULARY)
            longer.append(int((logits(longer) + noise).argmax()))
        return longer[len(text) :]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
@pytest.mark.parametrize(
    "source",
    [
        TextLookup,
        lambda text: LookupOrModel(TextLookup(text), Copy(0.0), text),
        lambda text: LookupOrModel(TextLookup(text), Copy(3.0), text),
    ],
    ids=["lookup", "good model", "bad model"],
)
def test_the_text_is_exactly_the_one_without(source: Callable[..., Source], temperature: float, seed: int) -> None:
    options = SamplingOptions(temperature=temperature, seed=seed, top_p=0.95, repetition_penalty=1.05)
    plain, guessed = SimulatedRing(options), SimulatedRing(options)
    assert plain.write(None) == guessed.write(source)
    assert guessed.clock.now < plain.clock.now * 1.1, "bad guesses hardly cost anything"


def test_text_that_repeats_takes_far_fewer_steps() -> None:
    options = SamplingOptions()
    plain, guessed = SimulatedRing(options), SimulatedRing(options)
    plain.write(None)
    guessed.write(TextLookup)
    assert guessed.clock.now < plain.clock.now / 2.5
    assert guessed.steps < plain.steps / 3


def test_where_rows_cost_as_much_as_steps_nothing_is_guessed_for_long() -> None:
    options = SamplingOptions(temperature=1.3, seed=2)
    costly = SimulatedRing(options, step=0.01, row=0.1)
    plain = SimulatedRing(options, step=0.01, row=0.1)
    plain.write(None)
    costly.write(TextLookup)
    assert costly.clock.now < plain.clock.now * 2.5


@given(st.lists(st.integers(0, 3), max_size=200))
def test_a_lookup_finds_the_longest_of_the_last_places(text: list[int]) -> None:
    lookup = TextLookup(text[:50])
    lookup.extend(text[50:])
    places = [at for at in range(1, len(text) - 1) if text[at - 1 : at + 1] == text[-2:]][::-1]
    kind = lookup.look()
    if len(text) < 2 or not places:
        assert kind is None
        return
    agreements = [agreement(text, place) for place in places[: speculation.MOST_PLACES]]
    assert kind == max(agreements)
    place = places[agreements.index(kind)]
    known = text[place + 1 :]
    assert lookup.propose(5) == (known * 5)[:5]


def agreement(text: Sequence[int], place: int) -> int:
    size = 0
    while size < min(speculation.LONGEST_MATCH, place + 1) and text[place - size] == text[len(text) - 1 - size]:
        size += 1
    return size


def test_a_circle_is_followed_beyond_the_end() -> None:
    lookup = TextLookup([1, 2, 3, 1, 2, 3, 1, 2])
    assert lookup.look() == 5
    assert lookup.propose(7) == [3, 1, 2, 3, 1, 2, 3]


def test_nothing_is_guessed_where_nothing_was_like_this_before() -> None:
    speculator = Speculator(lambda: TextLookup([1, 2, 3, 4]), Clock())
    assert speculator.draft(8) == ()
    speculator.extend([5])
    assert Speculator(TextLookup, Clock()).draft(8) == ()


def test_the_length_follows_experience() -> None:
    length = DraftLength()
    assert 1 <= length.choose(4, 8) <= 8
    for _ in range(30):
        length.learn(4, 4, 4, 0.14)
    assert length.choose(4, 8) == 8
    for _ in range(60):
        length.learn(4, 4, 0, 0.14)
    assert length.choose(4, 8) == 0
    assert length.choose(10, 8) > 0, "another kind has its own experience"


def test_bad_luck_is_not_held_against_a_kind_for_ever() -> None:
    length = DraftLength()
    for _ in range(30):
        length.learn(4, 4, 0, 0.14)
    assert any(length.choose(4, 8) for _ in range(200))


def test_what_another_row_costs_decides() -> None:
    cheap, dear = DraftLength(), DraftLength()
    for guesses in [0, 4, 2, 8, 0, 1] * 5:
        cheap.learn(6, guesses, guesses // 2, 0.1 + 0.001 * guesses)
        dear.learn(6, guesses, guesses // 2, 0.1 + 0.05 * guesses)
    assert cheap.choose(6, 16) > dear.choose(6, 16)


def test_a_stall_is_no_cost_of_rows() -> None:
    length = DraftLength()
    for guesses in [0, 4, 2, 8, 0, 1] * 5:
        length.learn(6, guesses, guesses, 0.1 + 0.001 * guesses)
    before = length.choose(6, 16)
    length.learn(6, 8, 8, 60.0)
    assert length.choose(6, 16) >= before - 2


@given(
    st.lists(
        st.tuples(st.integers(0, 16), st.integers(0, 16), st.integers(0, 16), st.none() | st.floats(0, 1e6)),
        max_size=60,
    ),
    st.integers(0, 16),
)
def test_any_experience_leads_to_a_length(history: list[tuple[int, int, int, float | None]], most: int) -> None:
    length = DraftLength()
    for kind, guessed, right, seconds in history:
        length.learn(kind, guessed, min(right, guessed), seconds)
        assert 0 <= length.choose(kind, most) <= most


def test_a_draft_model_that_draws_with_the_same_noise_is_right_more_often() -> None:
    """The noise is the position's: two models that are alike draw alike, which greedy guesses would not."""
    options = SamplingOptions(temperature=1.0, seed=5)
    text = list(PROMPT)
    same = greedy = 0
    for _ in range(300):
        near = logits(text) + np.random.default_rng(len(text)).normal(0, 0.2, VOCABULARY).astype(np.float32)
        token = sample(logits(text), options, len(text))
        same += sample(near, options, len(text)) == token
        greedy += int(near.argmax()) == token
        text.append(token)
    assert same > greedy + 30


def test_a_models_guesses_where_the_past_says_little() -> None:
    guess = LookupOrModel(TextLookup([1, 2]), Copy(0.0), [1, 2])
    assert guess.look() == MODEL
    assert guess.propose(3) == Copy(0.0)([1, 2], 3)
    guess.extend([5, 6, 7, 8, 5, 6, 7, 8])
    assert guess.look() == 4
    assert guess.propose(2) == [5, 6]


def test_the_past_helps_out_until_there_is_a_model() -> None:
    guess = LookupOrModel(TextLookup([1, 2, 3, 1, 2]), lambda text, count: None, [1, 2, 3, 1, 2])
    assert guess.look() == MODEL
    assert guess.propose(2) == [3, 1]
    guess.extend([9])
    guess.look()
    assert guess.propose(2) == ()
