"""Gives tasks to peers: keeps the offers current for `matching`, and asks it whenever something has changed."""

from __future__ import annotations

import math
import weakref
from collections.abc import Hashable
from typing import Final, Protocol

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import BusyError, HivemindError, NetworkError, NoPeerError
from hivemind_p2p.interfaces import OfferBook, Reputation
from hivemind_p2p.tasks.course import Course
from hivemind_p2p.tasks.matching import AskBack, Copy, Decision, Matching, Placed
from hivemind_p2p.tasks.standing import Data
from hivemind_p2p.types import Offer, PeerId

REFRESH: Final = 2.0
"""Seconds after which the offers are looked at again while tasks wait: new peers get work soon."""

ASK_REPUTATION: Final = 60.0
"""Seconds after which the bootstrap is asked again what is complained of peers, while there are tasks."""

PATIENCE: Final = 30.0
"""Seconds that a task waits for a peer where there was one for it, or for one like it, a moment ago: so long a restart
takes on a busy machine, or another peer in coming."""

_events = telemetry.source("tasks")

LARGE_PART: Final = 64 << 10
"""Bytes from which it matters where a shared part lies already."""


class Placer(Protocol):
    """Who does what was decided; `tasks.client.TaskClient` is it."""

    def place(self, course: Course, offer: Offer) -> None:
        """Gives a task to a peer."""

    def ask_back(self, course: Course) -> None:
        """Asks a task back from its peer, unless it has begun there."""

    def copy(self, course: Course) -> Course:
        """Makes a second copy of a task, to be placed."""

    def fail(self, course: Course, error: HivemindError) -> None:
        """Ends a task for which there is no peer."""

    def round_trip(self, peer: PeerId) -> float | None:
        """Seconds to a peer and back, where that was measured."""


class Dispatcher:
    """Shares the peers among the tasks of one caller.

    Args:
        offers: Who lends what.
        nursery: Where looking at offers goes on.
        placer: Does what was decided.
        reputation: Knows what is complained of peers; None where nobody does.
    """

    def __init__(
        self, offers: OfferBook, nursery: trio.Nursery, placer: Placer, reputation: Reputation | None = None
    ) -> None:
        self._reputation = reputation
        self._asked_at = -math.inf
        self._offers = offers
        self._nursery = nursery
        self._placer = placer
        self._matching = Matching()
        self._peers: frozenset[PeerId] = frozenset()
        self._waiting: dict[int, Course] = {}
        self._placed: dict[int, Course] = {}
        self._aside: dict[int, Course] = {}
        self._looked_at = -math.inf
        self._watching = False
        self._need_fresh = False
        self._news = trio.Event()
        self._sleeps_until = -math.inf

    @property
    def peers(self) -> frozenset[PeerId]:
        """Who offers something, as far as that is known."""
        return self._peers

    def submit(self, course: Course) -> None:
        """Puts a task into its line; `decide` afterwards."""
        self._waiting[course.ticket] = course
        family, data = _kind(course)
        self._matching.submit(course.ticket, course.demand, family, data)

    def withdraw(self, course: Course) -> None:
        """Takes a task out that waits."""
        if self._waiting.pop(course.ticket, None) is not None and self._aside.pop(course.ticket, None) is None:
            self._matching.withdraw(course.ticket, course.demand)

    def began(self, course: Course) -> None:
        """A task runs, says its peer."""
        self._matching.began(course.ticket, trio.current_time())

    def released(self, course: Course, seconds: float | None = None) -> None:
        """A task that was placed has left its peer, however it ended; `decide` afterwards."""
        self._placed.pop(course.ticket, None)
        self._matching.released(course.ticket, trio.current_time(), seconds)

    def lost(self, peer: PeerId) -> int:
        """A peer has lost what it had; how often one after the other."""
        self._matching.lost(peer)
        return self._matching.streak(peer)

    def leave_alone(self, peer: PeerId, seconds: float) -> None:
        """Gives a peer nothing for a while."""
        self._matching.leave_alone(peer, until=trio.current_time() + seconds)

    def decide(self) -> None:
        """Does what can be done now."""
        now = trio.current_time()
        if self._looked_at > -math.inf and (self._waiting or self._placed):
            for decision in self._matching.decide(now):
                self._do(decision, now)
        if self._watching:
            self._hurry(now)
        elif self._wants_to_watch(now):
            self._watching = True
            self._nursery.start_soon(self._watch)

    def _do(self, decision: Decision, now: float) -> None:
        if isinstance(decision, Placed):
            course = self._waiting.pop(decision.ticket)
            self._placed[decision.ticket] = course
            course.demand.placed_at = now
            self._placer.place(course, decision.offer)
        elif isinstance(decision, AskBack):
            self._placer.ask_back(self._placed[decision.ticket])
        elif isinstance(decision, Copy):
            copy = self._placer.copy(self._placed[decision.ticket])
            self._placed[copy.ticket] = copy
            self._matching.copied(decision.ticket, copy.ticket, decision.offer.peer.peer_id, now)
            self._placer.place(copy, decision.offer)
        else:
            self._unplaceable(self._waiting.pop(decision.ticket), decision.error, now)

    def _unplaceable(self, course: Course, error: NoPeerError, now: float) -> None:
        """Asks for the newest offers before a task fails: once, or for a while where a peer had it already."""
        if course.asked_fresh and not self._is_patient(course, now):
            # One error may stand for many tasks, and each has its own traceback.
            self._placer.fail(course, NoPeerError(error.message, hint=error.hint))
            return
        if not course.asked_fresh:
            course.asked_fresh = self._need_fresh = True
        self._waiting[course.ticket] = self._aside[course.ticket] = course

    def _is_patient(self, course: Course, now: float) -> bool:
        tried = isinstance(course.last, BusyError | NetworkError)
        if not (tried or now - course.demand.placed_at < PATIENCE or course.patient_until):
            return False
        course.patient_until = course.patient_until or now + PATIENCE
        return now < course.patient_until

    def _hurry(self, now: float) -> None:
        """Wakes what watches where it sleeps for too long."""
        wake_at = self._matching.wake_at(now)
        if wake_at is not None and wake_at < self._sleeps_until:
            self._news.set()

    def _wants_to_watch(self, now: float) -> bool:
        return bool(self._waiting) or self._matching.wake_at(now) is not None

    async def _watch(self) -> None:
        """Looks at the offers, and at the clock, while tasks wait or idle peers may help."""
        try:
            while self._wants_to_watch(trio.current_time()):
                if self._waiting and (self._need_fresh or trio.current_time() - self._looked_at >= REFRESH):
                    await self._refresh()
                self.decide()
                if not self._need_fresh:
                    await self._sleep()
        finally:
            self._watching = False

    async def _refresh(self) -> None:
        again, self._aside = self._aside, {}
        self._need_fresh = False
        try:
            offers = await self._offers.offers(fresh=bool(again))
        except HivemindError as error:
            for course in list(self._waiting.values()):
                self.withdraw(course)
                self._placer.fail(course, error)
            return
        self._peers = frozenset(offer.peer.peer_id for offer in offers)
        self._matching.offers_changed(offers)
        for peer in self._peers:
            if (round_trip := self._placer.round_trip(peer)) is not None:
                self._matching.set_round_trip(peer, round_trip)
        self._looked_at = trio.current_time()
        if self._reputation is not None and self._looked_at - self._asked_at >= ASK_REPUTATION:
            self._asked_at = self._looked_at
            self._nursery.start_soon(self._ask_reputation, self._reputation)
        for course in again.values():
            if course.ticket in self._waiting:
                self.submit(course)

    async def _ask_reputation(self, reputation: Reputation) -> None:
        """Learns what others complain of; tasks go on meanwhile, and also where nobody answers."""
        peers = sorted(self._peers)
        try:
            complaints = await reputation.complaints_about(peers)
        except HivemindError as error:
            _events.info("reputation_unknown", reason=error.message)
            return
        for peer in peers:
            self._matching.set_complaints(peer, complaints.get(peer, 0))

    async def _sleep(self) -> None:
        now = trio.current_time()
        wake_at = self._matching.wake_at(now)
        pause = REFRESH if wake_at is None else min(REFRESH, max(0.01, wake_at - now))
        self._sleeps_until = now + pause
        self._news = trio.Event()
        with trio.move_on_after(pause):
            await self._news.wait()
        self._sleeps_until = -math.inf


def _kind(course: Course) -> tuple[Hashable, Data]:
    """What tasks of its like have in common, and what its peer has to be sent besides it."""
    spec = course.spec
    data: Data = tuple((each.link, each.length) for each in spec.inputs) if spec.inputs else ()
    if spec.shared is None:
        return spec.task_type, data
    family = weakref.ref(spec.shared)
    size = len(spec.shared.data)
    return family, (*data, (family, size)) if size >= LARGE_PART else data
