"""Models for their callers: publish a checkpoint, wait until every layer has a host, write text over them.

Participants: a publisher, which shares the bytes and announces the model under the key ``models``; a caller, which
fetches config and tokenizer (never the weights) and asks the willing peers to host.

Goals: what comes out equals what the whole model in one process writes; a caller needs neither torch nor
transformers unless it gives tensors.

Non-goals: hosting (`service.py`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import trio

from hivemind_p2p import defaults
from hivemind_p2p.errors import ConfigurationError, MissingLayersError, PromptTooLongError
from hivemind_p2p.interfaces import Content, Directory, Network, OfferBook, Payer
from hivemind_p2p.sharding import asking, caller, checkpoint, streams, text, wire
from hivemind_p2p.sharding.generation import GenerationState
from hivemind_p2p.sharding.loading import Loading, LoadProgress
from hivemind_p2p.sharding.sampling import MAX_SEED, SamplingOptions
from hivemind_p2p.types import Credits, Link

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

CONFIG_DEADLINE = 60.0
"""Seconds for fetching config and tokenizer, some MB."""

Prompt: TypeAlias = "str | Sequence[int] | torch.Tensor"


class ModelClient:
    """Publishes and loads models.

    Args:
        network: Speaks to the hosts.
        content: Shares and fetches checkpoints.
        offers: Where hosts are found.
        directory: Where models are announced.
        payer: Pays hosts; None in a hive without payment.
        patience: What generations wait for, and how long.
    """

    def __init__(
        self,
        network: Network,
        content: Content,
        offers: OfferBook,
        directory: Directory,
        payer: Payer | None = None,
        *,
        patience: caller.Patience | None = None,
    ) -> None:
        self.network = network
        self.offers = offers
        self.payer = payer
        self.patience = patience or caller.Patience()
        self._content = content
        self._directory = directory
        self._published: dict[Link, wire.ModelRecord] = {}

    async def publish(self, folder: Path, *, stages: int | None = None) -> Link:
        """Shares a checkpoint folder and announces it to the hive.

        Args:
            folder: A Hugging Face model folder.
            stages: Into how many even spans it is cut; by default as many as peers serve models now.

        Raises:
            CheckpointError: It is no complete checkpoint; the message names what is missing.
        """
        found = await trio.to_thread.run_sync(checkpoint.open_folder, folder)
        if stages is None:
            stages = len(asking.willing(await self.offers.offers(fresh=True)))
        if len(self._published) >= wire.MAX_MODELS:
            raise ConfigurationError(f"one peer announces at most {wire.MAX_MODELS} models")
        link = await self._content.share(folder)
        self._published[link] = wire.ModelRecord(
            link=link,
            name=folder.name,
            layer_count=found.layer_count,
            stages_wanted=max(1, min(stages, found.layer_count)),
            architecture=found.architecture,
        )
        value = wire.encode_models(self._published.values())
        await self._directory.publish(defaults.MODELS_KEY, value, lifetime=defaults.CONTENT_LIFETIME)
        return link

    async def load(
        self, link: Link, *, progress: Callable[[LoadProgress], None] | None = None, timeout: float = 120.0
    ) -> RemoteModel:
        """Waits until every layer of a model has a host.

        Args:
            link: What `publish` gave.
            progress: Called whenever something changes.
            timeout: Seconds.

        Raises:
            MissingLayersError: Some layers had no host in time; the message names them.
            CheckpointError: The link holds no checkpoint.
        """
        model = await self._read(link, min(timeout, CONFIG_DEADLINE))
        loading = Loading(self.network, self.offers, link, model.layer_count, progress)
        await loading.run(timeout)
        return model

    async def _read(self, link: Link, deadline: float) -> RemoteModel:
        try:
            with trio.fail_after(deadline):
                files = await self._content.files(link)
                folder = await self._content.fetch(link, wanted=checkpoint.small_files(files))
        except trio.TooSlowError as error:
            raise MissingLayersError(
                f"config and tokenizer of {link} did not arrive within {deadline:g} s",
                hint="Keep the peer running that published it.",
            ) from error
        return await trio.to_thread.run_sync(RemoteModel, self, link, folder)


class RemoteModel:
    """A model whose layers have hosts. Made by `ModelClient.load`.

    Attributes:
        link: Which content it is.
        folder: Where its config and tokenizer lie.
        cost: What its generations have cost so far, in millionths of a credit.
    """

    def __init__(self, client: ModelClient, link: Link, folder: Path) -> None:
        self.link = link
        self.folder = folder
        self.config = checkpoint.read_json(folder / checkpoint.CONFIG)
        self.layer_count = checkpoint.layer_count(self.config)
        self.cost = Credits(0)
        self._client = client
        generation = folder / checkpoint.GENERATION_CONFIG
        self._generation_config = checkpoint.read_json(generation) if generation.is_file() else {}

    @property
    def name(self) -> str:
        """The name that the link carries, or the model's type."""
        named = parse_qs(urlsplit(self.link).query).get("dn")
        return named[0] if named else str(self.config.get("model_type", self.link))

    @property
    def ends(self) -> tuple[int, ...]:
        """The token ids that end a text."""
        found = self._special("eos_token_id")
        values = found if isinstance(found, list) else [found]
        return tuple(value for value in values if type(value) is int)[: wire.MAX_ENDS]

    @property
    def pad(self) -> int:
        """The token id that fills up a row of a batch that ended early."""
        found = self._special("pad_token_id")
        return found if type(found) is int else next(iter(self.ends), 0)

    @property
    def context(self) -> int:
        """The longest text in tokens."""
        found = next((self.config[key] for key in _CONTEXTS if type(self.config.get(key)) is int), wire.MAX_ROOM)
        return int(min(found, wire.MAX_ROOM))

    @property
    def vocabulary(self) -> int:
        """How many token ids there are."""
        found = self.config.get("vocab_size")
        return found if type(found) is int else 2**32  # what the wire can carry

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back. Raises CheckpointError where the checkpoint has none."""
        return text.load_tokenizer(self.folder / checkpoint.TOKENIZER)

    def _special(self, name: str) -> Any:
        found = self._generation_config.get(name)
        return self.config.get(name) if found is None else found

    def stream(
        self, prompt: Prompt, *, max_new_tokens: int = 50, stop: Sequence[str] = (), **sampling: Any
    ) -> streams.GenerationStream[Any]:
        """Goes on with a prompt, piece by piece.

        Example::

            async with model.stream("def main(") as pieces:
                async for piece in pieces:
                    print(piece, end="")

        Args:
            prompt: Text, token ids, or a LongTensor of shape (batch, length).
            max_new_tokens: How many tokens to add at most.
            stop: Texts before which the text ends; for a text prompt only.
            **sampling: ``temperature``, ``top_k``, ``top_p``, ``seed`` of `SamplingOptions`. Without a seed one is
                drawn.

        Returns:
            A stream of new text; of token ids where ids were given; of LongTensors of shape (batch,) for a tensor.

        Raises:
            PromptTooLongError: Prompt and answer do not fit the model's context.
            ConfigurationError: An option is out of range.
        """
        options = _sampling(sampling)
        if isinstance(prompt, str):
            ids = list(self.tokenizer.encode(prompt).ids)
            return streams.GenerationStream(
                streams.TextWriter(self._run(ids, max_new_tokens, options), self.tokenizer, ids, stop)
            )
        if stop:
            raise ConfigurationError("stop texts need a prompt of text, not of token ids")
        if hasattr(prompt, "tolist"):
            rows = _rows(prompt)
            runs = [self._run(row, max_new_tokens, _for_row(options, index)) for index, row in enumerate(rows)]
            return streams.GenerationStream(streams.BatchWriter(runs, self.pad))
        return streams.GenerationStream(streams.IdWriter(self._run(_ids(prompt), max_new_tokens, options)))

    async def generate(self, prompt: Prompt, *, max_new_tokens: int = 50, **options: Any) -> Any:
        """Goes on with a prompt, to the end. The arguments are those of `stream`.

        Returns:
            What it was given, the new tokens behind it: text, a list of ids, or a LongTensor of shape
            (batch, length + new), rows that ended early filled up with the padding token.
        """
        async with self.stream(prompt, max_new_tokens=max_new_tokens, **options) as pieces:
            new = [piece async for piece in pieces]
        if isinstance(prompt, str):
            return prompt + "".join(new)
        if hasattr(prompt, "tolist"):
            return _joined(prompt, new)
        return [*prompt, *new]

    def _paid(self, cost: Credits) -> None:
        self.cost = Credits(self.cost + cost)

    def _run(self, ids: list[int], max_new_tokens: int, options: SamplingOptions) -> streams.Run:
        self._check(ids, max_new_tokens)
        model = caller.Model(self.link, self.layer_count, self.context, frozenset(self.ends))
        state = GenerationState(ids, max_new_tokens, model.ends)
        client = self._client
        run = caller.GenerationRun(client.network, client.offers, client.payer, model, state, options, client.patience)
        return streams.Run(run, self._paid)

    def _check(self, ids: list[int], max_new_tokens: int) -> None:
        if not ids:
            raise ConfigurationError("a prompt has at least one token")
        if any(type(token) is not int or token < 0 for token in ids):
            raise ConfigurationError("token ids are whole numbers from 0 up")
        if max(ids) >= self.vocabulary:
            # Every host would refuse it, and one after the other be given up as broken.
            raise ConfigurationError(f"the token id {max(ids)} is not in the vocabulary of {self.vocabulary}")
        if type(max_new_tokens) is not int or max_new_tokens < 0:
            raise ConfigurationError(f"max_new_tokens is a whole number from 0 up, not {max_new_tokens!r}")
        if len(ids) + max_new_tokens > self.context:
            raise PromptTooLongError(
                f"{len(ids)} tokens of prompt and {max_new_tokens} new ones do not fit the context of {self.context}"
            )


_CONTEXTS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


def _sampling(given: dict[str, Any]) -> SamplingOptions:
    chosen = {name: value for name, value in given.items() if value is not None}
    if unknown := sorted(set(chosen) - {"temperature", "top_k", "top_p", "seed"}):
        raise ConfigurationError(f"generate knows no option {unknown[0]!r}")
    chosen.setdefault("seed", secrets.randbelow(MAX_SEED))
    return SamplingOptions(**chosen)


def _for_row(options: SamplingOptions, row: int) -> SamplingOptions:
    """The same options with a seed of the row's own: equal prompts in a batch are to differ."""
    return SamplingOptions(options.temperature, options.top_k, options.top_p, (options.seed + row) % (MAX_SEED + 1))


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


__all__ = ["LoadProgress", "ModelClient", "RemoteModel"]
