"""How a generation reaches its reader: as text, as ids, or as the rows of a batch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from hivemind_p2p.errors import HivemindError
from hivemind_p2p.sharding import caller, text
from hivemind_p2p.types import Credits

if TYPE_CHECKING:
    from tokenizers import Tokenizer

READ_AHEAD = 4096
"""Pieces that wait for their reader before the ring is held up."""

Piece = TypeVar("Piece")


class Run:
    """A generation, and who is told its cost.

    Args:
        run: The generation.
        paid: Called with its cost once it is over.
    """

    def __init__(self, run: caller.GenerationRun, paid: Callable[[Credits], None]) -> None:
        self._run = run
        self._paid = paid

    @property
    def cost(self) -> Credits:
        """What was paid so far."""
        return self._run.cost

    async def run(self, read: caller.Reader) -> None:
        """Hands on each token. See `GenerationRun.run`."""
        try:
            await self._run.run(read)
        finally:
            self._paid(self._run.cost)


class Writer(Generic[Piece]):
    """Turns the tokens of generations into pieces for their reader."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs

    async def write(self, send: trio.MemorySendChannel[Piece]) -> None:
        """Runs the generations and sends each piece."""
        raise NotImplementedError


class IdWriter(Writer[int]):
    """Token ids as they come."""

    def __init__(self, run: Run) -> None:
        super().__init__([run])

    async def write(self, send: trio.MemorySendChannel[int]) -> None:
        """See `Writer.write`."""

        async def read(token: int) -> bool:
            await send.send(token)
            return True

        await self.runs[0].run(read)


class TextWriter(Writer[str]):
    """Text, up to the first stop text."""

    def __init__(self, run: Run, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        super().__init__([run])
        self._text = text.TextStream(tokenizer, prompt, [stop] if isinstance(stop, str) else stop)

    async def write(self, send: trio.MemorySendChannel[str]) -> None:
        """See `Writer.write`."""

        async def read(token: int) -> bool:
            if piece := self._text.push(token):
                await send.send(piece)
            return not self._text.stopped

        await self.runs[0].run(read)
        if piece := self._text.finish():
            await send.send(piece)


class BatchWriter(Writer[Any]):
    """Rows run side by side; a step is shown when every row that goes on has made it."""

    def __init__(self, runs: Sequence[Run], pad: int) -> None:
        super().__init__(runs)
        self._pad = pad

    async def write(self, send: trio.MemorySendChannel[Any]) -> None:
        """See `Writer.write`."""
        import torch

        failures: list[HivemindError] = []
        channels = [trio.open_memory_channel[int](READ_AHEAD) for _ in self.runs]
        async with trio.open_nursery() as nursery:
            for run, (row_send, _) in zip(self.runs, channels, strict=True):
                nursery.start_soon(self._row, run, row_send, failures)
            while True:
                step = [await self._next(receive) for _, receive in channels]
                if failures or all(token is None for token in step):
                    nursery.cancel_scope.cancel()
                    break
                await send.send(torch.tensor([self._pad if token is None else token for token in step]))
        if failures:
            raise failures[0]

    async def _row(self, run: Run, send: trio.MemorySendChannel[int], failures: list[HivemindError]) -> None:
        async with send:
            try:
                await IdWriter(run).write(send)
            except HivemindError as error:
                failures.append(error)

    async def _next(self, receive: trio.MemoryReceiveChannel[int]) -> int | None:
        try:
            return await receive.receive()
        except trio.EndOfChannel:
            return None


class GenerationStream(Generic[Piece]):
    """The pieces of one generation, which runs while this is open: ``async with model.stream(...) as pieces``.

    Leaving the block early ends the generation on every stage; what was computed by then is paid.
    """

    def __init__(self, writer: Writer[Piece]) -> None:
        self._writer = writer
        self._send, self._receive = trio.open_memory_channel[Piece](READ_AHEAD)
        self._failure: HivemindError | None = None
        self._manager: Any = None
        self._nursery: trio.Nursery | None = None

    @property
    def cost(self) -> Credits:
        """What the generation cost, in millionths of a credit; complete once the block is left."""
        return Credits(sum(run.cost for run in self._writer.runs))

    async def __aenter__(self) -> GenerationStream[Piece]:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self._nursery.start_soon(self._write)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        # Without the block's own exception, so that it goes on as it is instead of inside a group.
        await self._manager.__aexit__(None, None, None)

    def __aiter__(self) -> AsyncIterator[Piece]:
        if self._nursery is None:
            raise RuntimeError("open the stream first: async with model.stream(...) as pieces")
        return self

    async def __anext__(self) -> Piece:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            if self._failure is not None:
                raise self._failure from None
            raise StopAsyncIteration from None

    async def _write(self) -> None:
        async with self._send:
            try:
                await self._writer.write(self._send)
            except HivemindError as error:
                self._failure = error
