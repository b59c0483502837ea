"""A model as programs see it, over a stand-in for the generation itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from hivemind_p2p.errors import ConfigurationError, GenerationError, MissingLayersError
from hivemind_p2p.model import AsyncModel


class Remote:
    """Generates `pieces`, then fails, or waits for ever, where it is told to."""

    def __init__(self, pieces: list[str], *, error: Exception | None = None, endless: bool = False) -> None:
        self._pieces, self._error, self._endless = pieces, error, endless
        self.ended = trio.Event()

    @asynccontextmanager
    async def stream(self, prompt: str, **options: Any) -> AsyncIterator[AsyncIterator[str]]:
        try:
            yield self._generate()
        finally:
            self.ended.set()

    async def _generate(self) -> AsyncIterator[str]:
        for piece in self._pieces:
            yield piece
        if self._error is not None:
            raise self._error
        if self._endless:
            await trio.sleep_forever()

    async def generate(self, prompt: str, **options: Any) -> str:
        return prompt + "".join(self._pieces)


async def test_a_stream_gives_every_piece(nursery):
    model = AsyncModel(Remote(["a", "b"]), nursery)
    assert [piece async for piece in model.stream("x")] == ["a", "b"]


async def test_an_error_comes_after_the_pieces_before_it(nursery):
    pieces = AsyncModel(Remote(["a"], error=MissingLayersError("layers 0-1")), nursery).stream("x")
    assert await anext(pieces) == "a"
    with pytest.raises(MissingLayersError):
        await anext(pieces)


async def test_closing_a_stream_ends_the_generation(nursery):
    remote = Remote(["a"], endless=True)
    pieces = AsyncModel(remote, nursery).stream("x")
    assert await anext(pieces) == "a"
    await pieces.aclose()
    await remote.ended.wait()


async def test_a_text_that_the_closing_hive_cut_off_does_not_pass_for_a_whole_one():
    async with trio.open_nursery() as hive:
        pieces = AsyncModel(Remote(["a"], endless=True), hive).stream("x")
        assert await anext(pieces) == "a"
        hive.cancel_scope.cancel()
    with pytest.raises(GenerationError, match="closed"):
        await anext(pieces)


async def test_a_model_of_a_closed_hive_says_so():
    async with trio.open_nursery() as hive:
        model = AsyncModel(Remote([]), hive)
        hive.cancel_scope.cancel()
    with pytest.raises(ConfigurationError, match="closed"):
        model.stream("x")
    with pytest.raises(ConfigurationError, match="closed"):
        await model.generate("x")
