"""A model whose layers have hosts, as its caller uses it: text, ids, log-probabilities, batches, rows, embeddings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

from hivemind_p2p.errors import ConfigurationError, PromptTooLongError, UnsupportedModelError
from hivemind_p2p.interfaces import Network, OfferBook, Payer
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import caller, embedding, options, streams, wire
from hivemind_p2p.sharding.description import Description
from hivemind_p2p.sharding.generation import GenerationState
from hivemind_p2p.sharding.results import scored_text
from hivemind_p2p.sharding.routes import Extras, Routes, Terms
from hivemind_p2p.sharding.rows import Rows, open_rows
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import Credits, Link

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

Prompt: TypeAlias = "str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]] | torch.Tensor"


@dataclass(frozen=True, slots=True)
class Hosts:
    """What it takes to speak to the hosts of models.

    Args:
        network: Speaks to them.
        offers: Where they are found.
        payer: Pays them; None in a hive without payment.
        patience: What generations wait for, and how long.
    """

    network: Network
    offers: OfferBook
    payer: Payer | None
    patience: caller.Patience


class RemoteModel:
    """A model whose layers have hosts. Made by `ModelClient.load`.

    Attributes:
        described: What is known of it from its small files.
        cost: What its generations have cost so far, in millionths of a credit.
    """

    def __init__(self, hosts: Hosts, described: Description) -> None:
        self.described = described
        self.cost = Credits(0)
        self._hosts = hosts

    @property
    def link(self) -> Link:
        """Which content it is."""
        return self.described.link

    @property
    def layer_count(self) -> int:
        """How many layers it has."""
        return self.described.layer_count

    @property
    def name(self) -> str:
        """The name that the link carries, or the model's type."""
        return self.described.name

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back. Raises CheckpointError where the checkpoint has none."""
        return self.described.tokenizer

    def stream(
        self, prompt: Prompt, *, max_new_tokens: int = 50, **asked: Unpack[options.GenerateOptions]
    ) -> streams.GenerationStream[Any]:
        """Goes on with a prompt, piece by piece.

        Example::

            async with model.stream("def main(") as pieces:
                async for piece in pieces:
                    print(piece, end="")

        Args:
            prompt: Text; token ids; a list of several of either; or a LongTensor of shape (batch, length).
            max_new_tokens: How many tokens to add at most, to each.
            **asked: See `hivemind_p2p.model.Model.generate`.

        Returns:
            A stream of new text; of token ids where ids were given; of `ScoredToken` where log-probabilities are
            asked for. For a list of prompts, of pairs of a row's number and such a piece; for a tensor, of
            LongTensors of shape (batch,).

        Raises:
            PromptTooLongError: Prompt and answer do not fit the model's context.
            ConfigurationError: An option is out of range.
        """
        chosen = options.read(asked)
        if hasattr(prompt, "tolist"):
            rows = _rows(prompt)
            if not chosen.sampling.log_probabilities:
                self._without_stop(chosen)
                runs = [self._run(row, max_new_tokens, chosen.for_row(index)) for index, row in enumerate(rows)]
                return streams.GenerationStream(streams.BatchWriter(runs, self.described.pad))
            prompt = rows
        if several(prompt):
            writers = [self._writer(each, max_new_tokens, chosen.for_row(index)) for index, each in enumerate(prompt)]
            return streams.GenerationStream(streams.RowsWriter(writers))
        return streams.GenerationStream(self._writer(prompt, max_new_tokens, chosen))

    async def generate(
        self, prompt: Prompt, *, max_new_tokens: int = 50, **asked: Unpack[options.GenerateOptions]
    ) -> Any:
        """Goes on with a prompt, to the end. The arguments are those of `stream`.

        Returns:
            What it was given, the new tokens behind it: text, a list of ids, a list of several of either, or a
            LongTensor of shape (batch, length + new), rows that ended early filled up with the padding token. With
            log-probabilities a `ScoredText`, or a list of several.
        """
        async with self.stream(prompt, max_new_tokens=max_new_tokens, **asked) as pieces:
            new = [piece async for piece in pieces]
        if hasattr(prompt, "tolist"):
            if not asked.get("log_probabilities"):
                return _joined(prompt, new)
            prompt = _rows(prompt)
        scored = bool(asked.get("log_probabilities"))
        if several(prompt):
            parts: list[list[Any]] = [[] for _ in prompt]
            for row, piece in new:
                parts[row].append(piece)
            return [self._together(each, part, scored=scored) for each, part in zip(prompt, parts, strict=True)]
        return self._together(prompt, new, scored=scored)

    @asynccontextmanager
    async def rows(
        self,
        mode: pb.Mode,
        *,
        room: int,
        budget: int = 0,
        activations: str = "",
        wait_for_hosts: float | None = None,
    ) -> AsyncIterator[Rows]:
        """A text in client mode: the caller feeds tokens and gets rows of logits or hidden states.

        Args:
            mode: ``LOGITS``, ``HIDDEN`` or, for encoders, ``EMBED``.
            room: Tokens that the text may come to.
            budget: Tokens that may be computed, and are paid, in all; 0 for as many as the room.
            activations: How hidden states travel between stages; empty for the stages' own dtype.
            wait_for_hosts: Seconds to wait for a host of layers that lack one.
        """
        asked = options.Options(SamplingOptions(), Extras(activations=activations), wait_for_hosts=wait_for_hosts)
        hosts = self._hosts
        patience = asked.patience(hosts.patience)
        terms = Terms(room, asked.sampling, mode=mode, extras=asked.extras, budget=budget)
        routes = Routes(hosts.network, hosts.offers, hosts.payer, self._model(asked), terms, patience)
        try:
            async with open_rows(routes, ask_after=patience.stall, independent=mode == pb.EMBED) as rows:
                yield rows
        finally:
            self._paid(routes.cost)

    async def embed(self, texts: embedding.Texts, wishes: embedding.Wishes | None = None) -> embedding.Array:
        """The vectors of texts. See `embedding.embed`."""
        return await embedding.embed(self, texts, wishes or embedding.Wishes())

    def _writer(self, prompt: Any, max_new_tokens: int, chosen: options.Options) -> streams.Writer[Any]:
        scored = chosen.sampling.log_probabilities > 0
        if not isinstance(prompt, str):
            self._without_stop(chosen)
            run = self._run(_ids(prompt), max_new_tokens, chosen)
            return streams.ScoredWriter(run) if scored else streams.IdWriter(run)
        ids = self.described.encode(prompt)
        run = self._run(ids, max_new_tokens, chosen)
        text = streams.ScoredWriter if scored else streams.TextWriter
        return text(run, self.tokenizer, ids, chosen.stop)

    def _without_stop(self, chosen: options.Options) -> None:
        if chosen.stop:
            raise ConfigurationError("stop texts need a prompt of text, not of token ids", hint="Use stop_tokens.")

    def _together(self, prompt: Any, new: list[Any], *, scored: bool) -> Any:
        text = prompt if isinstance(prompt, str) else None
        if scored:
            return scored_text(text, prompt if text is None else self.described.encode(text), new)
        return [*prompt, *new] if text is None else text + "".join(new)

    def _paid(self, cost: Credits) -> None:
        self.cost = Credits(self.cost + cost)

    def _model(self, chosen: options.Options) -> caller.Model:
        described = self.described
        ends = frozenset(described.ends) | chosen.ends
        if len(ends) > wire.MAX_ENDS:
            raise ConfigurationError(f"a text may end with {wire.MAX_ENDS} token ids at most, the model's own counted")
        return caller.Model(described.link, described.layer_count, described.context, ends)

    def _run(self, ids: list[int], max_new_tokens: int, chosen: options.Options) -> streams.Run:
        self._check(ids, max_new_tokens)
        hosts, model = self._hosts, self._model(chosen)
        run = caller.GenerationRun(
            hosts.network,
            hosts.offers,
            hosts.payer,
            model,
            GenerationState(ids, max_new_tokens, model.ends),
            chosen.sampling,
            chosen.patience(hosts.patience),
            chosen.extras,
        )
        return streams.Run(run, self._paid)

    def _check(self, ids: list[int], max_new_tokens: int) -> None:
        if self.described.encodes:
            raise UnsupportedModelError(
                f"{self.name} is an encoder: it makes vectors of texts", hint="Use embed, or load a model that writes."
            )
        self.described.check_ids(ids)
        if type(max_new_tokens) is not int or max_new_tokens < 0:
            raise ConfigurationError(f"max_new_tokens is a whole number from 0 up, not {max_new_tokens!r}")
        if len(ids) + max_new_tokens > self.described.context:
            raise PromptTooLongError(
                f"{len(ids)} tokens of prompt and {max_new_tokens} new ones do not fit the context of "
                f"{self.described.context}"
            )


def several(prompt: Any) -> bool:
    """Whether these are several prompts: a list of texts, or of lists of ids."""
    if isinstance(prompt, str) or not isinstance(prompt, Sequence) or not prompt:
        return False
    return isinstance(prompt[0], Sequence)


def _ids(prompt: Any) -> list[int]:
    if not isinstance(prompt, Sequence):
        kind = type(prompt).__name__
        raise ConfigurationError(f"a prompt is text, a list of token ids or a tensor of them, not a {kind}")
    return list(prompt)


def _rows(tensor: Any) -> list[list[int]]:
    if tensor.dim() != 2:
        raise ConfigurationError(f"a tensor of ids has the shape (batch, length), not {tuple(tensor.shape)}")
    return [[int(token) for token in row] for row in tensor.tolist()]


def _joined(prompt: Any, steps: list[Any]) -> torch.Tensor:
    import torch

    if not steps:
        return torch.as_tensor(prompt)
    return torch.cat([prompt, torch.stack(steps, dim=1).to(prompt.dtype)], dim=1)


__all__ = ["Hosts", "Prompt", "RemoteModel", "several"]
