"""Waits until `matching` gives a task to a peer: keeps the offers current, and wakes whoever can go on."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Final

import trio

from hivemind_p2p.errors import NoPeerError
from hivemind_p2p.interfaces import OfferBook
from hivemind_p2p.tasks.matching import Demand, Matching, Placed, Unplaceable
from hivemind_p2p.types import Offer, PeerId

REFRESH: Final = 2.0
"""Seconds after which the offers are looked at again while tasks wait: new peers get work soon."""


@dataclass
class _Waiter:
    decided: trio.Event = field(default_factory=trio.Event)
    decision: Placed | Unplaceable | None = None


class Dispatcher:
    """Shares the peers among the tasks of one caller.

    Args:
        offers: Who lends what.
    """

    def __init__(self, offers: OfferBook) -> None:
        self._offers = offers
        self._matching = Matching()
        self._waiters: dict[int, _Waiter] = {}
        self._tickets = itertools.count()
        self._looked_at = -math.inf
        # The one waiting task that also watches the clock, for all of them.
        self._watchman: int | None = None

    async def place(self, demand: Demand) -> Offer:
        """The peer for a task, once one has room. Call `release` when the task has ended there.

        Raises:
            NoPeerError: No offer fits, though the newest were asked for.
        """
        await self._refresh()
        decision = await self._wait(demand)
        if isinstance(decision, Unplaceable):
            await self._refresh(fresh=True)
            decision = await self._wait(demand)
        if isinstance(decision, Unplaceable):
            # One error may stand for many tasks, and each has its own traceback.
            raise NoPeerError(decision.error.message, hint=decision.error.hint)
        return decision.offer

    def release(self, peer: PeerId, demand: Demand) -> None:
        """A placed task has ended, however it did."""
        self._matching.released(peer, demand)
        self._decide()

    def leave_alone(self, peer: PeerId, seconds: float) -> None:
        """Gives a peer nothing for a while."""
        self._matching.failed(peer, until=trio.current_time() + seconds)

    async def _refresh(self, *, fresh: bool = False) -> None:
        now = trio.current_time()
        if not fresh and now - self._looked_at < REFRESH:
            return
        self._looked_at = now
        self._matching.offers_changed(await self._offers.offers(fresh=fresh))
        self._decide()

    async def _wait(self, demand: Demand) -> Placed | Unplaceable:
        ticket, waiter = next(self._tickets), _Waiter()
        self._waiters[ticket] = waiter
        self._matching.submit(ticket, demand)
        try:
            self._decide()
            while waiter.decision is None:
                await self._watch_or_wait(ticket, waiter)
        except BaseException:
            if isinstance(waiter.decision, Placed):
                self._matching.released(waiter.decision.offer.peer.peer_id, demand)
            raise
        finally:
            self._leave(ticket, demand)
        return waiter.decision

    async def _watch_or_wait(self, ticket: int, waiter: _Waiter) -> None:
        if self._watchman not in (None, ticket):
            await waiter.decided.wait()
            waiter.decided = trio.Event() if waiter.decision is None else waiter.decided
            return
        self._watchman = ticket
        with trio.move_on_after(self._pause()):
            await waiter.decided.wait()
        if waiter.decision is None:
            await self._refresh()
            self._decide()

    def _pause(self) -> float:
        wake_at = self._matching.wake_at
        if wake_at is None:
            return REFRESH
        return min(REFRESH, max(0.01, wake_at - trio.current_time()))

    def _leave(self, ticket: int, demand: Demand) -> None:
        del self._waiters[ticket]
        self._matching.withdraw(ticket, demand)
        if self._watchman == ticket:
            self._watchman = None
            successor = next(iter(self._waiters.values()), None)
            if successor is not None:
                successor.decided.set()
        self._decide()

    def _decide(self) -> None:
        for decision in self._matching.decide(trio.current_time()):
            waiter = self._waiters[decision.ticket]
            waiter.decision = decision
            waiter.decided.set()
