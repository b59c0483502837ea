"""Guessing ahead, on the first stage: which tokens, and how many of them are worth a step.

One pass over the ring can verify several tokens that were guessed, for hardly more time than it takes to make one:
what a step costs is the way around the ring and reading the weights, both of which its rows share (Leviathan et al.
2023). The last stage draws each token as if nothing had been guessed (`sampling.py`), so the text is the same with
any guesses; wrong ones only cost time. `Speculator` keeps that small: it measures how often guesses of each kind are
right and how long steps take, and guesses as many tokens as bring the most text a second, down to none.

Pure: clocks and models are handed in.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

LONGEST_MATCH = 16
"""Tokens that are compared: a longer agreement with the past says no more about how it goes on."""

MOST_PLACES = 8
"""Places in the past that are looked at for one guess: bounds the time in a text that repeats one pair of tokens."""

TRUSTED_MATCH = 4
"""So many tokens that agree with the past say more than a small model does, and cost nothing."""

MODEL = 0
"""The kind of a draft model's guesses; those of the text's own past are called by how much agreed, 2 and more."""

FORGET = 0.9
"""How much of the experience is left after another step: texts change from code to prose within some dozens."""

PRIOR_TRIES = 2.0
"""How many tries the first assumption weighs."""

PRIOR_COST = 0.1
"""What another row is assumed to cost, as a share of a step of one row, until it was measured."""

PROBE = 0.97
"""How much experience is left after a step for which no guess was worth it: bad luck at first must not last."""

MARGIN = 1.02
"""By how much text a second has to win: within it, guesses would make work for others for nothing."""

OUTLIER = 3.0
"""A step that took longer than so many usual ones tells of a stall, not of its rows."""


class Source(Protocol):
    """Where guesses come from."""

    def extend(self, tokens: Sequence[int]) -> None:
        """The text goes on with these."""

    def look(self) -> int | None:
        """Of which kind the next guess would be; None for no guess."""

    def propose(self, count: int) -> Sequence[int]:
        """So many tokens at the most that may follow the text; called after `look`."""


class TextLookup:
    """Looks up how the text went on where it stood like this before (prompt lookup; Saxena 2023, Yang et al. 2023).

    Each pair of tokens knows its last place, and each place the one before it: another token costs the same however
    long the text is.

    Args:
        text: The tokens so far.
    """

    def __init__(self, text: Sequence[int] = ()) -> None:
        self._text = array("I")
        self._before = array("I")
        self._last: dict[int, int] = {}
        self._place = 0
        self.extend(text)

    def extend(self, tokens: Sequence[int]) -> None:
        """See `Source.extend`."""
        for token in tokens:
            place = len(self._text)
            self._text.append(token)
            pair = self._text[place - 1] << 32 | token
            # Place 0 has no pair, so it can stand for none.
            self._before.append(self._last.get(pair, 0) if place else 0)
            if place:
                self._last[pair] = place

    def look(self) -> int | None:
        """How many tokens before the end agree with those before the best place; at least a pair."""
        best = 0
        place = len(self._text) - 1
        for _ in range(MOST_PLACES):
            place = self._before[place] if place > 0 else 0
            if not place:
                break
            agree = self._agree(place)
            if agree > best:
                best, self._place = agree, place
            if agree == LONGEST_MATCH:
                break
        return best or None

    def propose(self, count: int) -> list[int]:
        """See `Source.propose`. A text that goes round in circles is followed beyond its end."""
        follows = self._place + 1
        known = self._text[follows : follows + count].tolist()
        return [known[number % len(known)] for number in range(count)]

    def _agree(self, place: int) -> int:
        text, end = self._text, len(self._text) - 1
        most = min(LONGEST_MATCH, place + 1)
        return next((size for size in range(2, most) if text[place - size] != text[end - size]), most)


class ProposingModel(Protocol):
    """A small model that says how it would go on."""

    def __call__(self, text: Sequence[int], count: int) -> Sequence[int] | None:
        """So many tokens after the text, fewer where it cannot; None while there is no such model."""


class LookupOrModel:
    """Guesses of a small model; where much of the text's end agrees with its past, that is looked up instead.

    Args:
        lookup: Knows the text's past.
        model: Makes the other guesses.
        text: The tokens so far.
    """

    def __init__(self, lookup: TextLookup, model: ProposingModel, text: Sequence[int] = ()) -> None:
        self._lookup = lookup
        self._model = model
        self._text = list(text)
        self._found: int | None = None

    def extend(self, tokens: Sequence[int]) -> None:
        """See `Source.extend`."""
        self._text += tokens
        self._lookup.extend(tokens)

    def look(self) -> int | None:
        """See `Source.look`."""
        self._found = self._lookup.look()
        return self._found if self._found is not None and self._found >= TRUSTED_MATCH else MODEL

    def propose(self, count: int) -> Sequence[int]:
        """See `Source.propose`."""
        if self._found is not None and self._found >= TRUSTED_MATCH:
            return self._lookup.propose(count)
        guess = self._model(self._text, count)
        if guess is None:
            return self._lookup.propose(count) if self._found is not None else ()
        return guess


@dataclass(slots=True)
class _Tally:
    """How guesses of one kind fared; old ones weigh less."""

    prior: float
    right: float = 0.0
    tries: float = 0.0

    @property
    def chance(self) -> float:
        """That a guess is right, if all before it were."""
        return (self.right + self.prior * PRIOR_TRIES) / (self.tries + PRIOR_TRIES)

    def add(self, right: int, tries: int) -> None:
        """A step's outcome."""
        self.right = self.right * FORGET + right
        self.tries = self.tries * FORGET + tries

    def fade(self) -> None:
        """Nothing was tried."""
        self.right *= PROBE
        self.tries *= PROBE


@dataclass(slots=True)
class _Cost:
    """What steps take by their guesses: a straight line through what was measured, old measurements weighing less.

    Two made-up measurements keep the line's slope sensible while all steps had about as many guesses.
    """

    count: float = 0.0
    rows: float = 0.0
    squares: float = 0.0
    seconds: float = 0.0
    products: float = 0.0
    base: float = 0.0
    """What a step without guesses would take on average, were `PRIOR_COST` right."""

    def add(self, guesses: int, seconds: float) -> None:
        """A step's time."""
        usual, slope = self.line()
        if self.count > 2:
            seconds = min(seconds, OUTLIER * (usual + slope * guesses))
        base = seconds / (1 + PRIOR_COST * guesses)
        self.base = base if not self.count else self.base * FORGET + base * (1 - FORGET)
        self.count = self.count * FORGET + 1
        self.rows = self.rows * FORGET + guesses
        self.squares = self.squares * FORGET + guesses * guesses
        self.seconds = self.seconds * FORGET + seconds
        self.products = self.products * FORGET + guesses * seconds

    def line(self) -> tuple[float, float]:
        """Seconds of a step without guesses, and of each guess."""
        if not self.count:
            return 1.0, PRIOR_COST
        far = 4.0
        count, rows, squares = self.count + 1, self.rows + far / 2, self.squares + far * far / 2
        made_up = self.base * (1 + PRIOR_COST * far)
        seconds = self.seconds + (self.base + made_up) / 2
        products = self.products + far * made_up / 2
        slope = (count * products - rows * seconds) / (count * squares - rows * rows)
        slope = min(max(slope, 0.0), self.base)
        return max((seconds - slope * rows) / count, self.base * 1e-3), slope


@dataclass
class DraftLength:
    """How many tokens to guess."""

    _tallies: dict[int, _Tally] = field(default_factory=dict)
    _cost: _Cost = field(default_factory=_Cost)

    def choose(self, kind: int, most: int) -> int:
        """As many as bring the most text a second.

        Args:
            kind: Of the guess.
            most: That may be guessed.
        """
        tally = self._tally(kind)
        chance = tally.chance
        base, each = self._cost.line()
        best, best_rate = 0, MARGIN / base
        expected, likely = 1.0, 1.0
        for count in range(1, most + 1):
            likely *= chance
            expected += likely
            rate = expected / (base + each * count)
            if rate > best_rate:
                best, best_rate = count, rate
        if not best:
            tally.fade()
        return best

    def learn(self, kind: int | None, guessed: int, right: int, seconds: float | None) -> None:
        """What became of a step.

        Args:
            kind: Of its guesses; None if there were none.
            guessed: How many.
            right: How many of these were.
            seconds: From the guess to the answer; None where it says nothing about the next steps.
        """
        if kind is not None and guessed:
            self._tally(kind).add(right, min(right + 1, guessed))
        if seconds is not None and seconds > 0:
            self._cost.add(guessed, seconds)

    def _tally(self, kind: int) -> _Tally:
        kind = _KINDS[min(kind, len(_KINDS) - 1)]
        if kind not in self._tallies:
            self._tallies[kind] = _Tally(_PRIORS[kind])
        return self._tallies[kind]


_KINDS = (MODEL, 2, 2, 3, 4, 4, 6, 6, 6, 6, 10)
"""Which experience counts for a kind: agreements of about the same length share it."""

_PRIORS = {MODEL: 0.6, 2: 0.4, 3: 0.55, 4: 0.65, 6: 0.75, 10: 0.85}
"""How likely guesses of each kind are to be right before there is experience."""


class Speculator:
    """Guesses for one text; keeps the promise of `choosing.Drafter`.

    Args:
        source: Of the guesses; called when the first one is wanted, as a long prompt takes its time.
        clock: Seconds from any beginning.
    """

    def __init__(self, source: Callable[[], Source], clock: Callable[[], float]) -> None:
        self._make = source
        self._source: Source | None = None
        self._clock = clock
        self._length = DraftLength()
        self._kind: int | None = None
        self._guess: Sequence[int] = ()
        self._began: float | None = None
        self._steps = 0

    def extend(self, tokens: Sequence[int]) -> None:
        """These tokens were chosen: one more than were guessed right."""
        # The first step computes the prompt as well: its time tells nothing.
        told = self._began is not None and self._steps > 1
        seconds = self._clock() - self._began if told and self._began is not None else None
        self._length.learn(self._kind, len(self._guess), min(len(tokens) - 1, len(self._guess)), seconds)
        self._sourced().extend(tokens)
        self._began, self._guess = None, ()

    def draft(self, most: int) -> Sequence[int]:
        """What may follow, `most` tokens at the most; nothing if it is not worth it."""
        self._began = self._clock()
        self._steps += 1
        source = self._sourced()
        self._kind = source.look()
        if self._kind is not None and (count := self._length.choose(self._kind, most)):
            self._guess = source.propose(count)
        return self._guess

    def _sourced(self) -> Source:
        if self._source is None:
            self._source = self._make()
        return self._source


__all__ = ["DraftLength", "LookupOrModel", "ProposingModel", "Source", "Speculator", "TextLookup"]
