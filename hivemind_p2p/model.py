"""A model that is spread over the hive, as a program sees it: give it text, get text; give it ids, get ids."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

import trio

from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.portal import Portal
from hivemind_p2p.sharding import options
from hivemind_p2p.sharding.embedding import Wishes
from hivemind_p2p.sharding.fed_texts import FedTexts, Terms
from hivemind_p2p.token_stream import PieceStream, TokenStream

if TYPE_CHECKING:
    from hivemind_p2p.proto.sharding_pb2 import Mode
    from hivemind_p2p.sharding.causal_lm import HiveForCausalLM
    from hivemind_p2p.sharding.embedding import Array as Vectors
    from hivemind_p2p.sharding.embedding import Texts
    from hivemind_p2p.sharding.options import GenerateOptions
    from hivemind_p2p.sharding.remote import Prompt, RemoteModel


Call: TypeAlias = Callable[[Callable[[], Awaitable[Any]]], Any]


class AsyncModel:
    """A loaded model, for programs that run trio. Made by `AsyncHive.load_model`."""

    def __init__(self, remote: RemoteModel, nursery: trio.Nursery) -> None:
        self.remote = remote
        self._nursery = nursery

    async def generate(self, prompt: Prompt, *, max_new_tokens: int = 50, **options: Unpack[GenerateOptions]) -> Any:
        """Generates to the end. See `Model.generate`."""
        self._check_open()
        return await self.remote.generate(prompt, max_new_tokens=max_new_tokens, **options)

    def stream(self, prompt: Prompt, *, max_new_tokens: int = 50, **options: Unpack[GenerateOptions]) -> TokenStream:
        """Generates piece by piece: an async iterator of text, or of ids if the prompt was ids."""
        self._check_open()
        return TokenStream(lambda: self.remote.stream(prompt, max_new_tokens=max_new_tokens, **options), self._nursery)

    async def embed(
        self,
        texts: Texts,
        *,
        prompt: str | None = None,
        normalise: bool | None = None,
        activations: str | None = None,
        wait_for_hosts: float | None = None,
    ) -> Vectors:
        """The vectors of texts. See `Model.embed`."""
        self._check_open()
        wishes = Wishes(prompt, normalise, options.activations(activations), options.wait_for_hosts(wait_for_hosts))
        return await self.remote.embed(texts, wishes)

    def to_transformers(
        self, *, activations: str | None = None, wait_for_hosts: float | None = None, call: Call | None = None
    ) -> HiveForCausalLM:
        """The model as an object of the transformers library. See `Model.to_transformers`.

        It blocks, so it is for a thread of its own: ``await trio.to_thread.run_sync(other.generate, ids)``.
        """
        from hivemind_p2p.sharding import causal_lm

        self._check_open()
        terms = Terms(
            activations=options.activations(activations), wait_for_hosts=options.wait_for_hosts(wait_for_hosts)
        )
        token = trio.lowlevel.current_trio_token()

        def blocking(function: Callable[[], Awaitable[Any]]) -> Any:
            return trio.from_thread.run(function, trio_token=token)

        def open_texts(mode: Mode, room: int) -> FedTexts:
            self._check_open()
            return FedTexts(self.remote, replace(terms, mode=mode, room=room), self._nursery)

        bridge = causal_lm.Bridge(call or blocking, token.run_sync_soon, open_texts)
        return causal_lm.to_transformers(self.remote.described, bridge)

    def _check_open(self) -> None:
        if self._nursery.cancel_scope.cancel_called:
            raise ConfigurationError("this model's hive is closed", hint="Connect again and load the model there.")


class Model:
    """A loaded model. Made by `Hive.load_model`.

    Example:
        >>> model = hive.load_model(link)  # doctest: +SKIP
        >>> for text in model.generate("def main(", max_new_tokens=50, stream=True):  # doctest: +SKIP
        ...     print(text, end="")
    """

    def __init__(self, model: AsyncModel, portal: Portal) -> None:
        self._model = model
        self._portal = portal

    def generate(  # noqa: PLR0913 - a notebook completes these names
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 50,
        stream: bool = False,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        stop_tokens: Sequence[int] = (),
        log_probabilities: int = 0,
        speculate: bool | int | None = None,
        draft_model: str | None = None,
        activations: str | None = None,
        wait_for_hosts: float | None = None,
    ) -> Any:
        """Goes on with a prompt.

        Args:
            prompt: Text, or token ids: a list, or a LongTensor of shape (batch, length). A list of texts, or of lists
                of ids, is a batch; its rows are computed side by side and draw with seeds of their own.
            max_new_tokens: How many tokens to add at most.
            stream: Give back an iterator that yields as tokens come.
            temperature: 0 takes the likeliest token (greedy); above, tokens are drawn, the likely ones less often
                the higher it is.
            top_k: Draw from the likeliest k tokens only; 0 from all.
            top_p: Draw from the smallest set of likeliest tokens that reaches this probability.
            min_p: Draw from tokens that are at least so many times as likely as the likeliest one.
            repetition_penalty: Above 1, tokens that stand in the text already come less often.
            seed: The same seed draws the same text, also when a peer is lost half way. By default one is drawn.
            stop: Texts before which the text ends.
            stop_tokens: Token ids that end the text, beside the model's own; the one that came is part of it.
            log_probabilities: 1 for those of the new tokens, n for those of the n - 1 likeliest others as well (at
                most 21). They are the model's own, before any temperature, penalty or narrowing down.
            speculate: Let the first stage guess tokens ahead, which the others verify in one step: faster on text
                that repeats, and the same text. A number bounds the guesses of a step.
            draft_model: The link of a small model with the same tokenizer that guesses.
            activations: Send hidden states as ``bfloat16`` or ``int8``: a half or a quarter of the bytes between
                stages, and not exactly the same numbers.
            wait_for_hosts: Seconds to wait for a new host when layers have lost theirs; 30 by default.

        Returns:
            What it took: text, or ids of shape (batch, length + new); a list for a list of prompts. With
            ``log_probabilities`` a `ScoredText`. With ``stream`` an iterator of text pieces, of ids, or of
            `ScoredToken`; for a list of prompts of pairs of row and piece. Its ``reader()`` gives further iterators.

        Raises:
            PromptTooLongError: Prompt and answer do not fit the model's context.
            MissingLayersError: Some layers have no host any more; the message names them.
            GenerationError: It failed and no other route was left.
            ConfigurationError: An option is out of range.
        """
        options: GenerateOptions = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "seed": seed,
            "stop": stop,
            "stop_tokens": stop_tokens,
            "log_probabilities": log_probabilities,
            "speculate": speculate,
            "draft_model": draft_model,
            "activations": activations,
            "wait_for_hosts": wait_for_hosts,
        }
        if stream:
            return self._stream(prompt, max_new_tokens, options)
        return self._portal.call(lambda: self._model.generate(prompt, max_new_tokens=max_new_tokens, **options))

    def embed(
        self,
        texts: Texts,
        *,
        prompt: str | None = None,
        normalise: bool | None = None,
        activations: str | None = None,
        wait_for_hosts: float | None = None,
    ) -> Vectors:
        """The vectors of texts, by an encoder (or a decoder that was made into one).

        Pooling, normalisation, prompts and the length at which texts are cut are those of the checkpoint's folder, as
        the sentence-transformers library keeps them; without them the vector is the mean of the tokens' hidden states.

        Args:
            texts: One text, several, or several lists of token ids.
            prompt: The name of one of the folder's prompts, which is put before each text.
            normalise: Whether vectors get the length 1; by default what the folder says.
            activations: See `generate`.
            wait_for_hosts: See `generate`.

        Returns:
            A numpy array of shape (texts, size), float32; of one text (size,).

        Raises:
            PromptTooLongError: Token ids do not fit the model's context; a text would be cut.
            MissingLayersError: Some layers have no host any more; the message names them.
            GenerationError: It failed and no other route was left.
            UnsupportedModelError: The folder asks for a pooling that is not known here.
        """
        return self._portal.call(
            lambda: self._model.embed(
                texts,
                prompt=prompt,
                normalise=normalise,
                activations=activations,
                wait_for_hosts=wait_for_hosts,
            )
        )

    def to_transformers(
        self, *, activations: str | None = None, wait_for_hosts: float | None = None
    ) -> HiveForCausalLM:
        """The model as an object of the transformers library: a `PreTrainedModel` whose layers are over there.

        Its ``generate()`` takes the library's logits processors, stopping criteria, streamers, beams and whatever else
        it offers; calling it gives logits, and the last hidden state with ``output_hidden_states=True``. Each step goes
        to the stages and back here, so where `generate` does what is wanted it is faster.

        Args:
            activations: See `generate`.
            wait_for_hosts: See `generate`.

        Raises:
            ConfigurationError: The installed transformers library cannot read the model's config.
        """

        async def make() -> HiveForCausalLM:
            return self._model.to_transformers(
                activations=activations, wait_for_hosts=wait_for_hosts, call=self._portal.call
            )

        return self._portal.call(make)

    @property
    def folder(self) -> Path:
        """Where its config and tokenizer lie, none of its weights: what ``AutoTokenizer.from_pretrained`` takes."""
        return self._model.remote.described.folder

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, by the model's own tokenizer."""
        return self._model.remote.described.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self._model.remote.tokenizer.decode(list(ids)))

    def _stream(self, prompt: Prompt, max_new_tokens: int, options: GenerateOptions) -> PieceStream:
        async def start() -> TokenStream:
            return self._model.stream(prompt, max_new_tokens=max_new_tokens, **options)

        return PieceStream(self._portal.call(start), self._portal)

    def __repr__(self) -> str:
        return f"<Model: {self._model.remote.name}, {self._model.remote.layer_count} layers>"
