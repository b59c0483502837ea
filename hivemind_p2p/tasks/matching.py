"""Which peer gets which task. Events and the time go in, decisions come out; nothing here waits or sends.

A task goes where it is expected to have *ended* first: what lies before it there, how long it takes there, the round
trip, the data that is not there yet, and how often that peer loses tasks; a dear peer counts as a little slower. A peer
is given somewhat more than it can run at once, so that its next task is there when one ends, and no more than that: the
rest waits here, where it can still go anywhere. A slow peer gets nothing that the others would have ended sooner.

When nothing waits any more, idle peers help busy ones (`helping`): tasks that have not begun are asked back, and of
those that are late a second copy is begun.

Tasks of the same demand wait in one line, so that thousands cost little more than one.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hivemind_p2p.errors import NoPeerError
from hivemind_p2p.tasks import helping
from hivemind_p2p.tasks.demand import PRICE_WEIGHT, Demand
from hivemind_p2p.tasks.estimates import Estimates
from hivemind_p2p.tasks.standing import PIPELINE, Data, Flight, Standing
from hivemind_p2p.types import Offer, PeerId

SHORT: Final = 0.02
"""Seconds below which tasks are only shared out evenly: what is known about them is not better than that."""

SLACK: Final = 1.0
"""How much later than when all would have ended a task may end on a slow peer."""

AT_END: Final = 0.5
"""Tasks that wait, for each core of all peers, below which none is given ahead of its time: who is free takes it."""

HELD: Final = 0.05
"""Seconds for which a peer that is too slow for what is left is not looked at again."""

RATES_KEPT: Final = 0.25
"""Seconds for which the rate of all peers together is taken to be what it was."""

MOST_DEMANDS: Final = 256
"""Demands of which the fitting peers are remembered."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A ticket's task goes to this peer, whose room is taken until `Matching.released`."""

    ticket: int
    offer: Offer


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """No offer fits a ticket's task."""

    ticket: int
    error: NoPeerError


@dataclass(frozen=True, slots=True)
class AskBack:
    """A ticket's task should be asked back from its peer, if it has not begun: an idle one would end it sooner."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Copy:
    """A ticket's task is late: a copy of it should be begun at this peer; `Matching.copied` then."""

    ticket: int
    offer: Offer


Decision = Placed | Unplaceable | AskBack | Copy


class _Waiting(NamedTuple):
    ticket: int
    family: Hashable
    data: Data


@dataclass(slots=True)
class _Rates:
    """All peers that fit a demand, together."""

    at: float
    cores: float
    fastest: float


@dataclass(slots=True, eq=False)
class _Fit:
    """The peers that fit a demand, with what they cost compared to the cheapest."""

    prices: dict[PeerId, float] = field(default_factory=dict)
    rates: _Rates | None = None
    flights: int = 0
    cores: float = 0.0
    soonest: tuple[float, float] = (-1.0, 0.0)


class Matching:
    """The queue of one caller's tasks and what is known of the peers."""

    def __init__(self) -> None:
        self.estimates = Estimates()
        self._peers: dict[PeerId, Standing] = {}
        self._gone: dict[PeerId, Standing] = {}
        self._lines: dict[Demand, deque[_Waiting]] = {}
        self._fits: dict[Demand, _Fit] = {}
        self._roomy: set[Standing] = set()
        self._at: dict[int, Standing] = {}
        self._looked_at = 0.0
        self._slow = 0
        self._cooling: set[Standing] = set()
        self._held: set[Standing] = set()
        self._withdrawn: set[int] = set()
        self._held_until = 0.0

    @property
    def waiting(self) -> int:
        """Tasks without a peer."""
        return sum(len(line) for line in self._lines.values()) - len(self._withdrawn)

    def _clear_withdrawn(self) -> None:
        """Drops from the lines what was taken out of them."""
        gone, self._withdrawn = self._withdrawn, set()
        lines = {
            demand: deque(each for each in line if each.ticket not in gone) for demand, line in self._lines.items()
        }
        self._lines = {demand: line for demand, line in lines.items() if line}

    # -- events ------------------------------------------------------------------------------------------------------

    def offers_changed(self, offers: Iterable[Offer]) -> None:
        """Replaces what is known of the offers."""
        current = {offer.peer.peer_id: offer for offer in offers}
        changed = False
        for peer in self._peers.keys() - current.keys():
            gone = self._peers.pop(peer)
            self._roomy.discard(gone)
            changed = True
            self._held.discard(gone)
            if gone.flights or gone.streak:
                self._gone[peer] = gone  # what it has may still end, and it may come back
            else:
                self.estimates.forget(peer)
        for peer, offer in current.items():
            standing = self._peers.get(peer)
            if standing is not None and standing.offer == offer:
                continue
            changed = True
            if standing is None:
                known = self._gone.pop(peer) if peer in self._gone else Standing.of(offer)
                standing = self._peers[peer] = known
            standing.renew(offer)
            self._roomy.add(standing)
        if changed:
            self._fits.clear()

    def set_round_trip(self, peer: PeerId, seconds: float) -> None:
        """The way to a peer and back was measured."""
        standing = self._peers.get(peer)
        if standing is not None:
            standing.round_trip = seconds

    def set_complaints(self, peer: PeerId, accounts: int) -> None:
        """So many accounts complain of a peer's account, says the bootstrap."""
        standing = self._peers.get(peer)
        if standing is not None and standing.complaints != accounts:
            standing.complained(accounts)

    def submit(self, ticket: int, demand: Demand, family: Hashable = None, data: Data = ()) -> None:
        """Puts a task at the end of its line.

        Args:
            ticket: The caller's number for it.
            demand: What matters when a peer is chosen.
            family: Tasks of the same one take about as long as each other.
            data: What it needs besides its payload.
        """
        line = self._lines.get(demand)
        if line is None:
            line = self._lines[demand] = deque()
        line.append(_Waiting(ticket, family, data))
        if self._held:
            self._let_go()

    def withdraw(self, ticket: int, demand: Demand) -> None:
        """Takes a waiting task out; its ticket is not used again."""
        if demand in self._lines:
            self._withdrawn.add(ticket)
            # Not each by itself: thousands may be taken out one after the other.
            if len(self._withdrawn) * 4 >= sum(map(len, self._lines.values())):
                self._clear_withdrawn()

    def copied(self, original: int, ticket: int, peer: PeerId, now: float) -> None:
        """A copy of a placed task has been given to a peer, under a ticket of its own."""
        standing, at = self._peers.get(peer), self._at.get(original)
        if standing is None or at is None:
            return
        flight = at.flights[original]
        copy = self._fly(_Waiting(ticket, flight.family, flight.data), flight.demand, standing, now)
        copy.original = flight
        flight.copies.append(copy)

    def began(self, ticket: int, now: float) -> None:
        """A peer says that it runs a task."""
        standing = self._at.get(ticket)
        if standing is not None and not (flight := standing.flights[ticket]).began:
            flight.began, flight.began_at = True, now
            known = self.estimates.seconds(standing.peer, flight.family)
            if known is not None:
                flight.due_at = now + known

    def released(self, ticket: int, now: float, seconds: float | None = None) -> None:
        """A placed task has left its peer, however it ended; in so many seconds, if it ended well.

        The peer says how long it took. It is not believed where its caller has seen better: of a task that had a core
        for itself at once, the whole time that it was there.
        """
        standing = self._at.pop(ticket, None)
        if standing is None:
            return
        flight = standing.flights.pop(ticket)
        flight.land()
        fit = self._fits.get(flight.demand)
        if fit is not None:
            fit.flights -= 1
        standing.load = standing.load - flight.demand.cpus if standing.flights else 0.0
        self._slow -= _is_slow(flight)
        if standing.peer in self._peers:
            self._roomy.add(standing)
            self._held.discard(standing)
        if seconds is not None:
            there = now - flight.placed_at
            if flight.alone and not flight.data and there > helping.LEAST_LATE:
                seconds = max(seconds, there - standing.round_trip)
            standing.took(seconds)
            self.estimates.learn(standing.peer, flight.family, seconds)

    def lost(self, peer: PeerId) -> None:
        """A peer has lost or refused a task."""
        standing = self._peers.get(peer)
        if standing is not None:
            standing.lost()

    def leave_alone(self, peer: PeerId, *, until: float) -> None:
        """Gives a peer nothing until then."""
        standing = self._peers.get(peer) or self._gone.get(peer)
        if standing is not None:
            standing.cool_until = max(until, standing.cool_until)
            self._cooling.add(standing)

    def streak(self, peer: PeerId) -> int:
        """How often a peer has failed since it last did something well."""
        standing = self._peers.get(peer) or self._gone.get(peer)
        return standing.streak if standing is not None else 0

    # -- decisions ---------------------------------------------------------------------------------------------------

    def decide(self, now: float) -> list[Decision]:
        """Everything that can be decided now; the rest waits for an event, or for `wake_at`."""
        if self._cooling:
            self._cooling = {standing for standing in self._cooling if standing.cool_until > now}
        if self._held and now >= self._held_until:
            self._let_go()
        decisions: list[Decision] = []
        for demand in self._in_order():
            self._decide_line(demand, now, decisions)
            if not self._lines[demand]:
                del self._lines[demand]
        if self._slow and now - self._looked_at >= helping.INTERVAL:
            self._looked_at = now
            decisions += self._reclaim(now) if self._lines else self._help(now)
        return decisions

    def _in_order(self) -> list[Demand]:
        """The lines, those of higher priority first."""
        lines = list(self._lines)
        if len(lines) > 1:
            lines.sort(key=lambda demand: -demand.priority)
        return lines

    def wake_at(self, now: float) -> float | None:
        """When to decide again though nothing has happened; None where that is not needed."""
        times = [standing.cool_until for standing in self._cooling] if self._lines else []
        if self._held and self._lines:
            times.append(self._held_until)
        if self._slow:
            times.append(max(now, self._looked_at) + helping.INTERVAL)
        return min(times, default=None)

    def _decide_line(self, demand: Demand, now: float, decisions: list[Decision]) -> None:
        line = self._lines[demand]
        fit = self._fit(demand)
        if not fit.prices:
            error = self._no_peer(demand)
            decisions += [Unplaceable(each.ticket, error) for each in line if each.ticket not in self._withdrawn]
            self._withdrawn -= {each.ticket for each in line}
            line.clear()
            return
        while line and self._place_alike(line, demand, fit, now, decisions):
            pass

    def _place_alike(
        self, line: deque[_Waiting], demand: Demand, fit: _Fit, now: float, decisions: list[Decision]
    ) -> bool:
        """Places the tasks at the head that are alike; whether others behind them may still find room."""
        _, family, data = line[0]
        bound = self._bound(line, demand, fit, family, now)
        heap = self._candidates(demand, fit, family, data)
        at_end = bound < float("inf") and len(line) * demand.cpus < AT_END * fit.cores
        while heap and line and (line[0].family is family or line[0].family == family) and line[0].data == data:
            score, _, _, standing = heap[0]
            if at_end and not standing.free(demand):
                heapq.heappop(heap)
                continue
            if score > bound and score > self._soonest_elsewhere(line[0], demand, fit, now, at_end=at_end):
                self._hold_back((ranked[-1] for ranked in heap), now)
                return False  # those that are busy now will have ended it sooner
            waiting = line.popleft()
            if waiting.ticket in self._withdrawn:
                self._withdrawn.discard(waiting.ticket)
                continue
            self._fly(waiting, demand, standing, now)
            decisions.append(Placed(waiting.ticket, standing.offer))
            if standing.has_room(demand):
                ranked = self._ranked(standing, demand, fit, family, data)
                heapq.heapreplace(heap, ranked)
            else:
                heapq.heappop(heap)
                if standing.load + min(1.0, demand.cpus) > standing.cores * PIPELINE:
                    self._roomy.discard(standing)
        return bool(heap)

    def _candidates(
        self, demand: Demand, fit: _Fit, family: Hashable, data: Data
    ) -> list[tuple[float, int, PeerId, Standing]]:
        """The peers that fit and have room, the best first, as a heap."""
        prices, cooling = fit.prices, self._cooling
        heap = [
            self._ranked(standing, demand, fit, family, data)
            for standing in self._roomy
            if standing.peer in prices and standing not in cooling and standing.has_room(demand)
        ]
        heapq.heapify(heap)
        return heap

    def _ranked(
        self, standing: Standing, demand: Demand, fit: _Fit, family: Hashable, data: Data
    ) -> tuple[float, int, PeerId, Standing]:
        score = self._score(standing, demand, fit, family, data)
        return score, standing.offer.prices.per_task, standing.peer, standing

    def _score(self, standing: Standing, demand: Demand, fit: _Fit, family: Hashable, data: Data) -> float:
        """Seconds until a task would have ended there, made longer by what makes the peer less attractive."""
        known = self.estimates.seconds(standing.peer, family)
        seconds = 1.0 if known is None else known
        before = standing.load + demand.cpus - standing.cores
        score = seconds + before / standing.cores * seconds if before > 0.0 else seconds
        if seconds > SHORT:
            score += standing.round_trip
            if data:
                score += standing.transfer_seconds(data)
        return score * fit.prices[standing.peer] / standing.reliability

    def _bound(self, line: deque[_Waiting], demand: Demand, fit: _Fit, family: Hashable, now: float) -> float:
        """When all tasks of this line would have ended if all peers did what they can: later, none is given away."""
        work = self.estimates.work(family)
        if work is None or work < SHORT:
            return float("inf")
        rates = fit.rates
        if rates is None or now - rates.at > RATES_KEPT:
            rates = fit.rates = self._measure(fit, now)
        tasks = len(line) + fit.flights
        return SLACK * work * (tasks * demand.cpus / rates.cores + rates.fastest)

    def _measure(self, fit: _Fit, now: float) -> _Rates:
        cores, fastest = 0.0, float("inf")
        for peer in fit.prices:
            standing = self._peers[peer]
            if standing not in self._cooling:
                slowness = self.estimates.slowness(peer) / standing.reliability
                cores += standing.cores / slowness
                fastest = min(fastest, slowness)
        return _Rates(now, max(cores, 1e-9), fastest)

    def _let_go(self) -> None:
        self._roomy |= self._held & set(self._peers.values())
        self._held.clear()

    def _hold_back(self, peers: Iterable[Standing], now: float) -> None:
        """Does not look at peers again for a while that are too slow for what is left."""
        if len(self._lines) == 1:
            self._held.update(peers)
            self._roomy -= self._held
            self._held_until = now + HELD

    def _soonest_elsewhere(self, waiting: _Waiting, demand: Demand, fit: _Fit, now: float, *, at_end: bool) -> float:
        """When it would have ended at one of those that take no more just now."""
        _, family, data = waiting
        at, soonest = fit.soonest
        if now - at < HELD and not data:
            return soonest
        takes = Standing.free if at_end else Standing.has_room
        scores = (
            self._score(standing, demand, fit, family, data)
            for peer in fit.prices
            if (standing := self._peers[peer]) not in self._cooling and not takes(standing, demand)
        )
        fit.soonest = (now, min(scores, default=float("inf")))
        return fit.soonest[1]

    def _fly(self, waiting: _Waiting, demand: Demand, standing: Standing, now: float) -> Flight:
        ticket, family, data = waiting
        flight = Flight(ticket, demand, family, now, data)
        known = self.estimates.seconds(standing.peer, family)
        if known is not None:
            flight.due_at = now + known + standing.wait(demand, known) + standing.round_trip
            flight.due_at += standing.transfer_seconds(data)
        flight.alone = standing.free(demand)
        if data:
            standing.has_now(data)
        standing.load += demand.cpus
        standing.flights[ticket] = flight
        self._at[ticket] = standing
        self._slow += _is_slow(flight)
        self._fit(demand).flights += 1
        return flight

    def _reclaim(self, now: float) -> list[Decision]:
        """Near the end, asks back what lies behind others and would end later than those that wait here."""
        decisions: list[Decision] = []
        for demand, line in self._lines.items():
            fit = self._fit(demand)
            if len(line) * demand.cpus >= AT_END * fit.cores:
                continue
            latest = now + self._bound(line, demand, fit, line[0].family, now)
            flights = helping.returnable((self._peers[peer] for peer in fit.prices), demand, latest)
            decisions += [AskBack(flight.ticket) for flight in flights]
        return decisions

    def _help(self, now: float) -> list[Decision]:
        idle = [standing for standing in (*self._roomy, *self._held) if standing not in self._cooling]
        busy = [standing for standing in (*self._peers.values(), *self._gone.values()) if standing.flights]
        decisions: list[Decision] = []
        for help_ in helping.helps(idle, busy, self.estimates, now):
            if help_.helper is None:
                decisions.append(AskBack(help_.flight.ticket))
            else:
                decisions.append(Copy(help_.flight.ticket, help_.helper.offer))
        return decisions

    # -- which peers fit ---------------------------------------------------------------------------------------------

    def _fit(self, demand: Demand) -> _Fit:
        fit = self._fits.get(demand)
        if fit is not None:
            return fit
        if len(self._fits) >= MOST_DEMANDS:
            self._fits.clear()
        fit = self._fits[demand] = _Fit()
        fit.flights = sum(
            flight.demand == demand
            for standing in (*self._peers.values(), *self._gone.values())
            for flight in standing.flights.values()
        )
        costs = {
            peer: demand.price(standing.offer, 1.0)
            for peer, standing in self._peers.items()
            if not demand.misfit(standing.offer)
        }
        cheapest = min(costs.values(), default=1.0)
        fit.prices = {peer: (cost / cheapest) ** PRICE_WEIGHT for peer, cost in costs.items()}
        fit.cores = sum(self._peers[peer].cores for peer in costs)
        return fit

    def _no_peer(self, demand: Demand) -> NoPeerError:
        if not self._peers:
            return NoPeerError("no peer of the hive offers anything", hint="Start one with `hivemind-peer run`.")
        reasons = sorted({demand.misfit(standing.offer) for standing in self._peers.values()})
        return NoPeerError(f"none of {len(self._peers)} offers fits the task: {'; '.join(reasons)}")


def _is_slow(flight: Flight) -> bool:
    """Whether it may be worth helping with; of what nothing is known, it may."""
    return flight.due_at is None or flight.due_at - flight.placed_at > helping.LEAST_LATE
