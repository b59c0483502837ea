"""The last stage's choice of tokens, with drafts verified on the way, and the promise of who drafts on the first.

The randomness of a token comes from the seed and its position alone. So a draft is verified by choosing the token at
its position as if there were no draft: while the two agree, the next row's logits stand on the right text and the
next token can be chosen as well. The text is the same with any drafts or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from hivemind_p2p.errors import GenerationError
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import sampling
from hivemind_p2p.sharding.sampling import SamplingOptions

if TYPE_CHECKING:
    import torch


class Drafter(Protocol):
    """Guesses how a text goes on. `drafting.py` makes one; called in the engine's thread."""

    def extend(self, tokens: Sequence[int]) -> None:
        """These tokens were chosen: one more than were guessed right."""

    def draft(self, most: int) -> Sequence[int]:
        """What may follow, `most` tokens at the most; nothing if it is not worth it."""

    def close(self) -> None:
        """The generation is over."""


@dataclass(slots=True)
class Chosen:
    """The tokens of one step: drafts that were right, and one more."""

    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    likeliest: list[pb.Likeliest] = field(default_factory=list)


class Chooser:
    """Chooses the tokens of one text.

    Args:
        options: How.
        text: The tokens so far, as far as the options ask for them.
    """

    def __init__(self, options: SamplingOptions, text: Sequence[int] = ()) -> None:
        self._options = options
        self._seen = set(text) if options.penalises else set()

    def choose(self, logits: torch.Tensor, position: int, drafts: Sequence[int] = ()) -> Chosen:
        """The tokens from `position` on.

        Args:
            logits: Of shape (1 + drafts, vocabulary), float32: one row for each position from which a token is chosen.
            position: Where the first one stands.
            drafts: What was guessed for all positions but the last.

        Raises:
            GenerationError: The logits are no numbers.
        """
        if len(logits) != len(drafts) + 1:
            raise GenerationError(f"{len(logits)} rows of logits came for {len(drafts)} drafts")
        chosen = Chosen()
        for row, values in enumerate(logits.numpy()):
            token = sampling.sample(values, self._options, position + row, self._seen)
            self._note(chosen, values, token)
            if row == len(drafts) or drafts[row] != token:
                break
        return chosen

    def _note(self, chosen: Chosen, values: Any, token: int) -> None:
        chosen.tokens.append(token)
        if self._options.penalises:
            self._seen.add(token)
        if self._options.log_probabilities:
            found = sampling.log_probabilities(values, token, self._options.log_probabilities - 1)
            chosen.log_probabilities.append(found.chosen)
            chosen.likeliest.append(pb.Likeliest(tokens=found.tokens, log_probabilities=found.values))


__all__ = ["Chooser", "Chosen", "Drafter"]
