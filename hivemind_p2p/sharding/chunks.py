"""What a stage's engine is given and what it makes of it; the promise that an engine keeps.

An engine computes one span of a model, for many generations in one step. Everything here blocks and is called in the
one thread that belongs to the engine (`engine_thread.py`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hivemind_p2p.types import LayerSpan

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Shape:
    """What the neighbours of a stage have to know of its model.

    Attributes:
        hidden_size: Numbers in a hidden state.
        vocabulary: Token ids are below.
        context: The longest text in tokens.
    """

    hidden_size: int
    vocabulary: int
    context: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one generation adds in one step.

    Attributes:
        key: The generation's cache, as it was given to `Engine.open`.
        position: Of the first row. Below the cache's length, the cache is cut back to it first: a draft was wrong, or
            a text is begun anew.
        inputs: Token ids of shape (rows,), int64, on the first stage; else hidden states of shape (rows, hidden size)
            in the engine's dtype.
        logits: On the last stage: of how many of the last rows logits are wanted. With 0 the result are the hidden
            states behind the final norm.
    """

    key: Hashable
    position: int
    inputs: torch.Tensor
    logits: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """What became of a chunk. The tensors are its owner's: no later step changes them.

    Attributes:
        hidden: Hidden states of shape (rows, hidden size), in the engine's dtype; may be there beside logits.
        logits: Of shape (wanted rows, vocabulary), float32.
        error: Why there is neither; other chunks of the step are not concerned.
    """

    hidden: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    error: str | None = None


class Engine(Protocol):
    """Computes a span."""

    @property
    def span(self) -> LayerSpan:
        """Its layers."""

    @property
    def shape(self) -> Shape:
        """Its model's sizes."""

    @property
    def first(self) -> bool:
        """Whether it takes token ids."""

    @property
    def last(self) -> bool:
        """Whether it gives logits."""

    @property
    def encoder(self) -> bool:
        """Whether it is an encoder's: each chunk is then one whole text, and there are no logits."""

    @property
    def dtype(self) -> str:
        """Of its hidden states: ``float32``, ``bfloat16`` or ``float16``."""

    def part(self, span: LayerSpan) -> Engine:
        """Only these layers, inside its own, on the same weights and memory; the same object for the same span."""

    def open(self, key: Hashable, room: int, prompt: Sequence[int] = ()) -> int:
        """Sets room for so many tokens aside.

        Returns:
            How many tokens at the prompt's beginning are in the cache already.

        Raises:
            BusyError: There is no room now.
        """

    def close(self, key: Hashable) -> None:
        """Gives the room back."""

    def run(self, chunks: Sequence[Chunk]) -> Sequence[Output]:
        """One step; an output for each chunk."""


__all__ = ["Chunk", "Engine", "Output", "Shape"]
