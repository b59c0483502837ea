"""The caller's side of one generation: takes routes, listens to every stage of them, and hands on the tokens.

The decisions are `generation.GenerationState`'s and `watch.RouteWatch`'s; this shell performs them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import TypeAlias

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import DeadlineExceededError, GenerationError, HivemindError, PaymentRequiredError
from hivemind_p2p.interfaces import Network, OfferBook, Payer
from hivemind_p2p.net.heartbeat import SteadyClock
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import watch
from hivemind_p2p.sharding.generation import Action, Emit, Fail, Feed, Finish, GenerationState, TakeRoute
from hivemind_p2p.sharding.legs import Heard, OpenRoute
from hivemind_p2p.sharding.routes import (
    LEAVE_DEADLINE,
    PAY_DEADLINE,
    Extras,
    Model,
    Patience,
    RouteLostError,
    Routes,
    Terms,
)
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import Credits, PeerId

MOST_UNREAD = 65536
"""What all stages may say before the reader has taken it."""

Reader: TypeAlias = Callable[[int], Awaitable[bool]]
"""Takes a token; says whether it wants more."""

_events = telemetry.source("generation")


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
        extras: What makes it faster.

    Attributes:
        log_probabilities: Of each token handed on so far, where the sampling options ask for them.
        likeliest: The likeliest tokens at each position, where asked for.
        drafted: Tokens that were guessed so far.
        guessed: Tokens of these that were right.
        attempts: Routes so far.
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
        extras: Extras | None = None,
    ) -> None:
        terms = Terms(room=state.room, sampling=sampling, ends=model.ends, extras=extras or Extras())
        self.log_probabilities: list[float] = []
        self.likeliest: list[pb.Likeliest] = []
        self.drafted = self.guessed = self.attempts = 0
        self._routes = Routes(network, offers, payer, model, terms, patience)
        self._state = state
        self._patience = patience
        self._route: OpenRoute | None = None
        self._watch: watch.RouteWatch | None = None
        self._clock = SteadyClock(0.0)
        self._send, self._heard = trio.open_memory_channel[Heard](MOST_UNREAD)
        self._reason: HivemindError | None = None

    @property
    def cost(self) -> Credits:
        """What was paid so far."""
        return self._routes.cost

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
                await self._routes.settled()
            except HivemindError as error:
                failure = error
            finally:
                with trio.CancelScope(deadline=trio.current_time() + LEAVE_DEADLINE, shield=True):
                    await self._leave(LEAVE_DEADLINE)
            self._routes.close()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _drive(self, nursery: trio.Nursery, read: Reader) -> None:
        self._clock = SteadyClock(trio.current_time())
        actions: deque[Action] = deque(self._state.start(trio.current_time()))
        while True:
            if not actions:
                actions.extend(await self._listen(nursery))
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
                actions.extend(await self._start(action))

    # -- what is heard

    async def _listen(self, nursery: trio.Nursery) -> list[Action]:
        """What follows from the next thing that is heard, or from hearing nothing."""
        with trio.move_on_after(watch.TICK) as scope:
            heard = await self._heard.receive()
        now = self._clock.read(trio.current_time())
        if scope.cancelled_caught:
            return self._look(nursery, now)
        if heard.attempt != self._state.attempt:
            return []
        if heard.health is not None and self._watch is not None:
            self._watch.answered(heard.index, heard.health)
            return self._look(nursery, now)
        if heard.token is not None:
            return self._take_token(heard, heard.token, now)
        return self._lost(heard.attempt, [heard.blamed or heard.peer], heard.error)

    def _take_token(self, heard: Heard, token: pb.Token, now: float) -> list[Action]:
        if self._watch is not None:
            self._watch.token(now)
        self.log_probabilities += token.log_probabilities
        self.likeliest += token.likeliest
        self.drafted += token.drafted
        self.guessed += len(token.tokens) - 1
        return self._state.tokens(heard.attempt, heard.peer, token.position, token.tokens, trio.current_time())

    def _look(self, nursery: trio.Nursery, now: float) -> list[Action]:
        """Whether the route still works."""
        if self._route is None or self._watch is None:
            return []
        if blamed := self._watch.to_blame(now):
            silent = DeadlineExceededError(f"peer {', '.join(sorted(blamed))} has fallen silent")
            return self._lost(self._route.attempt, blamed, silent)
        if self._watch.due(now):
            for leg in self._route.legs:
                nursery.start_soon(leg.ask)
        return []

    def _lost(self, attempt: int, blamed: Collection[PeerId], error: HivemindError | None) -> list[Action]:
        error = error or GenerationError("a route was lost")
        if isinstance(error, PaymentRequiredError) and not self._routes.pays:
            raise error
        actions = self._state.lost(attempt, blamed, error, trio.current_time())
        if actions:
            self._reason = error
            _events.warning("route_lost", peers=sorted(blamed), reason=error.message)
        return actions

    # -- routes

    async def _take_route(self, nursery: trio.Nursery, action: TakeRoute) -> list[Action]:
        self.attempts = action.attempt
        if self._route is not None:
            for leg in self._route.legs:
                leg.lost = leg.lost or leg.hop.peer in action.avoid
            nursery.start_soon(self._routes.leave, self._route, PAY_DEADLINE)
            self._route = self._watch = None
        chosen = await self._routes.choose(nursery, self._avoid, self._reason)
        try:
            self._route = await self._routes.open(action.attempt, chosen, self._state.text)
        except RouteLostError as lost:
            return self._lost(action.attempt, lost.peers, lost.error)
        for leg in self._route.legs:
            nursery.start_soon(leg.listen, action.attempt, self._send)
        peers = [leg.hop.peer for leg in self._route.legs]
        now = self._clock.read(trio.current_time())
        self._watch = watch.RouteWatch(peers, now, self._patience.stall)
        return self._state.opened(action.attempt)

    def _avoid(self) -> frozenset[PeerId]:
        return self._state.avoid(trio.current_time())

    async def _start(self, feed: Feed) -> list[Action]:
        assert self._route is not None
        # One row at least is computed: the next token follows from it.
        position = min(self._route.reusable, feed.tokens - 1)
        try:
            await self._route.start(position)
        except HivemindError as error:
            return self._lost(self._route.attempt, [self._route.legs[0].hop.peer], error)
        return []

    async def _leave(self, deadline: float) -> None:
        """Ends the current route, if there is one, and pays it."""
        if self._route is not None:
            leaving, self._route = self._route, None
            await self._routes.leave(leaving, deadline)


__all__ = ["Extras", "GenerationRun", "Model", "Patience", "Reader"]
