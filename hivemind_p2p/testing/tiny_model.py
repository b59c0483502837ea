"""Train a tiny language model from nothing, in half an hour, on one core.

    python -m hivemind_p2p.testing.tiny_model --out notebooks/models/tiny-python

The result is an ordinary Hugging Face checkpoint folder of the Llama architecture, small
enough to live in the repository: the demo and the notebooks split it over several peers.
It is the project's own example of training as well, so it reads from top to bottom:

1. `tiny_corpus` reads the Python standard library and learns a byte-level BPE vocabulary;
2. `build_model` makes the network from a `tiny_recipe.Recipe`, with random weights;
3. `train` shows it windows of text until the time is up. The matrices inside the layers learn
   with Muon (https://kellerjordan.github.io/posts/muon/), everything else with AdamW
   (Loshchilov and Hutter 2019); the learning rate warms up, then falls to zero on a cosine;
4. `tiny_checkpoint` writes the folder in bfloat16, and `tiny_card` writes its model card.

It imports torch (2.9 or newer, for Muon), so nothing else of the library imports it.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from hivemind_p2p.testing import tiny_corpus
from hivemind_p2p.testing.tiny_card import write_card
from hivemind_p2p.testing.tiny_checkpoint import check_folder_size, continue_text, save_checkpoint
from hivemind_p2p.testing.tiny_recipe import QUICK, Figures, Recipe

CONTEXT_TOKENS = 1024
"""`max_position_embeddings`: rotary positions go on past the training windows, less surely."""

WARM_UP_SHARE = 0.03
"""Part of the training in which the learning rate rises."""

LARGEST_GRADIENT_NORM = 1.0

HELD_OUT_WINDOWS = 48
"""Windows measured while training goes on; the last measurement takes all of them."""

SECONDS_BETWEEN_REPORTS = 60.0
SECONDS_BETWEEN_SAVES = 300.0
"""A run that is stopped early leaves a folder that loads, without a card."""

SAMPLE_PROMPTS = ("def main(", "class Server(", "    def close(self):")
SAMPLE_TOKENS = 60


def learning_rate_factor(progress: float) -> float:
    """Return the part of the peak learning rate to use: linear warm-up, then half a cosine.

    Args:
        progress: how much of the training is done, 0 to 1.
    """
    if progress < WARM_UP_SHARE:
        return 0.02 + 0.98 * progress / WARM_UP_SHARE
    remaining = min((progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE), 1.0)
    return 0.5 * (1 + math.cos(math.pi * remaining))


def build_model(recipe: Recipe) -> Any:
    """Make a Llama with random float32 weights.

    Args:
        recipe: its sizes and its seed.

    Returns:
        A `transformers.LlamaForCausalLM` (typed `Any`: transformers has no types of its own).
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocabulary_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.attention_heads,
        num_key_value_heads=recipe.key_value_heads,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=tiny_corpus.END_OF_TEXT_ID,
        eos_token_id=tiny_corpus.END_OF_TEXT_ID,
        pad_token_id=tiny_corpus.END_OF_TEXT_ID,
    )
    return LlamaForCausalLM(config)


def build_optimizers(model: Any, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Give the layers' matrices to Muon, and the embedding and the norms to AdamW."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = parameter.ndim == 2 and ".layers." in name
        (matrices if inside else others).append(parameter)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.muon_learning_rate, weight_decay=0.1),
        torch.optim.AdamW(others, lr=recipe.adam_learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def training_batches(ids: torch.Tensor, recipe: Recipe) -> Iterator[torch.Tensor]:
    """Yield batches of windows for ever, every window once an epoch, cut anew in each epoch.

    Args:
        ids: the whole training text, shape (tokens,), int64.
        recipe: sizes and seed.

    Yields:
        Shape (batch_windows, window_tokens + 1), int64: inputs and, one further on, targets.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    length = recipe.window_tokens
    while True:
        start = int(torch.randint(length, (1,), generator=generator))
        windows = ids[start:].unfold(0, length + 1, length)
        order = torch.randperm(len(windows), generator=generator)
        for chosen in torch.split(order, recipe.batch_windows):
            yield windows[chosen]


def window_loss(model: Any, windows: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy, in nats a token, of predicting each next token.

    Args:
        model: a causal language model.
        windows: token ids, shape (windows, tokens + 1), int64.
    """
    logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


@torch.inference_mode()
def measure_loss(model: Any, ids: torch.Tensor, window_tokens: int, most_windows: int) -> float:
    """Return the mean loss over windows spread evenly through a text, in nats a token.

    Args:
        model: a causal language model.
        ids: the text, shape (tokens,), int64.
        window_tokens: tokens in a window.
        most_windows: measure no more than this many.
    """
    windows = ids.unfold(0, window_tokens + 1, window_tokens)
    windows = windows[:: max(1, len(windows) // most_windows)]
    losses = [window_loss(model, part).item() * len(part) for part in torch.split(windows, 8)]
    return sum(losses) / len(windows)


class Training:
    """One run: the model, what it learns from, and where it stands.

    Args:
        recipe: how to train.
        corpus: what to learn from.
        folder: where the checkpoint goes.
        report: takes one line of text at a time.

    Attributes:
        report_interval: seconds between two lines about the progress.
        losses: of every training step so far, in nats a token.
    """

    def __init__(
        self,
        recipe: Recipe,
        corpus: tiny_corpus.Corpus,
        folder: Path,
        report: Callable[[str], None],
    ) -> None:
        torch.set_num_threads(recipe.threads)
        self.recipe = recipe
        self.folder = folder
        self.report = report
        self.tokenizer = tiny_corpus.train_tokenizer(corpus.training, recipe.vocabulary_size)
        self.training_ids = self._encode(corpus.training)
        self.held_out_ids = self._encode(corpus.held_out)
        self.held_out_bytes = sum(len(text.encode()) for text in corpus.held_out)
        self.model = build_model(recipe)
        self.optimizers = build_optimizers(self.model, recipe)
        self.report_interval = SECONDS_BETWEEN_REPORTS
        self.steps = 0
        self.losses: list[float] = []
        report(
            f"{self.model.num_parameters():,} parameters, {len(self.training_ids):,} tokens to "
            f"learn from, {len(self.held_out_ids):,} held out"
        )

    def _encode(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor(tiny_corpus.encode_texts(self.tokenizer, texts), dtype=torch.int64)

    def take_step(self, windows: torch.Tensor, factor: float) -> None:
        """Learn from one batch.

        Args:
            windows: token ids, shape (windows, tokens + 1), int64.
            factor: part of the peak learning rate to use.
        """
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = window_loss(self.model, windows)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT_NORM)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
            optimizer.zero_grad()
        self.steps += 1
        self.losses.append(loss.item())

    def report_progress(self, progress: float, elapsed: float) -> None:
        """Print where the training stands, with the loss on text it never saw."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            held_out = measure_loss(self.model, self.held_out_ids, self.recipe.window_tokens, HELD_OUT_WINDOWS)
        recent = self.losses[-100:]
        self.report(
            f"{progress:4.0%}  step {self.steps:5d}  {self.tokens_seen / 1e6:6.2f} M tokens  "
            f"{self.tokens_seen / elapsed:6.0f} tokens/s  "
            f"loss {sum(recent) / len(recent):.3f}  held-out {held_out:.3f}"
        )

    @property
    def tokens_seen(self) -> int:
        """Tokens that the model has been trained on, repetitions counted."""
        return self.steps * self.recipe.batch_windows * self.recipe.window_tokens

    def run(self) -> Figures:
        """Train until the recipe's time or steps are used up, then save and measure the result.

        Returns:
            The figures of the saved folder, which are in its model card as well.
        """
        started = time.monotonic()
        reported = saved = started
        for windows in training_batches(self.training_ids, self.recipe):
            elapsed = time.monotonic() - started
            progress = self.recipe.progress(self.steps, elapsed)
            if progress >= 1:
                break
            self.take_step(windows, learning_rate_factor(progress))
            now = time.monotonic()
            if now - reported > self.report_interval:
                self.report_progress(progress, now - started)
                reported = now
            if now - saved > SECONDS_BETWEEN_SAVES:
                save_checkpoint(self.model, self.tokenizer, self.folder)
                saved = now
        return self.finish(time.monotonic() - started)

    def finish(self, elapsed: float) -> Figures:
        """Save the folder, measure what it holds after rounding to bfloat16, write the card."""
        from transformers import AutoModelForCausalLM

        save_checkpoint(self.model, self.tokenizer, self.folder)
        shipped = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        held_out = measure_loss(shipped, self.held_out_ids, self.recipe.window_tokens, len(self.held_out_ids))
        training = measure_loss(
            shipped, self.training_ids, self.recipe.window_tokens, len(self.held_out_ids) // self.recipe.window_tokens
        )
        tokens_a_byte = len(self.held_out_ids) / self.held_out_bytes
        figures = Figures(
            parameters=self.model.num_parameters(),
            training_tokens=len(self.training_ids),
            held_out_tokens=len(self.held_out_ids),
            tokens_seen=self.tokens_seen,
            steps=self.steps,
            seconds=elapsed,
            training_loss=training,
            held_out_loss=held_out,
            bits_per_byte=held_out * tokens_a_byte / math.log(2),
        )
        samples = {prompt: continue_text(shipped, self.tokenizer, prompt, SAMPLE_TOKENS) for prompt in SAMPLE_PROMPTS}
        write_card(self.folder, self.recipe, figures, samples)
        return figures


def train(
    folder: Path,
    corpus: tiny_corpus.Corpus,
    recipe: Recipe,
    report: Callable[[str], None] = print,
) -> Figures:
    """Train a model and save it as a Hugging Face checkpoint folder.

    Args:
        folder: where to save; made if it is missing.
        corpus: what to learn from.
        recipe: how to train.
        report: takes the lines that tell how it goes.

    Raises:
        ValueError: the folder came out larger than `tiny_checkpoint.MAXIMUM_FOLDER_BYTES`.
    """
    figures = Training(recipe, corpus, folder, report).run()
    size = check_folder_size(folder)
    report(f"saved {folder}: {size / 1e6:.2f} MB, held-out loss {figures.held_out_loss:.3f}")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line.

    Args:
        arguments: instead of `sys.argv`.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--minutes", type=float, help="time to train (30)")
    parser.add_argument("--quick", action="store_true", help="a smaller model in half a minute")
    options = parser.parse_args(arguments)
    recipe = QUICK if options.quick else Recipe()
    if options.minutes is not None:
        recipe = replace(recipe, minutes=options.minutes)
    corpus = tiny_corpus.read_corpus(tiny_corpus.standard_library_folder())
    train(options.out, corpus, recipe, functools.partial(print, flush=True))


if __name__ == "__main__":
    main()
