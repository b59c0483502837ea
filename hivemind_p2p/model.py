"""A model that is spread over the hive, as a program sees it: give it text, get text; give it ids, get ids."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from hivemind_p2p.errors import ConfigurationError, GenerationError
from hivemind_p2p.portal import Portal

if TYPE_CHECKING:
    import torch

    from hivemind_p2p.sharding.model import RemoteModel

Prompt: TypeAlias = "str | list[int] | torch.Tensor"

READ_AHEAD = 64
"""Pieces of text that may wait for their reader before the generation pauses."""


class AsyncModel:
    """A loaded model, for programs that run trio. Made by `AsyncHive.load_model`."""

    def __init__(self, remote: RemoteModel, nursery: trio.Nursery) -> None:
        self.remote = remote
        self._nursery = nursery

    async def generate(self, prompt: Prompt, *, max_new_tokens: int = 50, **sampling: Any) -> Any:
        """Generates to the end. See `Model.generate`."""
        self._check_open()
        return await self.remote.generate(prompt, max_new_tokens=max_new_tokens, **sampling)

    def stream(self, prompt: Prompt, *, max_new_tokens: int = 50, **sampling: Any) -> TokenStream:
        """Generates piece by piece: an async iterator of text, or of ids if the prompt was ids."""
        self._check_open()
        return TokenStream(self, prompt, {"max_new_tokens": max_new_tokens, **sampling}, self._nursery)

    def _check_open(self) -> None:
        if self._nursery.cancel_scope.cancel_called:
            raise ConfigurationError("this model's hive is closed", hint="Connect again and load the model there.")


class TokenStream(AsyncIterator[Any]):
    """The pieces of one generation, which runs in a task of its own so that any task may read them.

    Closing it, or dropping it half read, ends the generation on the peers.
    """

    def __init__(self, model: AsyncModel, prompt: Prompt, options: dict[str, Any], nursery: trio.Nursery) -> None:
        self._scope = trio.CancelScope()
        send, self._receive = trio.open_memory_channel[Any](READ_AHEAD)
        self._error: Exception | None = None
        self._complete = False
        nursery.start_soon(self._pump, model, prompt, options, send)

    async def _pump(
        self, model: AsyncModel, prompt: Prompt, options: dict[str, Any], send: trio.MemorySendChannel[Any]
    ) -> None:
        with self._scope, send:
            try:
                async with model.remote.stream(prompt, **options) as pieces:
                    async for piece in pieces:
                        await send.send(piece)
                self._complete = True
            except trio.BrokenResourceError:
                return  # nobody reads any more
            except Exception as error:
                self._error = error

    async def __anext__(self) -> Any:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise self._error from None
            if not self._complete:
                raise GenerationError("the hive was closed before the text was complete") from None
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """Ends the generation."""
        self._scope.cancel()
        await self._receive.aclose()


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

    def generate(self, prompt: Prompt, *, max_new_tokens: int = 50, stream: bool = False, **sampling: Any) -> Any:
        """Goes on with a prompt.

        Args:
            prompt: Text, or token ids: a list, or a LongTensor of shape (batch, length).
            max_new_tokens: How many tokens to add at most.
            stream: Give back an iterator that yields as tokens come.
            **sampling: ``temperature`` (0 is greedy), ``top_k``, ``top_p``, ``seed``, ``stop``.

        Returns:
            What it took: text, or ids of shape (batch, length + new); with ``stream`` an iterator of text pieces
            or of ids.

        Raises:
            PromptTooLongError: Prompt and answer do not fit the model's context.
            MissingLayersError: Some layers have no host any more.
            GenerationError: It failed and no other route was left.
        """
        if stream:
            return self._stream(prompt, max_new_tokens, sampling)
        return self._portal.call(lambda: self._model.generate(prompt, max_new_tokens=max_new_tokens, **sampling))

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, by the model's own tokenizer."""
        return list(self._model.remote.tokenizer.encode(text).ids)

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self._model.remote.tokenizer.decode(ids))

    def _stream(self, prompt: Prompt, max_new_tokens: int, sampling: dict[str, Any]) -> Iterator[Any]:
        async def start() -> TokenStream:
            return self._model.stream(prompt, max_new_tokens=max_new_tokens, **sampling)

        tokens = self._portal.call(start)
        return self._portal.iterate(tokens)

    def __repr__(self) -> str:
        return f"<Model: {self._model.remote.name}, {self._model.remote.layer_count} layers>"
