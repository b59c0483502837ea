"""What decides how the tiny language model comes out, and what came out.

Plain data, with no torch, so that the training and the model card can share it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how the model comes out.

    Attributes:
        vocabulary_size: tokens.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the feed-forward part.
        layers: decoder layers; six can be split over two, three or six peers.
        attention_heads: query heads.
        key_value_heads: key and value heads (grouped-query attention when fewer).
        window_tokens: tokens in one training example.
        batch_windows: examples in one step.
        muon_learning_rate: peak, for the matrices inside the layers.
        adam_learning_rate: peak, for the embedding and the norms.
        minutes: time to train.
        most_steps: stop after so many steps instead, which makes a run repeatable.
        seed: of weights and of the order of the examples.
        threads: of torch. On a machine with other work, more than one is far slower.
    """

    vocabulary_size: int = 2048
    hidden_size: int = 192
    intermediate_size: int = 512
    layers: int = 6
    attention_heads: int = 6
    key_value_heads: int = 3
    window_tokens: int = 256
    batch_windows: int = 8
    muon_learning_rate: float = 0.015
    adam_learning_rate: float = 8e-3
    minutes: float = 30.0
    most_steps: int | None = None
    seed: int = 20
    threads: int = 1

    def progress(self, step: int, elapsed: float) -> float:
        """Return how much of the training is done, 0 to 1 and beyond.

        Args:
            step: steps taken.
            elapsed: seconds since the start.
        """
        if self.most_steps is not None:
            return step / self.most_steps
        return elapsed / (self.minutes * 60)


QUICK = Recipe(hidden_size=64, intermediate_size=176, attention_heads=4, key_value_heads=2, minutes=0.5)
"""Shows within a minute that everything works; its text is gibberish."""


@dataclass(frozen=True)
class Figures:
    """What one training run amounted to.

    Attributes:
        parameters: numbers that the model learned.
        training_tokens: tokens in the text to learn from.
        held_out_tokens: tokens in the text that was kept apart.
        tokens_seen: tokens trained on, repetitions counted.
        steps: updates of the weights.
        seconds: wall-clock time of the training.
        training_loss: of the saved bfloat16 weights on text they were trained on, in nats a
            token; far below `held_out_loss`, the model has learned by heart.
        held_out_loss: of the same weights on the held-out text.
        bits_per_byte: the held-out loss a byte of text: comparable between vocabularies.
    """

    parameters: int
    training_tokens: int
    held_out_tokens: int
    tokens_seen: int
    steps: int
    seconds: float
    training_loss: float
    held_out_loss: float
    bits_per_byte: float
