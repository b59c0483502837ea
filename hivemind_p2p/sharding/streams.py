"""How a generation reaches its reader: as text, as ids, with log-probabilities, or as the rows of a batch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import trio

from hivemind_p2p.errors import HivemindError
from hivemind_p2p.sharding import caller, text
from hivemind_p2p.sharding.results import Likely, ScoredToken
from hivemind_p2p.types import Credits

if TYPE_CHECKING:
    from tokenizers import Tokenizer

READ_AHEAD = 4096
"""Pieces that wait for their reader before the ring is held up."""

Piece = TypeVar("Piece")
Put: TypeAlias = Callable[[Piece], Awaitable[None]]


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

    def scored(self, index: int, token: int, words: Callable[[int], str]) -> ScoredToken:
        """A new token and what the model thought of it.

        Args:
            index: Which of the new tokens it is.
            token: Its id.
            words: What a token says.
        """
        likeliest = self._run.likeliest[index]
        pairs = zip(likeliest.tokens, likeliest.log_probabilities, strict=True)
        found = tuple(Likely(each, words(each), value) for each, value in pairs)
        return ScoredToken(token, words(token), self._run.log_probabilities[index], found)

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

    async def write(self, put: Put[Piece]) -> None:
        """Runs the generations and puts each piece where its reader finds it."""
        raise NotImplementedError


class IdWriter(Writer[int]):
    """Token ids as they come."""

    def __init__(self, run: Run) -> None:
        super().__init__([run])

    async def write(self, put: Put[int]) -> None:
        """See `Writer.write`."""

        async def read(token: int) -> bool:
            await put(token)
            return True

        await self.runs[0].run(read)


class TextWriter(Writer[str]):
    """Text, up to the first stop text."""

    def __init__(self, run: Run, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        super().__init__([run])
        self._text = text.TextStream(tokenizer, prompt, stop)

    async def write(self, put: Put[str]) -> None:
        """See `Writer.write`."""

        async def read(token: int) -> bool:
            if piece := self._text.push(token):
                await put(piece)
            return not self._text.stopped

        await self.runs[0].run(read)
        if piece := self._text.finish():
            await put(piece)


class ScoredWriter(Writer[ScoredToken]):
    """Tokens with their log-probabilities; their texts add up to the text, if there is a tokenizer.

    Each is held back until the next one has come: what the last one adds is known only at the end.
    """

    def __init__(
        self, run: Run, tokenizer: Tokenizer | None = None, prompt: Sequence[int] = (), stop: Sequence[str] = ()
    ) -> None:
        super().__init__([run])
        self._tokenizer = tokenizer
        self._text = text.TextStream(tokenizer, prompt, stop) if tokenizer is not None else None

    async def write(self, put: Put[ScoredToken]) -> None:
        """See `Writer.write`."""
        held: list[ScoredToken] = []
        count = 0

        async def read(token: int) -> bool:
            nonlocal count
            scored = self.runs[0].scored(count, token, self._words)
            count += 1
            if self._text is not None:
                scored = replace(scored, text=self._text.push(token))
            if held:
                await put(held.pop())
            held.append(scored)
            return self._text is None or not self._text.stopped

        await self.runs[0].run(read)
        if held:
            rest = self._text.finish() if self._text is not None else ""
            await put(replace(held[0], text=held[0].text + rest))

    def _words(self, token: int) -> str:
        return "" if self._tokenizer is None else str(self._tokenizer.decode([token], skip_special_tokens=False))


class RowsWriter(Writer[tuple[int, Any]]):
    """Several generations side by side; each piece comes with the number of its row.

    The first one that fails ends the others.
    """

    def __init__(self, writers: Sequence[Writer[Any]]) -> None:
        super().__init__([run for writer in writers for run in writer.runs])
        self._writers = writers

    async def write(self, put: Put[tuple[int, Any]]) -> None:
        """See `Writer.write`."""
        failures: list[HivemindError] = []
        async with trio.open_nursery() as nursery:

            async def row(number: int, writer: Writer[Any]) -> None:
                try:
                    await writer.write(lambda piece: put((number, piece)))
                except HivemindError as error:
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            for number, writer in enumerate(self._writers):
                nursery.start_soon(row, number, writer)
        if failures:
            raise failures[0]


class BatchWriter(Writer[Any]):
    """Rows run side by side; a step is shown when every row that goes on has made it."""

    def __init__(self, runs: Sequence[Run], pad: int) -> None:
        super().__init__(runs)
        self._pad = pad

    async def write(self, put: Put[Any]) -> None:
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
                await put(torch.tensor([self._pad if token is None else token for token in step]))
        if failures:
            raise failures[0]

    async def _row(self, run: Run, send: trio.MemorySendChannel[int], failures: list[HivemindError]) -> None:
        async with send:
            try:
                await IdWriter(run).write(send.send)
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
                await self._writer.write(self._send.send)
            except HivemindError as error:
                self._failure = error
