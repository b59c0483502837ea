"""Whether the stages of a route still work, while its caller waits for a token.

Pure. A dead stage breaks its conversation at once. One that has stopped, or whose network has gone, says nothing at
all; and a step can get lost between two stages that are both well. So a caller that waits for long asks all stages
how far they are, again and again, and draws its conclusions:

- A stage that has not answered for `DEAF_SECONDS` is lost.
- A stage that has received more than it has done computes, or waits for its turn: it is waited for, but not for one
  single step that takes longer than `LONGEST_STEP`.
- If nobody has anything to do, `ROUNDS_IDLE` times in a row, a step was lost: by the stage that received the fewest.

Pauses of the caller's own loop do not count: `now` is a steady clock's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hivemind_p2p.types import PeerId

TICK = 0.2
"""Seconds between two looks."""

ASK_AFTER = 0.5
"""Seconds without a token after which all stages are asked, and between two questions."""

DEAF_SECONDS = 1.75
"""Seconds that a stage has to answer: with `ASK_AFTER` and two ticks it is left within 3 s."""

ROUNDS_IDLE = 8
"""Answers in a row by which nobody has anything to do: meanwhile a large step may be on its way over a slow link."""

LONGEST_STEP = 60.0
"""Seconds that one step of a stage may take: a few hundred rows, on the slowest of machines."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a stage says of itself.

    Attributes:
        received: Steps that reached it.
        done: Steps of these that it has passed on.
        busy: Seconds for which the step that it computes now has taken.
    """

    received: int
    done: int
    busy: float = 0.0


@dataclass(slots=True)
class _Stage:
    peer: PeerId
    health: Health | None = None
    fresh: bool = False
    """Whether it has answered the last question."""
    asked_since: float | None = None
    """When it was asked what it has not answered."""


@dataclass(slots=True)
class RouteWatch:
    """Watches the stages of one route, in their order.

    Args:
        peers: Their hosts.
        now: The time.
        ask_after: Seconds without a token after which they are asked.
    """

    peers: Sequence[PeerId]
    now: float
    ask_after: float = ASK_AFTER
    _stages: list[_Stage] = field(default_factory=list)
    _ask_at: float = 0.0
    _idle_rounds: int = 0
    _received: int = -1

    def __post_init__(self) -> None:
        self._stages = [_Stage(peer) for peer in self.peers]
        self.token(self.now)

    def token(self, now: float) -> None:
        """A token has come: all stages did their part."""
        self._ask_at = now + self.ask_after
        self._idle_rounds = 0
        for stage in self._stages:
            stage.asked_since = None

    def answered(self, index: int, health: Health) -> None:
        """A stage has told how it is."""
        stage = self._stages[index]
        stage.health, stage.fresh, stage.asked_since = health, True, None

    def due(self, now: float) -> bool:
        """Whether all stages are to be asked now; if so, it is taken as done."""
        if now < self._ask_at:
            return False
        self._judge_round()
        self._ask_at = now + self.ask_after
        for stage in self._stages:
            stage.fresh = False
            stage.asked_since = now if stage.asked_since is None else stage.asked_since
        return True

    def to_blame(self, now: float) -> frozenset[PeerId]:
        """Who holds the route up; nobody while it may be at work."""
        deaf = [
            stage.peer
            for stage in self._stages
            if stage.asked_since is not None and now - stage.asked_since >= DEAF_SECONDS
        ]
        stuck = [stage.peer for stage in self._stages if stage.health and stage.health.busy > LONGEST_STEP]
        if deaf or stuck:
            return frozenset(deaf or stuck)
        if self._idle_rounds >= ROUNDS_IDLE:
            fewest = min(self._stages, key=lambda stage: stage.health.received if stage.health else 0)
            return frozenset([fewest.peer])
        return frozenset()

    def _judge_round(self) -> None:
        """What the answers to the last question say together."""
        healths = [stage.health for stage in self._stages if stage.fresh and stage.health is not None]
        if len(healths) < len(self._stages):
            return  # not all have answered yet
        received = sum(health.received for health in healths)
        idle = all(health.received == health.done for health in healths)
        self._idle_rounds = self._idle_rounds + 1 if idle and received == self._received else 0
        self._received = received


__all__ = ["Health", "RouteWatch"]
