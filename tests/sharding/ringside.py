"""Stages at fixed places, computed by a model of a few lines: everything about the ring, and nothing about torch."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import trio

from hivemind_p2p.errors import BusyError
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding.caller import Extras, GenerationRun, Model, Patience
from hivemind_p2p.sharding.chunks import Chunk, Output, Shape
from hivemind_p2p.sharding.generation import GenerationState
from hivemind_p2p.sharding.hosting import Loaded
from hivemind_p2p.sharding.routes import Routes, Terms
from hivemind_p2p.sharding.rows import Rows, open_rows
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import LayerSpan, Link, StageOffer
from tests.sharding import fakes

LAYERS, VOCABULARY, WIDTH, CONTEXT = 6, 97, 8, 4096
LINK = Link("magnet:tiny")


class ToyEngine:
    """A model in which every row depends on all rows before it, through a cache at every layer.

    Attributes:
        gate: While it is clear, a step does not begin.
        entered: Set once a step waits at the gate.
        poisoned: Whether the outputs are NaN.
        remembers: Whether prompts that were opened here before are in the cache still.
        steps: The keys and row counts of each step.
    """

    def __init__(self, span: LayerSpan, *, room: int = 10**6) -> None:
        self.span = span
        self.shape = Shape(WIDTH, VOCABULARY, CONTEXT)
        self.first, self.last = span.start == 0, span.stop == LAYERS
        self.dtype = "float32"
        self.encoder = False
        self.gate = threading.Event()
        self.gate.set()
        self.poisoned = False
        self.room = room
        self.remembers = False
        self.opened: dict[Hashable, tuple[int, ...]] = {}
        self.texts: dict[tuple[int, ...], list[torch.Tensor]] = {}
        self.steps: list[list[tuple[Hashable, int]]] = []
        self.caches: dict[Hashable, list[torch.Tensor]] = {}
        self.rooms: dict[Hashable, int] = {}
        self.parts: dict[LayerSpan, ToyEngine] = {}

    def part(self, span: LayerSpan) -> ToyEngine:
        if span not in self.parts:
            self.parts[span] = ToyEngine(span)
        return self.parts[span]

    def open(self, key: Hashable, room: int, prompt: Sequence[int] = ()) -> int:
        if sum(self.rooms.values()) + room > self.room:
            raise BusyError(f"no room for {room} tokens")
        self.rooms[key] = room
        self.caches[key] = [torch.zeros(0, WIDTH, dtype=torch.float64) for _ in range(len(self.span))]
        if self.remembers and self.texts.get(tuple(prompt)):
            self.caches[key] = [each.clone() for each in self.texts[tuple(prompt)]]
            return len(self.caches[key][0])
        self.opened[key] = tuple(prompt)
        return 0

    def close(self, key: Hashable) -> None:
        cache = self.caches.pop(key, None)
        if cache and key in self.opened:
            prompt = self.opened.pop(key)
            self.texts[prompt] = [each[: len(prompt)] for each in cache]
        self.rooms.pop(key, None)

    def run(self, chunks: Sequence[Chunk]) -> list[Output]:
        assert self.gate.wait(30)
        self.steps.append([(chunk.key, len(chunk.inputs)) for chunk in chunks])
        return [self._run(chunk) for chunk in chunks]

    def _run(self, chunk: Chunk) -> Output:
        rows = _embed(chunk.inputs) if self.first else chunk.inputs.double()
        cache = self.caches[chunk.key]
        for number in range(len(self.span)):
            before = cache[number][: chunk.position]
            assert len(before) == chunk.position, "a gap in the cache"
            cache[number] = torch.cat([before, rows])
            sums = cache[number].cumsum(0)[chunk.position :]
            counts = torch.arange(chunk.position + 1, chunk.position + len(rows) + 1).unsqueeze(1)
            rows = torch.sin(3 * rows + 5 * sums / counts + self.span.start + number)
        rows = rows.float() if not self.poisoned else rows.float() * torch.nan
        if self.poisoned and self.last:
            return Output(error="the logits are no numbers")
        if self.last and chunk.logits:
            return Output(hidden=rows, logits=_head(rows[len(rows) - chunk.logits :]))
        return Output(hidden=rows)


def _embed(ids: torch.Tensor) -> torch.Tensor:
    return torch.sin(ids.unsqueeze(1).double() * torch.arange(1, WIDTH + 1) * 0.7)


def _head(rows: torch.Tensor) -> torch.Tensor:
    grid = torch.arange(VOCABULARY).unsqueeze(0) * torch.arange(1, WIDTH + 1).unsqueeze(1)
    return rows @ torch.cos(grid * 1.3).float()


def whole_rows(text: Sequence[int], *, logits: bool) -> torch.Tensor:
    """What the whole model makes of each token."""
    engine = ToyEngine(LayerSpan(0, LAYERS))
    engine.open("whole", CONTEXT)
    (output,) = engine.run([Chunk("whole", 0, torch.tensor(text), len(text) if logits else 0)])
    found = output.logits if logits else output.hidden
    assert found is not None
    return found


def expected(prompt: Sequence[int], new: int) -> list[int]:
    """The new tokens that the whole model writes, greedily."""
    engine = ToyEngine(LayerSpan(0, LAYERS))
    engine.open("whole", CONTEXT)
    text = list(prompt)
    position = 0
    for _ in range(new):
        (output,) = engine.run([Chunk("whole", position, torch.tensor(text[position:]), 1)])
        assert output.logits is not None
        position = len(text)
        text.append(int(output.logits[0].argmax()))
    return text[len(prompt) :]


@dataclass
class Ringside:
    """A caller and hosts of fixed spans.

    Attributes:
        engines: Of each host, in order.
    """

    hive: fakes.Hive
    engines: list[ToyEngine] = field(default_factory=list)

    def run(
        self,
        prompt: Sequence[int],
        new: int,
        *,
        patience: Patience | None = None,
        extras: Extras | None = None,
        sampling: SamplingOptions | None = None,
        ends: frozenset[int] = frozenset(),
    ) -> GenerationRun:
        """A generation."""
        caller = self.hive.caller
        return GenerationRun(
            caller.network,
            caller.offers,
            caller.payer,
            Model(LINK, LAYERS, CONTEXT, ends),
            GenerationState(prompt, new, ends),
            sampling or SamplingOptions(),
            patience or Patience(wait_for_hosts=0.2),
            extras,
        )

    async def write(self, prompt: Sequence[int], new: int, **options: object) -> list[int]:
        """The new tokens of a generation."""
        written: list[int] = []

        async def read(token: int) -> bool:
            written.append(token)
            return True

        await self.run(prompt, new, **options).run(read)  # type: ignore[arg-type]
        return written

    def rows(self, mode: pb.Mode, *, room: int = 200, budget: int = 0) -> AbstractAsyncContextManager[Rows]:
        """A text in client mode."""
        caller = self.hive.caller
        terms = Terms(room, SamplingOptions(), mode=mode, budget=budget)
        patience = Patience(wait_for_hosts=0.2)
        model = Model(LINK, LAYERS, CONTEXT, frozenset())
        routes = Routes(caller.network, caller.offers, caller.payer, model, terms, patience)
        return open_rows(routes, ask_after=0.5, independent=mode == pb.EMBED)

    async def idle(self) -> None:
        """Waits until no generation is left anywhere."""
        await until(lambda: not any(host.statistics().sessions for host in self.hive.living()))
        dead = self.hive.world.dead
        engines = [engine for host, engine in zip(self.hive.hosts, self.engines, strict=True) if host.id not in dead]
        await until(lambda: not any(engine.caches for engine in engines))


async def until(true: Callable[[], bool]) -> None:
    """Waits for something that happens in another thread, too."""
    with trio.fail_after(5):
        while not true():  # noqa: ASYNC110 - no event tells of it
            await trio.sleep(0.001)


@asynccontextmanager
async def ringside(folder: Path, *spans: tuple[int, int], paid: bool = False) -> AsyncIterator[Ringside]:
    """A host for each span; the same span twice for a spare."""
    async with fakes.hive(folder, hosts=len(spans), paid=paid) as hive:
        made = Ringside(hive)
        for host, (start, stop) in zip(hive.hosts, spans, strict=True):
            span = LayerSpan(start, stop)
            engine = ToyEngine(span)
            made.engines.append(engine)
            assert host.service is not None
            host.service.host.stages[LINK, span] = Loaded(engine)
            hive.world.offers[host.id] = replace(
                hive.world.offers[host.id], stages=(StageOffer(LINK, span, ready=True),), serves_models=False
            )
        yield made
