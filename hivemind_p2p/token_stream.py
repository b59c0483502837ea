"""The pieces of one generation, for one reader or several, in trio and outside of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import trio

from hivemind_p2p.errors import GenerationError
from hivemind_p2p.portal import Portal

READ_AHEAD = 64
"""Pieces of text that may wait for the first of their readers before the generation pauses."""

Open: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncIterator[Any]]]


class TokenStream(AsyncIterator[Any]):
    """The pieces of one generation, which runs in a task of its own so that any task may read them.

    Each `reader` begins with the first piece. Once all are closed, or dropped half read, the generation ends on the
    peers.

    Args:
        start: Opens the generation.
        nursery: Where it runs.
    """

    def __init__(self, start: Open, nursery: trio.Nursery) -> None:
        self._scope = trio.CancelScope()
        self._pieces: list[Any] = []
        self._furthest = 0
        self._error: Exception | None = None
        self._complete = self._over = False
        self._news, self._read = trio.lowlevel.ParkingLot(), trio.lowlevel.ParkingLot()
        self._open: set[PieceReader] = set()
        self._own = self.reader()
        nursery.start_soon(self._pump, start)

    def reader(self) -> PieceReader:
        """One more reader of the same pieces, from the first one on."""
        reader = PieceReader(self)
        self._open.add(reader)
        return reader

    async def _pump(self, start: Open) -> None:
        try:
            with self._scope:
                await self._collect(start)
        except Exception as error:
            self._error = error
        finally:
            self._over = True
            self._news.unpark_all()

    async def _collect(self, start: Open) -> None:
        async with start() as pieces:
            async for piece in pieces:
                self._pieces.append(piece)
                self._news.unpark_all()
                while len(self._pieces) - self._furthest >= READ_AHEAD:
                    await self._read.park()
        self._complete = True

    async def piece(self, number: int) -> Any:
        """One of the pieces, as soon as it is there.

        Raises:
            StopAsyncIteration: There are not so many.
            GenerationError: The generation ended before its text was complete.
        """
        while number >= len(self._pieces) and not self._over:
            await self._news.park()
        if number < len(self._pieces):
            if number >= self._furthest:
                self._furthest = number + 1
                self._read.unpark_all()
            return self._pieces[number]
        if self._error is not None:
            raise self._error from None
        if not self._complete:
            raise GenerationError("the hive was closed before the text was complete")
        raise StopAsyncIteration

    def leave(self, reader: PieceReader) -> None:
        """A reader wants no more."""
        self._open.discard(reader)
        if not self._open:
            self._scope.cancel()

    async def __anext__(self) -> Any:
        return await self._own.__anext__()

    async def aclose(self) -> None:
        """Ends the generation, unless there are other readers."""
        await self._own.aclose()


class PieceReader(AsyncIterator[Any]):
    """Reads a `TokenStream` from its beginning."""

    def __init__(self, stream: TokenStream) -> None:
        self._stream = stream
        self._number = 0

    async def __anext__(self) -> Any:
        piece = await self._stream.piece(self._number)
        self._number += 1
        return piece

    async def aclose(self) -> None:
        """Reads no more."""
        self._stream.leave(self)


class PieceStream(Iterator[Any]):
    """The pieces of one generation, for code outside of trio: ``for piece in model.generate(..., stream=True)``.

    Args:
        stream: The generation.
        portal: Leads to it.
    """

    def __init__(self, stream: TokenStream, portal: Portal) -> None:
        self._stream = stream
        self._portal = portal
        self._own = portal.iterate(stream)

    def __next__(self) -> Any:
        return next(self._own)

    def reader(self) -> Iterator[Any]:
        """One more iterator over the same pieces, from the first one on; for another thread, if you like."""

        async def another() -> PieceReader:
            return self._stream.reader()

        return self._portal.iterate(self._portal.call(another))

    def close(self) -> None:
        """Reads no more. Once no reader is left the generation ends on the peers."""
        close = getattr(self._own, "close", None)
        if close is not None:
            close()


__all__ = ["PieceReader", "PieceStream", "TokenStream"]
