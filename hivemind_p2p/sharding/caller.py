"""The caller's side of one generation: takes routes, listens to every stage of them, and hands on the tokens.

The decisions are `generation.GenerationState`'s and `watch.RouteWatch`'s; this shell performs them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import TypeAlias

import trio

from hivemind_p2p.errors import GenerationError, HivemindError
from hivemind_p2p.interfaces import Network, OfferBook, Payer
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding.generation import Action, Emit, Fail, Feed, Finish, GenerationState, TakeRoute
from hivemind_p2p.sharding.keeper import RouteKeeper
from hivemind_p2p.sharding.routes import Extras, Model, Patience, RouteLostError, Routes, Terms
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import Credits, PeerId

Reader: TypeAlias = Callable[[int], Awaitable[bool]]
"""Takes a token; says whether it wants more."""


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
        self._state = state
        self._scored = sampling.log_probabilities > 0
        self._keeper = RouteKeeper(Routes(network, offers, payer, model, terms, patience), patience.stall)

    @property
    def cost(self) -> Credits:
        """What was paid so far."""
        return self._keeper.cost

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
                await self._keeper.leave()
            except HivemindError as error:
                failure = error
            finally:
                await self._keeper.drop()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _drive(self, nursery: trio.Nursery, read: Reader) -> None:
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

    async def _listen(self, nursery: trio.Nursery) -> list[Action]:
        """What follows from the next thing that is heard, or from hearing nothing."""
        heard = await self._keeper.hear(nursery)
        if heard is None:
            return []
        if heard.token is None:
            return self._lost(heard.attempt, [heard.blamed or heard.peer], heard.error)
        return self._tokens(heard.attempt, heard.peer, heard.token)

    def _tokens(self, attempt: int, peer: PeerId, token: pb.Token) -> list[Action]:
        if self._scored and not len(token.log_probabilities) == len(token.likeliest) == len(token.tokens):
            return self._lost(attempt, [peer], GenerationError(f"peer {peer} sent tokens without log-probabilities"))
        actions = self._state.tokens(attempt, peer, token.position, token.tokens, trio.current_time())
        # Only of what is handed on: tokens at a wrong place, or behind the end, count for nothing.
        count = sum(isinstance(action, Emit) for action in actions)
        self.log_probabilities += token.log_probabilities[:count]
        self.likeliest += token.likeliest[:count]
        self.drafted += token.drafted
        self.guessed += len(token.tokens) - 1
        return actions

    def _lost(self, attempt: int, blamed: Collection[PeerId], error: HivemindError | None) -> list[Action]:
        return self._state.lost(attempt, blamed, self._keeper.note_loss(blamed, error), trio.current_time())

    async def _take_route(self, nursery: trio.Nursery, action: TakeRoute) -> list[Action]:
        self.attempts = action.attempt
        try:
            await self._keeper.take(nursery, action.attempt, self._avoid, self._state.text)
        except RouteLostError as lost:
            return self._lost(action.attempt, lost.peers, lost.error)
        return self._state.opened(action.attempt)

    def _avoid(self) -> frozenset[PeerId]:
        return self._state.avoid(trio.current_time())

    async def _start(self, feed: Feed) -> list[Action]:
        route = self._keeper.route
        assert route is not None
        # One row at least is computed: the next token follows from it.
        position = min(route.reusable, feed.tokens - 1)
        try:
            await route.start(position)
        except HivemindError as error:
            return self._lost(route.attempt, [route.legs[0].hop.peer], error)
        return []


__all__ = ["Extras", "GenerationRun", "Model", "Patience", "Reader"]
