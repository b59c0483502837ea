"""Gives tasks to peers: keeps the offers current for `matching`, and asks it whenever something has changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import trio

from hivemind_p2p.errors import HivemindError, NoPeerError
from hivemind_p2p.interfaces import OfferBook
from hivemind_p2p.tasks.course import Course
from hivemind_p2p.tasks.matching import Demand, Matching, Placed
from hivemind_p2p.types import Offer, PeerId

REFRESH: Final = 2.0
"""Seconds after which the offers are looked at again while tasks wait: new peers get work soon."""

Place = Callable[[Course, Offer], None]
Fail = Callable[[Course, HivemindError], None]


class Dispatcher:
    """Shares the peers among the tasks of one caller.

    Args:
        offers: Who lends what.
        nursery: Where looking at offers goes on.
        place: Called with a task and the peer for it.
        fail: Called with a task for which there is none.
    """

    def __init__(self, offers: OfferBook, nursery: trio.Nursery, place: Place, fail: Fail) -> None:
        self._offers = offers
        self._nursery = nursery
        self._place = place
        self._fail = fail
        self._matching = Matching()
        self._peers: frozenset[PeerId] = frozenset()
        self._waiting: dict[int, Course] = {}
        self._looked_at = -math.inf
        self._watching = False
        self._need_fresh = False

    @property
    def peers(self) -> frozenset[PeerId]:
        """Who offers something, as far as that is known."""
        return self._peers

    def submit(self, course: Course) -> None:
        """Puts a task into its line; `decide` afterwards."""
        self._waiting[course.ticket] = course
        self._matching.submit(course.ticket, course.demand)

    def withdraw(self, course: Course) -> None:
        """Takes a task out that waits."""
        if self._waiting.pop(course.ticket, None) is not None:
            self._matching.withdraw(course.ticket, course.demand)

    def released(self, peer: PeerId, demand: Demand, seconds: float | None = None) -> None:
        """A task that was placed has ended there, however it did; `decide` afterwards."""
        self._matching.released(peer, demand, seconds)

    def leave_alone(self, peer: PeerId, seconds: float) -> None:
        """Gives a peer nothing for a while."""
        self._matching.failed(peer, until=trio.current_time() + seconds)

    def decide(self) -> None:
        """Places what can be placed."""
        if not self._waiting:
            return
        if self._looked_at > -math.inf:
            for decision in self._matching.decide(trio.current_time()):
                course = self._waiting.pop(decision.ticket)
                if isinstance(decision, Placed):
                    self._place(course, decision.offer)
                else:
                    self._unplaceable(course, decision.error)
        if self._waiting and not self._watching:
            self._watching = True
            self._nursery.start_soon(self._watch)

    def _unplaceable(self, course: Course, error: NoPeerError) -> None:
        """Asks once for the newest offers before a task fails."""
        if course.asked_fresh:
            # One error may stand for many tasks, and each has its own traceback.
            self._fail(course, NoPeerError(error.message, hint=error.hint))
            return
        course.asked_fresh = self._need_fresh = True
        self._waiting[course.ticket] = course

    async def _watch(self) -> None:
        """Looks at the offers, and at the clock, while tasks wait."""
        try:
            while self._waiting:
                if self._need_fresh or trio.current_time() - self._looked_at >= REFRESH:
                    await self._refresh()
                self.decide()
                if self._waiting and not self._need_fresh:
                    await trio.sleep(self._pause())
        finally:
            self._watching = False

    async def _refresh(self) -> None:
        fresh, self._need_fresh = self._need_fresh, False
        again = [course for course in self._waiting.values() if course.asked_fresh] if fresh else []
        try:
            offers = await self._offers.offers(fresh=fresh)
            self._peers = frozenset(offer.peer.peer_id for offer in offers)
            self._matching.offers_changed(offers)
        except HivemindError as error:
            for course in list(self._waiting.values()):
                self.withdraw(course)
                self._fail(course, error)
            return
        self._looked_at = trio.current_time()
        for course in again:
            if course.ticket in self._waiting:
                self._matching.submit(course.ticket, course.demand)

    def _pause(self) -> float:
        wake_at = self._matching.wake_at
        if wake_at is None:
            return REFRESH
        return min(REFRESH, max(0.01, wake_at - trio.current_time()))
