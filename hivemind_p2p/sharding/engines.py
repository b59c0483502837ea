"""The engines of the stages that a peer hosts, and the threads that they compute in."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from hivemind_p2p.sharding.chunks import Engine
from hivemind_p2p.sharding.engine_thread import EngineFigures, EngineThread
from hivemind_p2p.sharding.hosting import Loaded
from hivemind_p2p.types import LayerSpan


@dataclass(slots=True, eq=False)
class Hosted:
    """A loaded stage, its engine, the thread that it computes in, and how many sessions use it."""

    loaded: Loaded
    engine: Engine
    thread: EngineThread
    sessions: int = 0

    async def part(self, span: LayerSpan) -> Engine:
        """The engine of these layers: a route may use any part of what is hosted."""
        if span == self.engine.span:
            return self.engine
        return await self.thread.call(self.engine.part, span)


class Engines:
    """One engine and one thread for each loaded stage, from the first session that uses it to the last.

    Args:
        delivered: Called in the network's loop when all that a step has made was delivered.
    """

    def __init__(self, delivered: Callable[[], None]) -> None:
        self._delivered = delivered
        self._hosted: dict[int, Hosted] = {}
        self._past = EngineFigures()

    def __len__(self) -> int:
        return len(self._hosted)

    def of(self, loaded: Loaded) -> Hosted:
        """The engine of a loaded stage."""
        hosted = self._hosted.get(id(loaded))
        if hosted is None:
            engine = loaded.engine
            hosted = Hosted(loaded, engine, EngineThread(f"layers {engine.span}", self._delivered))
            hosted.thread.start()
            self._hosted[id(loaded)] = hosted
        return hosted

    def let_go(self, hosted: Hosted, still: Collection[Loaded]) -> None:
        """Ends the thread of a stage that is not hosted any more, once nobody uses it."""
        if not hosted.sessions and hosted.loaded not in still:
            self._hosted.pop(id(hosted.loaded), None)
            hosted.thread.stop()
            self._past.add(hosted.thread.figures)

    def figures(self) -> EngineFigures:
        """What all of them have done."""
        found = EngineFigures()
        for each in (self._past, *(hosted.thread.figures for hosted in self._hosted.values())):
            found.add(each)
        return found

    def stop(self) -> None:
        """Ends all threads."""
        for hosted in self._hosted.values():
            hosted.thread.stop()


__all__ = ["Engines", "Hosted"]
