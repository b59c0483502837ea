"""The caller's side of one generation: opens routes, feeds them, listens to every stage, and pays.

The decisions are `generation.GenerationState`'s; this shell performs them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import (
    DeadlineExceededError,
    GenerationError,
    HivemindError,
    MissingLayersError,
    NetworkError,
    PaymentRequiredError,
)
from hivemind_p2p.interfaces import Network, OfferBook, Payer
from hivemind_p2p.sharding import route, wire
from hivemind_p2p.sharding.asking import HostAsker
from hivemind_p2p.sharding.generation import (
    Action,
    Emit,
    Fail,
    Feed,
    Finish,
    GenerationState,
    TakeRoute,
    blame,
)
from hivemind_p2p.sharding.legs import Heard, Leg, OpenRoute
from hivemind_p2p.sharding.route import Hop, Route
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import Credits, Link, PeerId

OPEN_DEADLINE = 5.0
"""Seconds for dialling a stage: shorter than for anything else, because a reader waits and other routes may be free."""

PAY_DEADLINE = 5.0
"""Seconds for bill and payment at the end."""

LEAVE_DEADLINE = 2.0
"""Seconds for the same when the reader has left (Ctrl-C)."""

LOOK_SECONDS = 0.25
"""How often offers are looked at while layers lack a host."""

Reader: TypeAlias = Callable[[int], Awaitable[bool]]
"""Takes a token; says whether it wants more."""

_events = telemetry.source("generation")


@dataclass(frozen=True, slots=True)
class Model:
    """What a generation has to know of its model.

    Attributes:
        context: The longest text in tokens.
        ends: Token ids that end a text.
    """

    link: Link
    layer_count: int
    context: int
    ends: frozenset[int]


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a generation waits.

    Args:
        stall: For a token, before the stages are asked whether they live.
        wait_for_hosts: For a host of layers that lack one.
    """

    stall: float = 10.0
    wait_for_hosts: float = 30.0


class _RouteLostError(Exception):
    """A route could not be opened."""

    def __init__(self, peers: frozenset[PeerId], error: HivemindError) -> None:
        super().__init__(error.message)
        self.peers = peers
        self.error = error


class GenerationRun:
    """One generation, from its first route to its last token.

    Args:
        network: Opens the conversations.
        offers: Where stages are found.
        payer: Pays them; None in a hive without payment.
        model: What is run.
        state: Prompt and limits; holds the text.
        sampling: How tokens are chosen.
        patience: What is waited for, and how long.

    Attributes:
        cost: What was paid so far.
    """

    def __init__(
        self,
        network: Network,
        offers: OfferBook,
        payer: Payer | None,
        model: Model,
        state: GenerationState,
        sampling: SamplingOptions,
        patience: Patience,
    ) -> None:
        self.cost = Credits(0)
        self._network = network
        self._offers = offers
        self._payer = payer
        self._model = model
        self._state = state
        self._sampling = sampling
        self._patience = patience
        self._asker = HostAsker(network, model.link)
        self._route: OpenRoute | None = None
        self._send, self._heard = trio.open_memory_channel[Heard](float("inf"))
        self._reason: HivemindError | None = None
        self._settling: list[trio.Event] = []

    async def run(self, read: Reader) -> None:
        """Hands each token to `read` as it comes, until the text ends or the reader wants no more.

        Raises:
            MissingLayersError: Layers have no host, and none came in time.
            GenerationError: It failed on one route after another.
            CreditError: It cannot be paid.
            BootstrapUnreachableError: It cannot be paid now.
        """
        failure: HivemindError | None = None
        async with trio.open_nursery() as nursery:
            try:
                await self._drive(nursery, read)
                await self._leave(PAY_DEADLINE)
                await self._settled()
            except HivemindError as error:
                failure = error
            finally:
                with trio.CancelScope(deadline=trio.current_time() + LEAVE_DEADLINE, shield=True):
                    await self._leave(LEAVE_DEADLINE)
            self._asker.close()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _drive(self, nursery: trio.Nursery, read: Reader) -> None:
        actions: deque[Action] = deque(self._state.start(trio.current_time()))
        while True:
            if not actions:
                actions.extend(await self._listen())
                continue
            action = actions.popleft()
            if isinstance(action, Finish):
                return
            if isinstance(action, Fail):
                raise action.error
            if isinstance(action, Emit):
                if not await read(action.token):
                    return
            elif isinstance(action, TakeRoute):
                actions.extend(await self._take_route(nursery, action))
            else:
                actions.extend(await self._feed(action))

    async def _listen(self) -> list[Action]:
        """What follows from the next thing that is heard, or from hearing nothing."""
        with trio.move_on_after(self._patience.stall) as scope:
            heard = await self._heard.receive()
        if scope.cancelled_caught:
            return await self._look_for_stall()
        if heard.token is None:
            return self._lost(heard.attempt, [heard.blamed or heard.peer], heard.error)
        token = heard.token
        return self._state.token(heard.attempt, heard.peer, token.position, token.token, trio.current_time())

    async def _look_for_stall(self) -> list[Action]:
        assert self._route is not None
        blamed = blame(await self._route.health())
        if not blamed or self._heard.statistics().current_buffer_used:
            return []
        stalled = DeadlineExceededError(f"peer {', '.join(sorted(blamed))} sent nothing for {self._patience.stall:g} s")
        return self._lost(self._route.attempt, blamed, stalled)

    def _lost(self, attempt: int, blamed: Collection[PeerId], error: HivemindError | None) -> list[Action]:
        error = error or GenerationError("a route was lost")
        if isinstance(error, PaymentRequiredError) and self._payer is None:
            raise error
        actions = self._state.lost(attempt, blamed, error, trio.current_time())
        if actions:
            self._reason = error
            _events.warning("route_lost", peers=sorted(blamed), reason=error.message)
        return actions

    async def _feed(self, feed: Feed) -> list[Action]:
        assert self._route is not None
        try:
            await self._route.feed(feed.tokens)
        except HivemindError as error:
            return self._lost(self._route.attempt, [self._route.legs[0].hop.peer], error)
        return []

    # -- routes

    async def _take_route(self, nursery: trio.Nursery, action: TakeRoute) -> list[Action]:
        if self._route is not None:
            for leg in self._route.legs:
                leg.lost = leg.lost or leg.hop.peer in action.avoid
            nursery.start_soon(self._settle, self._route, PAY_DEADLINE)
            self._route = None
        chosen = await self._choose(nursery, fresh=action.attempt > 1)
        try:
            self._route = await self._open(action.attempt, chosen)
        except _RouteLostError as lost:
            return self._lost(action.attempt, lost.peers, lost.error)
        for leg in self._route.legs:
            nursery.start_soon(leg.listen, action.attempt, self._send)
        return self._state.opened(action.attempt)

    async def _choose(self, nursery: trio.Nursery, *, fresh: bool) -> Route:
        """A route, waited for if layers lack a host."""
        deadline = trio.current_time() + self._patience.wait_for_hosts
        while True:
            offers = await self._offers.offers(fresh=fresh)
            avoid = self._state.avoid(trio.current_time())
            try:
                return route.choose(offers, self._model.link, self._model.layer_count, avoid)
            except MissingLayersError as missing:
                if not fresh:
                    fresh = True
                    continue
                if trio.current_time() >= deadline:
                    raise self._explained(missing) from self._reason
            self._asker.ask(nursery, offers, lost=avoid)
            await trio.sleep(LOOK_SECONDS)

    def _explained(self, missing: MissingLayersError) -> HivemindError:
        waited = f"{missing.message}, and none came within {self._patience.wait_for_hosts:g} s"
        if self._reason is None:
            return MissingLayersError(waited, hint=missing.hint)
        if isinstance(self._reason, NetworkError):
            return MissingLayersError(f"{waited}; the last route was lost because {self._reason.message}")
        # The hosts are there, but what they do fails.
        return GenerationError(f"{self._reason.message}; no other route is left", hint=self._reason.hint)

    async def _open(self, attempt: int, chosen: Route) -> OpenRoute:
        """Opens the generation on every stage at once.

        Raises:
            _RouteLostError: Some refused or did not answer; the others are let go.
            HivemindError: This peer cannot pay them: no route would help.
        """
        generation_id = os.urandom(wire.GENERATION_ID_BYTES)
        opened: dict[int, Leg] = {}
        failed: dict[PeerId, HivemindError] = {}
        unpaid: list[HivemindError] = []

        async def open_leg(index: int) -> None:
            hop = chosen.hops[index]
            try:
                payment = await self._authorise(hop)
            except HivemindError as error:
                unpaid.append(error)
                return
            request = self._request(chosen, index, generation_id, payment)
            try:
                channel = await self._network.open(hop.peer, wire.PROTOCOL, deadline=OPEN_DEADLINE)
                opened[index] = Leg(hop, channel, request, self._payer, self._limit(hop))
                await opened[index].open()
            except HivemindError as error:
                failed[hop.peer] = error
                if self._payer is not None and index not in opened:
                    self._payer.release(hop.peer, self._limit(hop))

        try:
            async with trio.open_nursery() as nursery:
                for index in range(len(chosen.hops)):
                    nursery.start_soon(open_leg, index)
            if unpaid:
                raise unpaid[0]
            if failed:
                raise _RouteLostError(frozenset(failed), next(iter(failed.values())))
        except BaseException:
            for leg in opened.values():
                await leg.close()
            raise
        return OpenRoute(attempt, [opened[index] for index in range(len(chosen.hops))])

    def _request(self, chosen: Route, index: int, generation_id: bytes, payment: bytes) -> wire.OpenRequest:
        hops = chosen.hops
        return wire.OpenRequest(
            generation_id=generation_id,
            link=self._model.link,
            span=hops[index].span,
            index=index,
            stages=len(hops),
            previous=hops[index - 1].peer,
            next=hops[(index + 1) % len(hops)].peer,
            room=self._state.room,
            sampling=self._sampling,
            ends=self._model.ends,
            payment=payment,
        )

    def _limit(self, hop: Hop) -> Credits:
        return Credits(len(hop.span) * self._state.room * hop.prices.per_layer_token)

    async def _authorise(self, hop: Hop) -> bytes:
        return b"" if self._payer is None else await self._payer.authorise(hop.peer, self._limit(hop))

    # -- the end

    async def _leave(self, deadline: float) -> None:
        """Ends the current route, if there is one, and pays it."""
        if self._route is not None:
            leaving, self._route = self._route, None
            await self._settle(leaving, deadline)

    async def _settle(self, leaving: OpenRoute, deadline: float) -> None:
        """Ends a route: stages that are still there are paid, the others' conversations closed."""
        done = trio.Event()
        self._settling.append(done)
        try:
            with trio.move_on_after(deadline):
                async with trio.open_nursery() as nursery:
                    for leg in leaving.legs:
                        if not leg.lost:
                            nursery.start_soon(self._pay, leg)
        finally:
            for leg in leaving.legs:
                await leg.close()
            done.set()

    async def _settled(self) -> None:
        """Waits until routes that were lost are settled as well; each takes `PAY_DEADLINE` at most."""
        for done in self._settling:
            await done.wait()

    async def _pay(self, leg: Leg) -> None:
        try:
            cost = await leg.settle()
            self.cost = Credits(self.cost + cost)
        except HivemindError as error:
            _events.warning("not_settled", peer=leg.hop.peer, reason=error.message)


__all__ = ["GenerationRun", "Model", "Patience", "Reader"]
