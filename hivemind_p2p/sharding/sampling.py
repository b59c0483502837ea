"""From logits to the next token, on the last stage.

The randomness of a token comes from the seed and the token's position alone, never from a generator's history: a
stage that takes over in mid-text draws what the lost one would have drawn, so a generation that survives a failover
writes the same text as one that had none.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hivemind_p2p.errors import ConfigurationError, GenerationError

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How the next token is chosen.

    Args:
        temperature: 0 takes the likeliest token (greedy); above, logits are divided by it.
        top_k: Only the likeliest k tokens can be drawn; 0 for all.
        top_p: Only the smallest set of likeliest tokens that reaches this probability can be drawn (nucleus
            sampling, Holtzman et al. 2020); 1 for all.
        seed: The same seed draws the same text.

    Raises:
        ConfigurationError: A value is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigurationError(f"temperature is 0 or above, not {self.temperature}")
        if self.top_k < 0:
            raise ConfigurationError(f"top_k is 0 or above, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ConfigurationError(f"top_p lies above 0 and at most at 1, not {self.top_p}")
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigurationError(f"a seed lies between 0 and {MAX_SEED}, not {self.seed}")


def sample(logits: npt.NDArray[Any], options: SamplingOptions, position: int) -> int:
    """The token at `position`.

    Args:
        logits: Shape (vocabulary,), any float dtype.
        options: How to choose.
        position: The token's place in the text, the prompt counted.

    Raises:
        GenerationError: The logits hold NaN or plus infinity, or nothing but minus infinity.
    """
    values = logits.astype(np.float64)
    best = int(values.argmax())
    if np.isnan(values).any() or not np.isfinite(values[best]):
        raise GenerationError(f"the model's logits at position {position} are no numbers")
    if options.temperature == 0:
        return best
    weights = np.exp((values - values[best]) / options.temperature)
    weights[~_allowed(weights, options)] = 0.0
    # In the order of the token ids: an order by probability could flip between two stages that round differently.
    sums = np.cumsum(weights)
    return int(np.searchsorted(sums, _uniform(options.seed, position) * sums[-1], side="right"))


def _allowed(weights: npt.NDArray[np.float64], options: SamplingOptions) -> npt.NDArray[np.bool_]:
    order = np.argsort(-weights, kind="stable")
    if options.top_k:
        order = order[: options.top_k]
    before = np.cumsum(weights[order]) - weights[order]
    order = order[before < options.top_p * weights[order].sum()]
    allowed = np.zeros(weights.shape, dtype=np.bool_)
    allowed[order] = True
    return allowed


def _uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that only the seed and the position decide."""
    digest = hashlib.blake2b(seed.to_bytes(8, "big") + position.to_bytes(8, "big"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53
