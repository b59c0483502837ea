"""One generation for one reader or several."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import trio

from hivemind_p2p.errors import GenerationError
from hivemind_p2p.token_stream import READ_AHEAD, PieceReader, TokenStream


class Source:
    """Gives numbers, as many as are wanted, and knows how many it gave."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.count, self.error = count, error
        self.given = 0
        self.ended = trio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[int]]:
        async with aclosing(self._numbers()) as numbers:
            try:
                yield numbers
            finally:
                self.ended.set()

    async def _numbers(self) -> AsyncGenerator[int, None]:
        for number in range(self.count):
            await trio.lowlevel.checkpoint()
            self.given += 1
            yield number
        if self.error is not None:
            raise self.error


async def rest(reader: TokenStream | PieceReader) -> list[Any]:
    return [piece async for piece in reader]


async def test_several_readers_get_every_piece(nursery: trio.Nursery) -> None:
    stream = TokenStream(Source(200).open, nursery)
    early = stream.reader()
    assert await rest(stream) == list(range(200))
    assert await rest(early) == list(range(200))
    assert await rest(stream.reader()) == list(range(200)), "also who comes when all is over"


async def test_readers_at_the_same_time(nursery: trio.Nursery) -> None:
    stream = TokenStream(Source(150).open, nursery)
    found: list[list[int]] = []

    async def read() -> None:
        found.append(await rest(stream.reader()))

    async with trio.open_nursery() as readers:
        for _ in range(3):
            readers.start_soon(read)
    assert found == [list(range(150))] * 3


async def test_the_generation_waits_for_its_fastest_reader(nursery: trio.Nursery) -> None:
    source = Source(1000)
    stream = TokenStream(source.open, nursery)
    await trio.testing.wait_all_tasks_blocked()
    assert source.given == READ_AHEAD
    reader = stream.reader()
    for _ in range(10):
        await anext(reader)
    await trio.testing.wait_all_tasks_blocked()
    assert source.given == READ_AHEAD + 10


async def test_it_ends_when_the_last_reader_leaves(nursery: trio.Nursery) -> None:
    source = Source(1000)
    stream = TokenStream(source.open, nursery)
    other = stream.reader()
    assert await anext(stream) == 0
    await stream.aclose()
    assert await anext(other) == 0
    assert not source.ended.is_set()
    await other.aclose()
    await source.ended.wait()
    assert source.given < 1000


async def test_every_reader_learns_of_a_failure(nursery: trio.Nursery) -> None:
    stream = TokenStream(Source(2, GenerationError("lost")).open, nursery)
    for reader in (stream, stream.reader()):
        assert [await anext(reader), await anext(reader)] == [0, 1]
        with pytest.raises(GenerationError, match="lost"):
            await anext(reader)
