"""How idle peers help busy ones at the end, when nothing waits any more. Figures in, advice out.

A task that lies behind others at its peer and has not begun is asked back, so that an idle peer has it at once. One
that runs and will end later than a second copy of it would, begun now elsewhere, gets that copy, if it may run twice;
the first result counts. Tasks that are expected to end last are looked at first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from hivemind_p2p.tasks.demand import Demand
from hivemind_p2p.tasks.estimates import Estimates
from hivemind_p2p.tasks.standing import Flight, Standing

OVERDUE: Final = 0.4
"""How much of its expected time a task is expected to need still when that time is over and it is not late yet."""

INTERVAL: Final = 0.1
"""Seconds between two looks."""

LEAST_LATE: Final = 0.05
"""Seconds below which no time is worth a message."""

GAIN: Final = 1.15
"""How many times sooner than now a helper must be expected to end a task: what is expected is not exact."""

LATE: Final = 1.3
"""How many times longer than expected a task has been away before it counts as late; then it is expected to need as
long again as it has been there."""


MOST_COPIES: Final = 2
"""Copies of one task at most: the first one may have gone to a peer that is no better."""


@dataclass(frozen=True, slots=True)
class Help:
    """What to do about one task.

    Attributes:
        flight: The task.
        helper: Who should have a copy; None where the task should be asked back from the peer that has it.
    """

    flight: Flight
    helper: Standing | None


def returnable(peers: Iterable[Standing], demand: Demand, latest: float) -> Iterator[Flight]:
    """Tasks of a demand that have not begun and are expected to end later than that; each once."""
    for standing in peers:
        if len(standing.flights) <= standing.cores:
            continue
        for flight in islice(standing.flights.values(), int(standing.cores), None):
            late = flight.due_at is not None and flight.due_at > latest
            if (
                late
                and flight.demand == demand
                and not (flight.began or flight.asked_back or flight.original is not None)
            ):
                flight.asked_back = True
                yield flight


def helps(idle: Sequence[Standing], busy: Sequence[Standing], estimates: Estimates, now: float) -> list[Help]:
    """What is worth doing, as much as idle peers have free cores for.

    Args:
        idle: Peers that may be given tasks; those without a free core are passed over.
        busy: Peers that have tasks.
        estimates: How long tasks take where.
        now: The time.
    """
    free = {standing: int(standing.cores - standing.load + 1e-9) for standing in idle}
    family = next((flight.family for standing in busy for flight in standing.flights.values()), None)
    usual = estimates.work(family) or 1.0
    helpers = sorted(
        (standing for standing, cores in free.items() if cores > 0),
        key=lambda standing: (usual * estimates.slowness(standing.peer) + standing.round_trip) / standing.reliability,
    )
    found: list[Help] = []
    worst = [
        (-left, flight.ticket, flight, place, standing)
        for standing in busy
        for place, (flight, left) in enumerate(_all_left(standing, estimates, now))
        if flight.original is None
    ]
    heapq.heapify(worst)
    while worst and helpers:
        left, _, flight, place, standing = heapq.heappop(worst)
        helper = next((each for each in helpers if _may_help(each, flight, standing)), None)
        if helper is None:
            continue
        seconds = _seconds_at(helper, flight, estimates, now)
        if -left < GAIN * seconds + LEAST_LATE:
            continue
        if not (flight.began or flight.asked_back) and place >= int(standing.cores):
            flight.asked_back = True
            found.append(Help(flight, None))
        elif flight.demand.copyable and len(flight.copies) < MOST_COPIES:
            found.append(Help(flight, helper))
        else:
            continue
        free[helper] -= 1
        if not free[helper]:
            helpers.remove(helper)
    return found


def _all_left(standing: Standing, estimates: Estimates, now: float) -> list[tuple[Flight, float]]:
    """Seconds that each task of a peer is expected to need still, in their order: those behind others wait for them."""
    found: list[tuple[Flight, float]] = []
    cores = int(standing.cores)
    for place, flight in enumerate(standing.flights.values()):
        left = _left(flight, standing, estimates, now)
        if place >= cores and not flight.began:
            own = estimates.seconds(standing.peer, flight.family) or 0.0
            left = max(left, found[place - cores][1] + own)
        found.append((flight, left))
    return found


def _left(flight: Flight, standing: Standing, estimates: Estimates, now: float) -> float:
    """Seconds that a task, or the best of its copies, is expected to need still; nothing where nothing is known."""
    own = _left_of_one(flight, standing, estimates, now)
    return min([own, *(_left_of_one(copy, standing, estimates, now) for copy in flight.copies)])


def _left_of_one(flight: Flight, standing: Standing, estimates: Estimates, now: float) -> float:
    if flight.due_at is None:  # when it was placed; others of its family may have ended since
        known = estimates.seconds(standing.peer, flight.family)
        if known is None:
            return 0.0
        flight.due_at = flight.placed_at + known + standing.round_trip
    since = flight.began_at if flight.began else flight.placed_at
    away, expected = now - since, flight.due_at - since
    if away > LATE * expected:
        return away
    return max(flight.due_at - now, OVERDUE * expected if now > flight.due_at else 0.0)


def _may_help(helper: Standing, flight: Flight, standing: Standing) -> bool:
    demand = flight.demand
    return helper is not standing and helper.free(demand) and not demand.misfit(helper.offer)


def _seconds_at(helper: Standing, flight: Flight, estimates: Estimates, now: float) -> float:
    """Seconds in which a helper would have ended it."""
    known = estimates.seconds(helper.peer, flight.family)
    seconds = known if known is not None else now - flight.placed_at
    return (seconds + helper.round_trip + helper.transfer_seconds(flight.data)) / helper.reliability
