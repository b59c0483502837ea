"""Whom to upload to: tit for tat with an optimistic slot while this peer wants something itself, spreading afterwards.

A peer serves a few at a time, so that each gets enough to be worth it. Every `ROUND` seconds the slots go to those who
gave most in the last rounds; one slot goes round at random, so that who has nothing yet can show what it is worth, and
who is better than the ones known is found (B. Cohen, 2003). A peer that has everything asks for nothing in return:
it prefers those from whom its pieces spread to others, and after them those who take fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hivemind_p2p.types import PeerId

SLOTS = 8
"""Peers served at a time. More and each gets little; fewer and a small hive waits for no reason."""

ROUND = 10.0
"""Seconds between two decisions: TCP takes some to show its full speed, and each change costs what was under way."""

OPTIMISTIC_ROUNDS = 3
"""Rounds for which the optimistic slot stays: enough for a newcomer to get a piece and give it to others."""

NEW_ROUNDS = 3
"""Rounds for which a peer counts as new; a new one is drawn three times as often, as it has nothing to give yet."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody who might be served.

    Attributes:
        peer: Who.
        interested: Whether it wants something that is here.
        gave: Bytes that came from it lately, weighted towards the last round.
        spread: Of what it was given, how many copies others told of lately.
        took: Bytes that went to it lately.
        snubs: Whether it was asked and sends nothing: it is served by the optimistic slot only.
        rounds: For how many rounds it has been here.
    """

    peer: PeerId
    interested: bool
    gave: float = 0.0
    spread: float = 0.0
    took: float = 0.0
    snubs: bool = False
    rounds: int = 0


class Choker:
    """Decides who is served.

    Args:
        slots: Peers served at a time, the optimistic one included.
        below: A random number below its argument.
    """

    def __init__(self, *, slots: int = SLOTS, below: Callable[[int], int]) -> None:
        self.slots = slots
        self.served: frozenset[PeerId] = frozenset()
        self.optimistic: PeerId | None = None
        self._below = below
        self._rounds = 0

    def round(self, candidates: Sequence[Candidate], *, seeding: bool) -> frozenset[PeerId]:
        """A round is over: who is served in the next one."""
        interested = [candidate for candidate in candidates if candidate.interested]
        kept = any(candidate.peer == self.optimistic for candidate in interested)
        if self._rounds % OPTIMISTIC_ROUNDS == 0 or not kept:
            self.optimistic = None
        self._rounds += 1
        ranked = sorted(interested, key=_spreads if seeding else _gives, reverse=True)
        worthy = [candidate.peer for candidate in ranked if not candidate.snubs or seeding]
        regular = [peer for peer in worthy if peer != self.optimistic][: self.slots - 1]
        if self.optimistic is None:
            self.optimistic = self._draw([each for each in interested if each.peer not in regular])
        self.served = frozenset(regular) | ({self.optimistic} if self.optimistic is not None else frozenset())
        return self.served

    def newcomer(self, peer: PeerId) -> bool:
        """Somebody became interested between two rounds: whether there is a slot for it at once."""
        if peer in self.served:
            return True
        if len(self.served) >= self.slots:
            return False
        self.served |= {peer}
        return True

    def left(self, peer: PeerId) -> None:
        """Somebody went, or wants nothing any more: its slot is free."""
        self.served -= {peer}
        if self.optimistic == peer:
            self.optimistic = None

    def _draw(self, candidates: Sequence[Candidate]) -> PeerId | None:
        lots = [each.peer for each in candidates for _ in range(3 if each.rounds < NEW_ROUNDS else 1)]
        return lots[self._below(len(lots))] if lots else None


def _gives(candidate: Candidate) -> tuple[float, float]:
    return (candidate.gave, -candidate.rounds)


def _spreads(candidate: Candidate) -> tuple[float, float]:
    return (candidate.spread, candidate.took)
