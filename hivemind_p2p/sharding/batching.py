"""Which rows of which generations a stage computes in its next step.

Pure: what waits goes in, the next step comes out. A row is one token of one generation on its way through the stage.
A generation joins and leaves between any two steps.

**Decodes first.** A piece of a few rows is somebody's next token: it goes before prompts. But not everybody's at
once: of n generations that write over routes of s stages, one step takes n / s at the most. If one step took all of
them, they would travel together for ever after, and s - 1 stages would stand idle; so they form s groups, and all
stages work at the same time.

**Prompts in chunks.** What a step has left is given to prompts, as many rows as take `STALL_SECONDS` where somebody
decodes, and `LARGEST_STEP` where nobody does. How long a row takes is measured.

**Fairness.** Who pays is served in the order of what they were served so far (start-time fair queueing, Goyal et al.
1996): one account with a hundred generations gets no more of a busy stage than an account with one. Within an account
the generations take turns.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

LARGEST_STEP = 256
"""Rows of prompts in one step where nobody decodes: long enough to use the processor well, short enough that the next
stage of the route soon has something to do as well."""

SMALLEST_PREFILL = 16
"""Rows of prompts that each step takes, however slow the stage is: prompts go on whatever is decoded."""

STALL_SECONDS = 0.08
"""How much longer a step may take for the sake of prompts while others decode: a reader hardly sees it."""

MOST_DECODES = 64
"""Generations whose next token one step makes."""

DECODE_ROWS = 32
"""A piece of no more rows is a next token, perhaps with drafts behind it."""

FIRST_GUESS = 0.001
"""Seconds a row before one was measured."""

NEW_WEIGHT = 0.25
"""What a new measurement counts for."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one generation has in a step: the first `rows` of what waits for it, all of one piece."""

    key: Hashable
    rows: int


@dataclass(slots=True)
class _Piece:
    rows: int
    divisible: bool
    urgent: bool


@dataclass(slots=True)
class _Generation:
    payer: Hashable
    stages: int
    waiting: deque[_Piece] = field(default_factory=deque)
    decoding: bool = False
    computing: bool = False
    served_at: int = 0


class Scheduler:
    """The waiting rows of one stage.

    Args:
        largest_step: Rows of prompts in a step where nobody decodes.
    """

    def __init__(self, *, largest_step: int = LARGEST_STEP) -> None:
        self._largest_step = largest_step
        self._generations: dict[Hashable, _Generation] = {}
        self._served: dict[Hashable, float] = {}
        """By payer: rows, from where the others stood when it came."""
        self._steps = 0
        self._seconds_a_row = FIRST_GUESS

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return sum(piece.rows for each in self._generations.values() for piece in each.waiting)

    @property
    def seconds_a_row(self) -> float:
        """What a row of a prompt takes, smoothed."""
        return self._seconds_a_row

    def join(self, key: Hashable, payer: Hashable, *, stages: int) -> None:
        """A generation was opened, over a route of so many stages."""
        self._generations[key] = _Generation(payer, stages, served_at=self._steps)

    def leave(self, key: Hashable) -> None:
        """It is over; what waits for it is forgotten. In a step that goes on it may still be."""
        gone = self._generations.pop(key, None)
        if gone is not None and all(each.payer != gone.payer for each in self._generations.values()):
            self._served.pop(gone.payer, None)

    def add(self, key: Hashable, rows: int, *, divisible: bool = True) -> None:
        """Rows have arrived that belong together; `divisible` if they may be computed in several steps."""
        generation = self._generations[key]
        urgent = rows <= DECODE_ROWS and divisible
        if not generation.waiting and not generation.computing:
            self._catch_up(generation.payer)
        generation.decoding = urgent
        generation.waiting.append(_Piece(rows, divisible, urgent))

    def plan(self) -> tuple[Share, ...]:
        """The next step; empty if nothing waits. Its generations wait for `done` before they are planned again."""
        waiting = [key for key, each in self._generations.items() if each.waiting and not each.computing]
        if not waiting:
            return ()
        waiting = self._in_turn(waiting)
        decodes = [key for key in waiting if self._generations[key].waiting[0].urgent]
        prompts = [key for key in waiting if not self._generations[key].waiting[0].urgent]
        shares = [self._take(key, DECODE_ROWS) for key in decodes[: self._most_decodes()]]
        shares += self._take_prompts(prompts)
        self._steps += 1
        return tuple(shares)

    def done(self, shares: Iterable[Share], seconds: float) -> None:
        """A step was computed, in so many seconds."""
        rows = 0
        for share in shares:
            rows += share.rows
            if generation := self._generations.get(share.key):
                generation.computing = False
        if rows >= SMALLEST_PREFILL:
            self._seconds_a_row += NEW_WEIGHT * (seconds / rows - self._seconds_a_row)

    def _in_turn(self, keys: list[Hashable]) -> list[Hashable]:
        """The least served account's generation that was not served for longest, then the next, and so on."""
        if len(keys) == 1:
            return keys
        by_payer: dict[Hashable, list[Hashable]] = {}
        for key in sorted(keys, key=lambda key: self._generations[key].served_at):
            by_payer.setdefault(self._generations[key].payer, []).append(key)
        heap = [(self._served.get(payer, 0.0), number, payer) for number, payer in enumerate(by_payer)]
        heapq.heapify(heap)
        ordered = []
        while heap:
            served, number, payer = heapq.heappop(heap)
            key = by_payer[payer].pop(0)
            ordered.append(key)
            if by_payer[payer]:
                heapq.heappush(heap, (served + self._generations[key].waiting[0].rows, number, payer))
        return ordered

    def _most_decodes(self) -> int:
        decoding = [each for each in self._generations.values() if each.decoding]
        groups = max((each.stages for each in decoding), default=1)
        return min(MOST_DECODES, max(1, -(-len(decoding) // groups)))

    def _take_prompts(self, keys: list[Hashable]) -> list[Share]:
        budget = self._budget()
        shares: list[Share] = []
        for key in keys:
            piece = self._generations[key].waiting[0]
            if budget <= 0:
                break
            if not piece.divisible and piece.rows > budget and shares:
                continue  # its turn comes: nothing else was taken by then
            share = self._take(key, budget)
            budget -= share.rows
            shares.append(share)
        return shares

    def _budget(self) -> int:
        if not any(each.decoding for each in self._generations.values()):
            return self._largest_step
        rows = int(STALL_SECONDS / max(self._seconds_a_row, 1e-9))
        return min(self._largest_step, max(SMALLEST_PREFILL, rows))

    def _take(self, key: Hashable, most: int) -> Share:
        generation = self._generations[key]
        piece = generation.waiting[0]
        rows = min(piece.rows, most) if piece.divisible else piece.rows
        piece.rows -= rows
        if not piece.rows:
            generation.waiting.popleft()
        generation.computing = True
        generation.served_at = self._steps + 1
        self._served[generation.payer] = self._served.get(generation.payer, 0.0) + rows
        return Share(key, rows)

    def _catch_up(self, payer: Hashable) -> None:
        """An account that had nothing waiting starts where the least served of the others stands."""
        busy = {each.payer for each in self._generations.values() if (each.waiting or each.computing)}
        if payer in busy:
            return
        least = min((self._served.get(each, 0.0) for each in busy), default=0.0)
        self._served[payer] = max(self._served.get(payer, 0.0), least)


__all__ = ["Scheduler", "Share"]
