"""Other ways to share tasks among peers, to compare `tasks.matching` with: chance, the least loaded, a learner.

Each has the same back-pressure, the same retries and the same cool-down; only the choice among the peers that have room
differs, and none asks tasks back or begins copies.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

from hivemind_p2p.tasks.demand import Demand
from hivemind_p2p.tasks.matching import Decision, Placed
from hivemind_p2p.types import Offer, PeerId

PIPELINE = 2.0
"""Tasks for each core that a peer is given: as `tasks.standing`."""


class SimpleScheduler:
    """Places each task on a peer with room that `choose` names."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.offers: dict[PeerId, Offer] = {}
        self.load: dict[PeerId, int] = {}
        self._line: deque[int] = deque()
        self._at: dict[int, PeerId] = {}
        self._cool: dict[PeerId, float] = {}
        self._streaks: dict[PeerId, int] = defaultdict(int)
        self._roomy: set[PeerId] = set()

    def choose(self, roomy: list[PeerId]) -> PeerId:
        """One of the peers with room."""
        raise NotImplementedError

    def learn(self, ticket: int, peer: PeerId, now: float, seconds: float | None) -> None:
        """A task has left a peer: with a result after so long, or without."""

    def placed_one(self, ticket: int, peer: PeerId, now: float) -> None:
        """A task has been given to a peer."""

    def offers_changed(self, offers: Iterable[Offer]) -> None:
        """Replaces the offers."""
        self.offers = {offer.peer.peer_id: offer for offer in offers}
        self.load = dict.fromkeys(self.offers, 0)
        self._roomy = set(self.offers)

    def set_round_trip(self, peer: PeerId, seconds: float) -> None:
        """Of no interest here."""

    def submit(self, ticket: int, demand: Demand, family: Any = None) -> None:  # noqa: ARG002
        """One more task waits."""
        self._line.append(ticket)

    def copied(self, original: int, ticket: int, peer: PeerId, now: float) -> None:
        """Never called: there are no copies."""

    def began(self, ticket: int, now: float) -> None:
        """Of no interest here."""

    def released(self, ticket: int, now: float, seconds: float | None = None) -> None:
        """A task has left its peer."""
        peer = self._at.pop(ticket)
        self.load[peer] -= 1
        self._roomy.add(peer)
        if seconds is not None:
            self._streaks[peer] = 0
        self.learn(ticket, peer, now, seconds)

    def lost(self, peer: PeerId) -> None:
        """A peer has lost one."""
        self._streaks[peer] += 1

    def streak(self, peer: PeerId) -> int:
        """How many one after the other."""
        return self._streaks[peer]

    def leave_alone(self, peer: PeerId, *, until: float) -> None:
        """Nothing goes there until then."""
        self._cool[peer] = until

    def decide(self, now: float) -> list[Decision]:
        """Places what can be placed."""
        self._cool = {peer: until for peer, until in self._cool.items() if until > now}
        decisions: list[Decision] = []
        roomy = sorted(peer for peer in self._roomy if peer not in self._cool)
        while self._line and roomy:
            peer = self.choose(roomy)
            ticket = self._line.popleft()
            self.load[peer] += 1
            self._at[ticket] = peer
            self.placed_one(ticket, peer, now)
            decisions.append(Placed(ticket, self.offers[peer]))
            if self.load[peer] >= PIPELINE * self.offers[peer].cpus:
                roomy.remove(peer)
                self._roomy.discard(peer)
        return decisions

    def wake_at(self, now: float) -> float | None:  # noqa: ARG002
        """When the next peer may be tried again."""
        return min(self._cool.values(), default=None) if self._line else None


class RandomChoice(SimpleScheduler):
    """Any of those that have room."""

    def choose(self, roomy: list[PeerId]) -> PeerId:
        """By lot."""
        return self.chance.choice(roomy)


class LeastLoaded(SimpleScheduler):
    """The one with the fewest tasks for each core."""

    def choose(self, roomy: list[PeerId]) -> PeerId:
        """The emptiest, the first among equals."""
        return min(roomy, key=lambda peer: (self.load[peer] / self.offers[peer].cpus, peer))


class QLearning(SimpleScheduler):
    """Learns which kind of peer is worth choosing (Watkins 1989), tabular, with some curiosity.

    Peers are sorted into classes by what is seen of them: how fast they were so far (five steps, or unknown) and how
    loaded they are (three steps). A state is how many tasks wait for each peer (three steps); an action is a class; the
    reward is the inverse of how long the task took from its placing to its end, nothing where it was lost.
    """

    CURIOSITY = 0.1
    RATE = 0.1
    DISCOUNT = 0.5

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.values: dict[tuple[int, int], float] = defaultdict(float)
        self._times: dict[PeerId, float] = {}
        self._chosen: dict[int, tuple[int, int, float]] = {}
        self._action = 0

    def choose(self, roomy: list[PeerId]) -> PeerId:
        """A peer of the best class, or of any other now and then."""
        classes: dict[int, list[PeerId]] = defaultdict(list)
        for peer in roomy:
            classes[self._class_of(peer)].append(peer)
        state = self._state()
        if self.chance.random() < self.CURIOSITY:
            self._action = self.chance.choice(sorted(classes))
        else:
            self._action = max(sorted(classes), key=lambda action: self.values[state, action])
        return self.chance.choice(classes[self._action])

    def placed_one(self, ticket: int, peer: PeerId, now: float) -> None:  # noqa: ARG002
        """Remembers what was chosen."""
        self._chosen[ticket] = self._state(), self._action, now

    def learn(self, ticket: int, peer: PeerId, now: float, seconds: float | None) -> None:
        """Learns from how it went."""
        state, action, since = self._chosen.pop(ticket)
        reward = 1.0 / (now - since) if seconds is not None and now > since else 0.0
        after = self._state()
        best = max((value for (at, _), value in self.values.items() if at == after), default=0.0)
        key = state, action
        self.values[key] += self.RATE * (reward + self.DISCOUNT * best - self.values[key])
        if seconds is not None:
            self._times[peer] = 0.7 * self._times.get(peer, seconds) + 0.3 * seconds

    def _state(self) -> int:
        waiting = len(self._line) / max(1, len(self.offers))
        return 0 if waiting < 0.5 else 1 if waiting < 5 else 2

    def _class_of(self, peer: PeerId) -> int:
        seconds = self._times.get(peer)
        speed = 5 if seconds is None else min(4, max(0, 2 + round(math.log2(max(seconds, 1e-6)))))
        load = min(2, int(2 * self.load[peer] / self.offers[peer].cpus / PIPELINE * 1.5))
        return speed * 3 + load
