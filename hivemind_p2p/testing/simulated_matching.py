"""A hive in which one caller has many tasks run, simulated: peers of mixed speed and reliability, a clock that jumps.

Peers run tasks in the order in which they got them, as many at once as they have cores. Some lose a share of their
tasks, some now and then need ten times as long, some vanish for good. Messages take half a round trip. The caller asks
a **scheduler** what to do after every event: the real `tasks.matching.Matching`, or one of `testing.simple_schedulers`,
which are what it is compared with.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from hivemind_p2p.tasks.demand import Demand
from hivemind_p2p.tasks.matching import AskBack, Copy, Decision, Placed
from hivemind_p2p.types import CREDIT, Credits, Needs, Offer, PeerId, PeerInfo, Prices

KIND = "function/1"
FAMILY = "the only one"
COOL_DOWN = 2.0
"""Seconds that a peer gets nothing after it lost a task, doubled each time: as `tasks.client` does."""

MOST_COOL_DOWN = 300.0
SILENCE = 3.0
"""Seconds until it is noticed that a peer has vanished."""

HICCUP = 10.0
"""How many times longer a task takes that gets stuck."""


@dataclass(slots=True, eq=False)
class SimulatedPeer:
    """A peer.

    Attributes:
        slowness: Seconds that it takes for a second of work.
        loses: The share of tasks that it loses in the middle.
        sticks: The share of tasks that get stuck.
        vanishes_at: When it is gone for good.
        price: Millionths of a credit for a second.
    """

    id: PeerId
    cores: int
    slowness: float
    round_trip: float
    loses: float = 0.0
    sticks: float = 0.0
    vanishes_at: float = math.inf
    price: int = 1000
    waiting: deque[_Attempt] = field(default_factory=deque)
    running: set[_Attempt] = field(default_factory=set)

    @property
    def offer(self) -> Offer:
        """What it lends."""
        prices = Prices(per_task=Credits(100), per_cpu_second=Credits(self.price))
        return Offer(PeerInfo(self.id), cpus=self.cores, memory_bytes=1 << 40, task_types=(KIND,), prices=prices)


@dataclass(slots=True, eq=False)
class _Attempt:
    """One try to have a task run somewhere."""

    ticket: int
    task: int
    peer: SimulatedPeer
    over: bool = False


class Scheduler(Protocol):
    """What is asked; `tasks.matching.Matching` is one."""

    def offers_changed(self, offers: Iterable[Offer]) -> None:
        """Replaces the offers."""

    def set_round_trip(self, peer: PeerId, seconds: float) -> None:
        """Says how far a peer is."""

    def submit(self, ticket: int, demand: Demand, family: Any = None) -> None:
        """One more task waits."""

    def copied(self, original: int, ticket: int, peer: PeerId, now: float) -> None:
        """A copy has been placed."""

    def began(self, ticket: int, now: float) -> None:
        """A task runs."""

    def released(self, ticket: int, now: float, seconds: float | None = None) -> None:
        """A task has left its peer."""

    def lost(self, peer: PeerId) -> None:
        """A peer has lost one."""

    def streak(self, peer: PeerId) -> int:
        """How many it has lost one after the other."""

    def leave_alone(self, peer: PeerId, *, until: float) -> None:
        """Nothing goes there until then."""

    def decide(self, now: float) -> list[Decision]:
        """What to do."""

    def wake_at(self, now: float) -> float | None:
        """When to ask again."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How it went.

    Attributes:
        seconds: Until the last task had ended.
        ideal: In which all peers together, never idle and never failing, do that much work.
        lost: Tasks that were lost on the way and begun again.
        copies: Second copies begun.
        returned: Tasks that were given back before they began.
        cost: Millionths of a credit for all work that ended well.
        decisions: Times that the scheduler was asked.
    """

    seconds: float
    ideal: float
    lost: int
    copies: int
    returned: int
    cost: float
    decisions: int

    @property
    def ratio(self) -> float:
        """How many times longer than ideal."""
        return self.seconds / self.ideal


def mixed_peers(count: int, chance: random.Random) -> list[SimulatedPeer]:
    """Peers as a hive of volunteers has them: the fastest tenth is some ten times as fast as the slowest one.

    One in ten is unreliable: it loses a fifth of its tasks, or its tasks get stuck, or it vanishes within seconds.
    """
    peers = []
    for number in range(count):
        peer = SimulatedPeer(
            PeerId(f"peer {number:04}"),
            cores=chance.choices([1, 2, 4, 8], [4, 3, 2, 1])[0],
            slowness=chance.lognormvariate(0.0, 0.7),
            round_trip=chance.choice([0.005, 0.02, 0.05, 0.1, 0.2]),
            sticks=0.002,
            price=round(1000 * chance.lognormvariate(0.0, 0.3)),
        )
        kind = chance.random()
        if kind < 0.05:
            peer.loses = 0.2
        elif kind < 0.08:
            peer.sticks = 0.1
        elif kind < 0.10:
            peer.vanishes_at = chance.uniform(0.0, 20.0)
        peers.append(peer)
    return peers


def ideal_seconds(peers: Iterable[SimulatedPeer], work: Iterable[float]) -> float:
    """In which all peers together would do the work if it could be cut at will; a peer counts until it vanishes."""
    total = sum(work)
    rates = sorted((peer.vanishes_at, peer.cores / peer.slowness) for peer in peers)
    rate, now = sum(each for _, each in rates), 0.0
    for vanishes_at, each in rates:
        if total <= rate * (vanishes_at - now):
            break
        total -= rate * (vanishes_at - now)
        now, rate = vanishes_at, rate - each
    return now + total / rate


class MatchingSimulation:
    """One caller, its tasks, and the peers.

    Args:
        scheduler: Who decides.
        peers: Who works.
        work: Seconds of each task on a peer of slowness 1.
        chance: What happens besides.
    """

    def __init__(
        self, scheduler: Scheduler, peers: list[SimulatedPeer], work: list[float], chance: random.Random
    ) -> None:
        self._scheduler = scheduler
        self._peers = {peer.id: peer for peer in peers}
        self._work = work
        self._chance = chance
        self._demand = Demand(KIND, Needs(), CREDIT)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._now = self._ended_at = 0.0
        self._tickets: dict[int, int] = {}
        self._attempts: dict[int, _Attempt] = {}
        self._open: set[int] = set(range(len(work)))
        self._tries: dict[int, list[_Attempt]] = {}
        self._asked = self._wake_at = -1.0
        self._lost = self._copies = self._returned = self._decisions = 0
        self._cost = 0.0
        scheduler.offers_changed([peer.offer for peer in peers])
        for peer in peers:
            scheduler.set_round_trip(peer.id, peer.round_trip)

    def run(self) -> Finished:
        """Until every task has ended."""
        for task in range(len(self._work)):
            self._submit(task)
        for peer in self._peers.values():
            if peer.vanishes_at < math.inf:
                self._later(peer.vanishes_at, self._vanish, peer)
        self._decide()
        while self._open:
            self._now, _, act, arguments = heapq.heappop(self._events)
            act(*arguments)
            if not self._events or self._events[0][0] > self._now:
                self._decide()
        ideal = ideal_seconds(self._peers.values(), self._work)
        return Finished(self._now, ideal, self._lost, self._copies, self._returned, self._cost, self._decisions)

    def _later(self, at: float, act: Callable[..., None], *arguments: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (at, self._sequence, act, arguments))

    def _submit(self, task: int) -> None:
        ticket = len(self._tickets)
        self._tickets[ticket] = task
        self._scheduler.submit(ticket, self._demand, FAMILY)

    # -- the caller --------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        self._decisions += 1
        for decision in self._scheduler.decide(self._now):
            if isinstance(decision, Placed):
                self._send(decision.ticket, self._peers[decision.offer.peer.peer_id])
            elif isinstance(decision, AskBack):
                attempt = self._attempts[decision.ticket]
                self._later(self._now + attempt.peer.round_trip / 2, self._asked_back, attempt)
            elif isinstance(decision, Copy):
                self._copies += 1
                peer = self._peers[decision.offer.peer.peer_id]
                ticket = len(self._tickets)
                self._tickets[ticket] = self._tickets[decision.ticket]
                self._scheduler.copied(decision.ticket, ticket, peer.id, self._now)
                self._send(ticket, peer)
            else:
                raise AssertionError(decision)
        wake_at = self._scheduler.wake_at(self._now)
        if wake_at is not None and not self._now < self._wake_at <= wake_at:
            self._wake_at = max(wake_at, self._now + 1e-3)
            self._later(self._wake_at, lambda: None)

    def _send(self, ticket: int, peer: SimulatedPeer) -> None:
        attempt = self._attempts[ticket] = _Attempt(ticket, self._tickets[ticket], peer)
        self._tries.setdefault(attempt.task, []).append(attempt)
        if self._now >= peer.vanishes_at:
            self._later(self._now + SILENCE, self._told_lost, attempt)
        else:
            self._later(self._now + peer.round_trip / 2, self._arrive, attempt)

    def _told_ended(self, attempt: _Attempt, seconds: float) -> None:
        if attempt.over:
            return
        attempt.over = True
        self._scheduler.released(attempt.ticket, self._now, seconds)
        if attempt.task in self._open:
            self._open.discard(attempt.task)
            self._cost += 100 + attempt.peer.price * seconds
            for other in self._tries[attempt.task]:
                if not other.over:
                    self._give_up(other)

    def _give_up(self, attempt: _Attempt) -> None:
        attempt.over = True
        self._scheduler.released(attempt.ticket, self._now)
        self._later(self._now + attempt.peer.round_trip / 2, self._stop, attempt)

    def _told_lost(self, attempt: _Attempt) -> None:
        if attempt.over:
            return
        attempt.over = True
        self._lost += 1
        peer, scheduler = attempt.peer, self._scheduler
        scheduler.released(attempt.ticket, self._now)
        scheduler.lost(peer.id)
        pause = min(MOST_COOL_DOWN, COOL_DOWN * 2 ** (scheduler.streak(peer.id) - 1))
        scheduler.leave_alone(peer.id, until=self._now + pause)
        if attempt.task in self._open and all(each.over for each in self._tries[attempt.task]):
            self._submit(attempt.task)

    def _told_returned(self, attempt: _Attempt) -> None:
        if not attempt.over:
            attempt.over = True
            self._returned += 1
            self._scheduler.released(attempt.ticket, self._now)
            self._submit(attempt.task)

    def _told_began(self, attempt: _Attempt) -> None:
        if not attempt.over:
            self._scheduler.began(attempt.ticket, self._now)

    # -- the peers ---------------------------------------------------------------------------------------------------

    def _arrive(self, attempt: _Attempt) -> None:
        if not attempt.over and self._now < attempt.peer.vanishes_at:
            attempt.peer.waiting.append(attempt)
            self._go_on(attempt.peer)
        elif not attempt.over:
            self._later(self._now + SILENCE, self._told_lost, attempt)

    def _go_on(self, peer: SimulatedPeer) -> None:
        while peer.waiting and len(peer.running) < peer.cores:
            attempt = peer.waiting.popleft()
            peer.running.add(attempt)
            seconds = self._work[attempt.task] * peer.slowness
            if self._chance.random() < peer.sticks:
                seconds *= HICCUP
            back = self._now + peer.round_trip / 2
            self._later(back, self._told_began, attempt)
            if self._chance.random() < peer.loses:
                seconds *= self._chance.random()
                self._later(back + seconds, self._told_lost, attempt)
            elif self._now + seconds < peer.vanishes_at:
                self._later(back + seconds, self._told_ended, attempt, seconds)
            self._later(self._now + seconds, self._stop, attempt)

    def _stop(self, attempt: _Attempt) -> None:
        peer = attempt.peer
        if attempt in peer.waiting:
            peer.waiting.remove(attempt)
        if attempt in peer.running and self._now < peer.vanishes_at:
            peer.running.discard(attempt)
            self._go_on(peer)

    def _asked_back(self, attempt: _Attempt) -> None:
        if attempt in attempt.peer.waiting:
            attempt.peer.waiting.remove(attempt)
            self._later(self._now + attempt.peer.round_trip / 2, self._told_returned, attempt)

    def _vanish(self, peer: SimulatedPeer) -> None:
        for attempt in (*peer.running, *peer.waiting):
            self._later(self._now + SILENCE, self._told_lost, attempt)
        peer.running.clear()
        peer.waiting.clear()
