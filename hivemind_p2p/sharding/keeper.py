"""Keeps the route of one generation: takes it, listens to all its stages, notices when it is lost, leaves and pays it.

What is computed over the route is the business of who uses it: `caller.py` for tokens, `rows.py` for rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import DeadlineExceededError, GenerationError, HivemindError, PaymentRequiredError
from hivemind_p2p.net.heartbeat import SteadyClock
from hivemind_p2p.sharding import watch
from hivemind_p2p.sharding.legs import Heard, OpenRoute
from hivemind_p2p.sharding.routes import LEAVE_DEADLINE, PAY_DEADLINE, RouteLostError, Routes
from hivemind_p2p.types import Credits, PeerId

MOST_UNREAD = 65536
"""What all stages may say before the reader has taken it."""

_events = telemetry.source("generation")


class RouteKeeper:
    """The route that a generation is on.

    Args:
        routes: Chooses, opens and pays them.
        ask_after: Seconds without a word of the last stage after which all stages are asked how they are.

    Attributes:
        route: The one that is open.
        reason: Why the last one was lost.
    """

    def __init__(self, routes: Routes, ask_after: float) -> None:
        self.route: OpenRoute | None = None
        self.reason: HivemindError | None = None
        self._routes = routes
        self._ask_after = ask_after
        self._attempt = 0
        self._watch: watch.RouteWatch | None = None
        self._clock = SteadyClock(0.0)
        self._send, self._heard = trio.open_memory_channel[Heard](MOST_UNREAD)

    @property
    def cost(self) -> Credits:
        """What was paid so far."""
        return self._routes.cost

    async def take(
        self, nursery: trio.Nursery, attempt: int, avoid: Callable[[], Collection[PeerId]], text: Sequence[int]
    ) -> None:
        """Leaves the route that there is, and opens another one.

        Args:
            nursery: Where its stages are listened to.
            attempt: Which route it is.
            avoid: Who is kept out now.
            text: The tokens so far.

        Raises:
            RouteLostError: It could not be opened.
            HivemindError: There is none, or it cannot be paid.
        """
        if self.route is not None:
            for leg in self.route.legs:
                leg.lost = leg.lost or leg.hop.peer in avoid()
            nursery.start_soon(self._routes.leave, self.route, PAY_DEADLINE)
            self.route = self._watch = None
        if not self._attempt:
            self._clock = SteadyClock(trio.current_time())
        self._attempt = attempt
        chosen = await self._routes.choose(nursery, avoid, self.reason)
        self.route = await self._routes.open(attempt, chosen, text)
        for leg in self.route.legs:
            nursery.start_soon(leg.listen, attempt, self._send)
        self.worked()

    def worked(self) -> None:
        """The route has done, or is given, something: from now on it has its time anew."""
        if self.route is not None:
            peers = [leg.hop.peer for leg in self.route.legs]
            self._watch = watch.RouteWatch(peers, self._clock.read(trio.current_time()), self._ask_after)

    async def hear(self, nursery: trio.Nursery) -> Heard | None:
        """The next tokens or rows, or the loss of the route; None where it is quiet so far, or nothing new."""
        with trio.move_on_after(watch.TICK) as scope:
            heard = await self._heard.receive()
        now = self._clock.read(trio.current_time())
        if scope.cancelled_caught:
            return self._look(nursery, now)
        if heard.taken is not None:
            heard.taken()
        if heard.attempt != self._attempt or self._watch is None:
            return None
        if heard.health is not None:
            self._watch.answered(heard.index, heard.health)
            return self._look(nursery, now)
        if heard.error is None:
            self._watch.token(now)
        return heard

    def _look(self, nursery: trio.Nursery, now: float) -> Heard | None:
        """Whether the route still works."""
        if self.route is None or self._watch is None:
            return None
        for index, peer in enumerate(leg.hop.peer for leg in self.route.legs):
            if peer in self._watch.to_blame(now):
                silent = DeadlineExceededError(f"peer {peer} has fallen silent")
                return Heard(self._attempt, index, peer, blamed=peer, error=silent)
        if self._watch.due(now):
            for leg in self.route.legs:
                nursery.start_soon(leg.ask)
        return None

    def note_loss(self, blamed: Collection[PeerId], error: HivemindError | None) -> HivemindError:
        """Keeps in mind why a route was lost, for who asks why there is no other one.

        Raises:
            PaymentRequiredError: This peer does not pay: no other route would do it for nothing.
        """
        error = error or GenerationError("a route was lost")
        if isinstance(error, PaymentRequiredError) and not self._routes.pays:
            raise error
        self.reason = error
        _events.warning("route_lost", peers=sorted(blamed), reason=error.message)
        return error

    async def leave(self) -> None:
        """Ends the route in good order, and waits until those that were lost are settled as well."""
        await self._leave(PAY_DEADLINE)
        await self._routes.settled()

    async def drop(self) -> None:
        """Ends the route, however this task is being ended; does not take long."""
        with trio.CancelScope(deadline=trio.current_time() + LEAVE_DEADLINE, shield=True):
            await self._leave(LEAVE_DEADLINE)
        self._routes.close()

    async def _leave(self, deadline: float) -> None:
        if self.route is not None:
            leaving, self.route = self.route, None
            await self._routes.leave(leaving, deadline)


__all__ = ["RouteKeeper", "RouteLostError"]
