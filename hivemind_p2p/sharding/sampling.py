"""From logits to the next token, on the last stage.

A token is drawn by the Gumbel-max trick (Gumbel 1954; Maddison et al. 2014): every token's log-probability gets noise
added, and the largest sum is taken. The noise of a token comes from the seed, the position and the token's id alone,
never from a generator's history. So a stage that takes over in mid-text draws what the lost one would have drawn, a
draft is verified by drawing at its place, and neither batching nor speculation nor a failover changes the text. And
because tokens keep their own noise, logits that differ in the last bits draw another token only where two were as
good as equal.

What can be drawn is narrowed down in the order of the transformers library: repetition penalty, temperature, top-k,
top-p, min-p.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hivemind_p2p.errors import ConfigurationError, GenerationError

MAX_SEED = 2**63 - 1

MOST_LIKELIEST = 20
"""Likeliest tokens that are told at a position: more would cost more on the ring than the token itself."""

NUCLEUS_GUESS = 256
"""Tokens among which a nucleus is looked for first; nearly always it is smaller."""

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How the next token is chosen.

    Args:
        temperature: 0 takes the likeliest token (greedy); above, logits are divided by it.
        top_k: Only the likeliest k tokens, and those as likely as the last of them, can be drawn; 0 for all.
        top_p: Only the smallest set of likeliest tokens that reaches this probability can be drawn (nucleus
            sampling, Holtzman et al. 2020); 1 for all.
        seed: The same seed draws the same text.
        min_p: Only tokens that are at least so many times as likely as the likeliest one can be drawn (Nguyen et al.
            2024); 0 for all.
        repetition_penalty: The logits of tokens that stand in the text already are divided by it, or multiplied with
            it where they are negative (Keskar et al. 2019); 0 and 1 for none.
        log_probabilities: 0 for none; n for the chosen token's and those of the n - 1 likeliest tokens. They are the
            model's own: before any penalty, temperature or narrowing down.

    Raises:
        ConfigurationError: A value is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    log_probabilities: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigurationError(f"temperature is 0 or above, not {self.temperature}")
        if self.top_k < 0:
            raise ConfigurationError(f"top_k is 0 or above, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ConfigurationError(f"top_p lies above 0 and at most at 1, not {self.top_p}")
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigurationError(f"a seed lies between 0 and {MAX_SEED}, not {self.seed}")
        if not 0 <= self.min_p <= 1:
            raise ConfigurationError(f"min_p lies between 0 and 1, not {self.min_p}")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty >= 0):
            raise ConfigurationError(f"repetition_penalty is above 0, not {self.repetition_penalty}")
        if not 0 <= self.log_probabilities <= MOST_LIKELIEST + 1:
            raise ConfigurationError(
                f"at most {MOST_LIKELIEST} likeliest tokens are told, not {self.log_probabilities}"
            )

    @property
    def penalises(self) -> bool:
        """Whether the tokens of the text so far matter."""
        return self.repetition_penalty not in (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class LogProbabilities:
    """What the model thought of one position.

    Attributes:
        chosen: Of the token that was chosen, a natural logarithm.
        tokens: The likeliest ones, the likeliest first; of those as likely as each other the lower id first.
        values: Theirs.
    """

    chosen: float
    tokens: tuple[int, ...] = ()
    values: tuple[float, ...] = ()


def sample(logits: Array, options: SamplingOptions, position: int, seen: Collection[int] | Array = ()) -> int:
    """The token at `position`.

    Args:
        logits: Shape (vocabulary,), any float dtype.
        options: How to choose.
        position: The token's place in the text, the prompt counted.
        seen: The ids that stand in the text already, each once; wanted where `options.penalises`.

    Raises:
        GenerationError: The logits hold NaN or plus infinity, or nothing but minus infinity.
    """
    _check(logits, position)
    values = penalised(logits, options, seen)
    if options.temperature == 0:
        return int(values.argmax())
    ids, weights = candidates(values, options)
    if len(weights) == 1:
        return 0 if ids is None else int(ids[0])
    noise = _exponentials(options.seed, position, np.arange(len(weights), dtype=np.uint64) if ids is None else ids)
    best = int((weights / noise).argmax())
    return best if ids is None else int(ids[best])


def candidates(values: Array, options: SamplingOptions) -> tuple[Array | None, npt.NDArray[np.float64]]:
    """What can be drawn, the penalty being applied already: ids in ascending order (None for all) and weights.

    The weights are proportional to the probabilities; the largest is 1.
    """
    top = values.max()
    if options.top_k and options.top_k < len(values):
        # Chosen by value, so that tokens as likely as the last one stay, as they do in the transformers library.
        least = np.partition(values, len(values) - options.top_k)[len(values) - options.top_k]
        ids = np.flatnonzero(values >= least)
        weights = _weights(values[ids], top, options.temperature)
    else:
        ids, weights = None, _weights(values, top, options.temperature)
    if options.top_p < 1:
        ids, weights = _keep(ids, weights, _nucleus(weights, options.top_p))
    if options.min_p > 0:
        ids, weights = _keep(ids, weights, np.flatnonzero(weights >= options.min_p))
    return ids, weights


def log_probabilities(logits: Array, token: int, likeliest: int) -> LogProbabilities:
    """The model's own log-probabilities at one position.

    Args:
        logits: Shape (vocabulary,), as the model gave them.
        token: The one that was chosen.
        likeliest: How many of the likeliest tokens to tell.
    """
    values = logits.astype(np.float64)
    top = values.max()
    total = top + math.log(np.exp(values - top).sum())
    count = min(likeliest, len(values))
    if not count:
        return LogProbabilities(float(values[token] - total))
    least = np.partition(values, len(values) - count)[len(values) - count]
    ids = np.flatnonzero(values >= least)
    ids = ids[np.argsort(-values[ids], kind="stable")][:count]
    return LogProbabilities(
        float(values[token] - total),
        tuple(int(each) for each in ids),
        tuple(float(values[each] - total) for each in ids),
    )


def _check(logits: Array, position: int) -> None:
    # NaN and plus infinity are both what `max` finds, if there is one.
    if not np.isfinite(logits.max()):
        raise GenerationError(f"the model's logits at position {position} are no numbers")


def penalised(logits: Array, options: SamplingOptions, seen: Collection[int] | Array) -> Array:
    """The logits with the repetition penalty, where there is one; a copy then."""
    if logits.dtype == np.float16:
        logits = logits.astype(np.float32)
    if not options.penalises or not len(seen):
        return logits
    ids = np.fromiter(seen, dtype=np.int64, count=len(seen))
    values, penalty = logits.copy(), options.repetition_penalty
    values[ids] = np.where(values[ids] > 0, values[ids] / penalty, values[ids] * penalty)
    return values


def _weights(values: Array, top: Any, temperature: float) -> npt.NDArray[np.float64]:
    weights: npt.NDArray[np.float64] = np.exp((values.astype(np.float64) - float(top)) / temperature)
    return weights


def _nucleus(weights: npt.NDArray[np.float64], top_p: float) -> Array:
    """The places of the smallest set of largest weights that reaches the share, in ascending order."""
    wanted = top_p * weights.sum()
    size = min(NUCLEUS_GUESS, len(weights))
    # Partly sorted only: a nucleus of hundreds is found in a vocabulary of hundreds of thousands.
    found = np.partition(weights, len(weights) - size)[len(weights) - size :]
    if size < len(weights) and found.sum() < wanted:
        found = weights.copy()
    found.sort()
    falling = found[::-1]
    kept = int(np.searchsorted(np.cumsum(falling) - falling, wanted, side="left"))
    least = falling[kept - 1]
    places = np.flatnonzero(weights >= least)
    if len(places) > kept:
        # Some as likely as the last one have to go: those with the highest ids.
        tied = np.flatnonzero(weights[places] == least)
        places = np.delete(places, tied[len(tied) - (len(places) - kept) :])
    return places


def _keep(ids: Array | None, weights: npt.NDArray[np.float64], places: Array) -> tuple[Array, npt.NDArray[np.float64]]:
    return (places if ids is None else ids[places]), weights[places]


def _exponentials(seed: int, position: int, ids: Array) -> npt.NDArray[np.float64]:
    """For each token id a draw from the exponential distribution: its negative logarithm is Gumbel noise.

    A hash of its own (the finaliser of SplitMix64, Steele et al. 2014) instead of a library's generator: every version
    of every library on every peer draws the same.
    """
    digest = hashlib.blake2b(seed.to_bytes(8, "big") + position.to_bytes(8, "big"), digest_size=8).digest()
    state = ids.astype(np.uint64)
    state *= np.uint64(_GOLDEN)
    state += np.uint64(int.from_bytes(digest, "big"))
    for shift, factor in zip((30, 27), _MIX, strict=True):
        state ^= state >> np.uint64(shift)
        state *= np.uint64(factor)
    state ^= state >> np.uint64(31)
    state >>= np.uint64(12)
    # In the middle of 2**52 steps: neither 0, whose logarithm is none, nor 1, whose draw would win against all.
    uniform = state.astype(np.float64)
    uniform += 0.5
    uniform *= 2.0**-52
    drawn: npt.NDArray[np.float64] = np.negative(np.log(uniform, out=uniform), out=uniform)
    return drawn


__all__ = [
    "MAX_SEED",
    "MOST_LIKELIEST",
    "LogProbabilities",
    "SamplingOptions",
    "candidates",
    "log_probabilities",
    "penalised",
    "sample",
]
