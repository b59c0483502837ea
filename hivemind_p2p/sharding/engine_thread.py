"""The one thread in which an engine computes, and what waits for it.

The network's loop puts pieces in and never waits; the thread takes the next step by itself as soon as the last one
is done, so that no step costs a round trip through the loop. What was made goes back to the loop in one call a step.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import BusyError, GenerationError, HivemindError
from hivemind_p2p.sharding.batching import Scheduler, Share
from hivemind_p2p.sharding.chunks import Chunk, Engine, Output
from hivemind_p2p.sharding.computation import Computation, Made, NonsenseError, Part
from hivemind_p2p.sharding.intake import Piece

Result = TypeVar("Result")

_events = telemetry.source("sharding")


@dataclass(slots=True)
class EngineFigures:
    """What an engine's thread has done.

    Attributes:
        steps: Steps so far.
        rows: Rows that they computed.
        generations: The parts of generations in all steps; by steps, how many a step has computed together.
        engine_seconds: Seconds in the engine.
        other_seconds: Seconds in the thread around it: making inputs, choosing tokens, writing hidden states.
    """

    steps: int = 0
    rows: int = 0
    generations: int = 0
    engine_seconds: float = 0.0
    other_seconds: float = 0.0

    def add(self, others: EngineFigures) -> None:
        """Counts what another thread has done as well."""
        self.steps += others.steps
        self.rows += others.rows
        self.generations += others.generations
        self.engine_seconds += others.engine_seconds
        self.other_seconds += others.other_seconds


class _Lane:
    """The generations of one span; all spans of one engine share its thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.scheduler = Scheduler()
        self.computations: dict[Hashable, Computation] = {}


class EngineThread:
    """Runs the steps of one engine and of its parts.

    Args:
        name: Of the thread.
        delivered: Called in the network's loop when all that one step has made was delivered.
    """

    def __init__(self, name: str, delivered: Callable[[], None] | None = None) -> None:
        self._delivered = delivered
        self.figures = EngineFigures()
        self._condition = threading.Condition()
        self._lanes: deque[_Lane] = deque()
        self._lane_of: dict[Hashable, _Lane] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self._stopped = False
        self._began: float | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins to work; called in the network's loop."""
        self._token = trio.lowlevel.current_trio_token()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the step that it is in; does not wait for it."""
        with self._condition:
            self._stopped = True
            self._condition.notify()

    @property
    def busy_for(self) -> float:
        """Seconds for which the present step has taken; 0 if there is none."""
        began = self._began
        return 0.0 if began is None else time.perf_counter() - began

    @property
    def generations(self) -> int:
        """How many are open."""
        return len(self._lane_of)

    # -- called in the network's loop

    async def call(self, function: Callable[..., Result], *args: Any) -> Result:
        """Calls something in the thread, between two steps, and gives what it returns or raises."""
        answered = trio.Event()
        answers: list[tuple[Result | None, BaseException | None]] = []

        def work() -> None:
            try:
                answers.append((function(*args), None))
            except Exception as error:  # whatever it is, it is for whoever called
                answers.append((None, error))
            self._post(answered.set)

        with self._condition:
            if self._stopped:
                raise BusyError("this stage is being given up")
            self._calls.append(work)
            self._condition.notify()
        # Shielded: what was called has effects, which whoever called has to undo.
        with trio.CancelScope(shield=True):
            await answered.wait()
        result, error = answers[0]
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def call_soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Calls something in the thread, whose result nobody waits for."""
        with self._condition:
            self._calls.append(lambda: self._guarded(function, *args))
            self._condition.notify()

    def join(self, computation: Computation, payer: Hashable, stages: int) -> None:
        """A generation has its cache and will send pieces."""
        with self._condition:
            lane = next((lane for lane in self._lanes if lane.engine is computation.engine), None)
            if lane is None:
                lane = _Lane(computation.engine)
                self._lanes.append(lane)
            lane.computations[computation.key] = computation
            lane.scheduler.join(computation.key, payer, stages=stages)
            self._lane_of[computation.key] = lane

    def leave(self, key: Hashable) -> None:
        """A generation is over: what waits is forgotten, its cache goes after the present step."""
        with self._condition:
            lane = self._lane_of.pop(key, None)
            if lane is None:
                return
            lane.scheduler.leave(key)
            del lane.computations[key]
            if not lane.computations:
                self._lanes.remove(lane)
        self.call_soon(lane.engine.close, key)

    def add(self, computation: Computation, piece: Piece, *, divisible: bool = True) -> None:
        """Something to compute has arrived."""
        with self._condition:
            lane = self._lane_of.get(computation.key)
            if lane is None:
                return
            computation.add(piece)
            lane.scheduler.add(computation.key, piece.rows, divisible=divisible)
            self._condition.notify()

    # -- the thread

    def _run(self) -> None:
        while job := self._next_job():
            job()

    def _next_job(self) -> Callable[[], None] | None:
        with self._condition:
            while True:
                if self._calls:
                    return self._calls.popleft()
                if self._stopped:
                    return None
                for _ in range(len(self._lanes)):
                    lane = self._lanes[0]
                    self._lanes.rotate(-1)
                    if shares := lane.scheduler.plan():
                        computations = [lane.computations[share.key] for share in shares]
                        return lambda: self._step(lane, shares, computations)
                self._condition.wait()

    def _step(self, lane: _Lane, shares: Sequence[Share], computations: Sequence[Computation]) -> None:
        began = self._began = time.perf_counter()
        try:
            made, seconds = self._compute(lane.engine, shares, computations)
        finally:
            self._began = None
        took = time.perf_counter() - began
        self.figures.add(
            EngineFigures(1, sum(share.rows for share in shares), len(shares), seconds, other_seconds=took - seconds)
        )
        self._post(self._deliver, list(zip(computations, made, strict=True)))
        with self._condition:
            lane.scheduler.done(shares, took)

    def _compute(
        self, engine: Engine, shares: Sequence[Share], computations: Sequence[Computation]
    ) -> tuple[list[Made], float]:
        parts = [each.take(share.rows) for each, share in zip(computations, shares, strict=True)]
        made: list[Made | None] = [None] * len(parts)
        chunks: list[Chunk] = []
        of: list[int] = []
        for number, (computation, part) in enumerate(zip(computations, parts, strict=True)):
            try:
                chunks.append(computation.assemble(part))
                of.append(number)
            except Exception as error:
                made[number] = _failed(part, error)
        began = time.perf_counter()
        outputs = _outputs(engine, chunks)
        seconds = time.perf_counter() - began
        for number, output in zip(of, outputs, strict=True):
            try:
                made[number] = computations[number].conclude(parts[number], output)
            except Exception as error:
                made[number] = _failed(parts[number], error)
        return [each for each in made if each is not None], seconds

    def _deliver(self, results: Sequence[tuple[Computation, Made]]) -> None:
        for computation, made in results:
            try:
                computation.deliver(made)
            except Exception as error:
                # A defect: it costs this generation, whose caller goes elsewhere. Raised here, it would end the peer.
                _events.error("delivery_failed", reason=repr(error))
        if self._delivered is not None:
            self._delivered()

    def _guarded(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            function(*args)
        except Exception as error:
            _events.error("engine_call_failed", reason=repr(error))

    def _post(self, function: Callable[..., Any], *args: Any) -> None:
        assert self._token is not None
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            self._stopped = True


def _outputs(engine: Engine, chunks: Sequence[Chunk]) -> Sequence[Output]:
    """The engine's outputs; where it fails as a whole, those of each chunk alone, so that only the guilty fail."""
    if not chunks:
        return ()
    try:
        outputs = engine.run(chunks)
        if len(outputs) != len(chunks):
            raise GenerationError(f"an engine gave {len(outputs)} outputs for {len(chunks)} chunks")
        return outputs
    except Exception as error:
        if len(chunks) == 1:
            return (Output(error=f"layers {engine.span} failed at token {chunks[0].position}: {error}"),)
    return [_outputs(engine, [chunk])[0] for chunk in chunks]


def _failed(part: Part, error: Exception) -> Made:
    if isinstance(error, NonsenseError):
        return Made(part, error=GenerationError(str(error)), nonsense=True)
    if isinstance(error, HivemindError):
        return Made(part, error=error)
    return Made(part, error=GenerationError(f"token {part.position} could not be computed: {error!r}"))


__all__ = ["EngineFigures", "EngineThread"]
