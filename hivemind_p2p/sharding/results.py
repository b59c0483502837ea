"""What comes back where log-probabilities are asked for: the text, and what the model thought of each new token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Likely:
    """A token that could have come.

    Attributes:
        id: Its id.
        text: What it says; empty where the prompt was not text.
        log_probability: Natural logarithm of its probability, as the model gave it: before any temperature, penalty
            or narrowing down.
    """

    id: int
    text: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token that came, and what else could have.

    Attributes:
        id: Its id.
        text: What it adds to the text; empty where the prompt was not text, or where it is only part of a character.
        log_probability: Natural logarithm of its probability, as the model gave it.
        likeliest: The likeliest tokens at its place, the likeliest first.
    """

    id: int
    text: str
    log_probability: float
    likeliest: tuple[Likely, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text with the log-probabilities of its new tokens.

    Attributes:
        text: Prompt and new text; empty where the prompt was not text.
        ids: The token ids of both.
        tokens: The new ones.
    """

    text: str
    ids: tuple[int, ...] = field(repr=False)
    tokens: tuple[ScoredToken, ...] = field(repr=False)

    @property
    def log_probability(self) -> float:
        """Of all new tokens together: the sum of theirs."""
        return sum(token.log_probability for token in self.tokens)

    def __str__(self) -> str:
        return self.text


def scored_text(prompt: str | None, ids: Iterable[int], tokens: Iterable[ScoredToken]) -> ScoredText:
    """The whole of a prompt and its new tokens.

    Args:
        prompt: The prompt as text; None where it was ids.
        ids: Its ids.
        tokens: What was added.
    """
    new = tuple(tokens)
    text = "" if prompt is None else prompt + "".join(token.text for token in new)
    return ScoredText(text, (*ids, *(token.id for token in new)), new)


__all__ = ["Likely", "ScoredText", "ScoredToken", "scored_text"]
