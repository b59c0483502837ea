"""Routes of one generation: chosen, waited for, opened, left and paid. What runs over them is others' business."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import (
    DeadlineExceededError,
    GenerationError,
    HivemindError,
    MissingLayersError,
    NetworkError,
)
from hivemind_p2p.interfaces import Network, OfferBook, Payer
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import requests, route, wire
from hivemind_p2p.sharding.asking import HostAsker
from hivemind_p2p.sharding.legs import Leg, OpenRoute
from hivemind_p2p.sharding.route import Hop, Route
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import Credits, Link, PeerId

OPEN_DEADLINE = 10.0
"""Seconds for dialling a stage and for its answer, which may have to wait for the step that it computes."""

REOPEN_DEADLINE = 3.0
"""Seconds for the same while a reader waits in mid-text: another route may be free."""

PAY_DEADLINE = 5.0
"""Seconds for bill and payment at the end."""

LEAVE_DEADLINE = 2.0
"""Seconds for the same when the reader has left (Ctrl-C)."""

LOOK_SECONDS = 0.25
"""How often offers are looked at while layers lack a host."""

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
        stall: For a token, before the stages are asked how they are.
        wait_for_hosts: For a host of layers that lack one.
    """

    stall: float = 0.5
    wait_for_hosts: float = 30.0


@dataclass(frozen=True, slots=True)
class Extras:
    """What makes a generation faster.

    Args:
        drafts: Tokens that the first stage guesses ahead in a step at the most. The text is the same with and without.
        draft_model: Link of a small model that guesses; empty: the text's own past is looked up.
        activations: How hidden states travel: one of `quantise.ENCODINGS`; empty for the stages' own dtype.
    """

    drafts: int = 0
    draft_model: str = ""
    activations: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a generation asks of every stage.

    Attributes:
        room: Tokens that the text may come to.
        sampling: How tokens are chosen.
        ends: Token ids that end the text.
        mode: Who chooses tokens, and what the caller gets.
        extras: What makes it faster.
        budget: Tokens that may be computed in all; 0 for as many as the room.
    """

    room: int
    sampling: SamplingOptions
    ends: frozenset[int] = frozenset()
    mode: pb.Mode = pb.TOKENS
    extras: Extras = Extras()
    budget: int = 0


class RouteLostError(Exception):
    """A route could not be opened.

    Attributes:
        peers: Who is to blame.
        error: Why.
    """

    def __init__(self, peers: frozenset[PeerId], error: HivemindError) -> None:
        super().__init__(error.message)
        self.peers = peers
        self.error = error


def draw() -> bytes:
    """What decides between peers that are as good, other for each generation."""
    return os.urandom(8)


class Routes:
    """The routes of one generation, one after the other.

    Args:
        network: Opens the conversations.
        offers: Where stages are found.
        payer: Pays them; None in a hive without payment.
        model: What is run.
        terms: What is asked of every stage.
        patience: What is waited for, and how long.

    Attributes:
        cost: What was paid so far.
        mode: Who chooses tokens, and what the caller gets.
    """

    def __init__(
        self,
        network: Network,
        offers: OfferBook,
        payer: Payer | None,
        model: Model,
        terms: Terms,
        patience: Patience,
    ) -> None:
        self.cost = Credits(0)
        self.pays = payer is not None
        self.mode = terms.mode
        self._network = network
        self._offers = offers
        self._payer = payer
        self._model = model
        self._terms = terms
        self._patience = patience
        self._chance = draw()
        self._asker = HostAsker(network, model.link)
        self._settling: list[trio.Event] = []

    async def choose(
        self, nursery: trio.Nursery, avoid: Callable[[], Collection[PeerId]], reason: HivemindError | None
    ) -> Route:
        """A route without the peers to avoid, waited for if layers lack a host.

        Args:
            nursery: Where peers are asked to host.
            avoid: Who is kept out now.
            reason: Why the last route was lost, if there was one.

        Raises:
            MissingLayersError: Layers have no host, and none came in time.
            GenerationError: They have, but what the hosts do fails.
        """
        deadline = trio.current_time() + self._patience.wait_for_hosts
        fresh = False  # what is known already is quicker, and a peer that is gone shows when it is opened
        while True:
            offers = await self._offers.offers(fresh=fresh)
            avoided = avoid()
            try:
                return route.choose(offers, self._model.link, self._model.layer_count, avoided, chance=self._chance)
            except MissingLayersError as missing:
                if not fresh:
                    fresh = True
                    continue
                if trio.current_time() >= deadline:
                    raise self._explained(missing, reason) from reason
            self._asker.ask(nursery, offers, lost=avoided)
            await trio.sleep(LOOK_SECONDS)

    def _explained(self, missing: MissingLayersError, reason: HivemindError | None) -> HivemindError:
        waited = f"{missing.message}, and none came within {self._patience.wait_for_hosts:g} s"
        if reason is None:
            return MissingLayersError(waited, hint=missing.hint)
        if isinstance(reason, NetworkError):
            return MissingLayersError(f"{waited}; the last route was lost because {reason.message}")
        # The hosts are there, but what they do fails.
        return GenerationError(f"{reason.message}; no other route is left", hint=reason.hint)

    async def open(self, attempt: int, chosen: Route, text: Sequence[int]) -> OpenRoute:
        """Opens the generation on every stage at once.

        Args:
            attempt: Which route it is.
            chosen: The stages.
            text: The tokens so far.

        Raises:
            RouteLostError: Some refused or did not answer; the others are let go.
            HivemindError: This peer cannot pay them: no route would help.
        """
        opening = _Opening(os.urandom(requests.GENERATION_ID_BYTES))
        deadline = OPEN_DEADLINE if attempt == 1 else REOPEN_DEADLINE
        try:
            async with trio.open_nursery() as nursery:
                for index in range(len(chosen.hops)):
                    nursery.start_soon(self._open_leg, opening, chosen, index, text, deadline)
            if opening.unpaid:
                raise opening.unpaid[0]
            if opening.failed:
                raise RouteLostError(frozenset(opening.failed), next(iter(opening.failed.values())))
        except BaseException:
            for leg in opening.legs.values():
                await leg.close()
            raise
        return OpenRoute(attempt, [opening.legs[index] for index in range(len(chosen.hops))])

    async def _open_leg(
        self, opening: _Opening, chosen: Route, index: int, text: Sequence[int], deadline: float
    ) -> None:
        hop = chosen.hops[index]
        limit = self._limit(hop)
        try:
            payment = b"" if self._payer is None else await self._payer.authorise(hop.peer, limit)
        except HivemindError as error:
            opening.unpaid.append(error)
            return
        request = self._request(chosen, index, opening.generation_id, payment, text)
        try:
            with trio.fail_after(deadline):
                channel = await self._network.open(hop.peer, wire.PROTOCOL, deadline=deadline)
                opening.legs[index] = Leg(hop, channel, request, self._payer, limit)
                await opening.legs[index].open()
        except trio.TooSlowError:
            opening.failed[hop.peer] = DeadlineExceededError(f"peer {hop.peer} opened nothing within {deadline:g} s")
        except HivemindError as error:
            opening.failed[hop.peer] = error
        if hop.peer in opening.failed and self._payer is not None and index not in opening.legs:
            self._payer.release(hop.peer, limit)

    def _request(
        self, chosen: Route, index: int, generation_id: bytes, payment: bytes, text: Sequence[int]
    ) -> requests.OpenRequest:
        hops, terms = chosen.hops, self._terms
        return requests.OpenRequest(
            generation_id=generation_id,
            link=self._model.link,
            span=hops[index].span,
            index=index,
            stages=len(hops),
            previous=hops[index - 1].peer,
            next=hops[(index + 1) % len(hops)].peer,
            room=terms.room,
            sampling=terms.sampling,
            ends=terms.ends,
            payment=payment,
            mode=terms.mode,
            activations=terms.extras.activations,
            drafts=terms.extras.drafts,
            draft_model=terms.extras.draft_model,
            budget=terms.budget,
            text=text,
        )

    def _limit(self, hop: Hop) -> Credits:
        return Credits(len(hop.span) * (self._terms.budget or self._terms.room) * hop.prices.per_layer_token)

    # -- the end

    async def leave(self, leaving: OpenRoute, deadline: float) -> None:
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

    async def settled(self) -> None:
        """Waits until routes that were lost are settled as well; each takes `PAY_DEADLINE` at most."""
        for done in self._settling:
            await done.wait()

    def close(self) -> None:
        """Asks nobody to host any more."""
        self._asker.close()

    async def _pay(self, leg: Leg) -> None:
        try:
            cost = await leg.settle()
            self.cost = Credits(self.cost + cost)
        except HivemindError as error:
            _events.warning("not_settled", peer=leg.hop.peer, reason=error.message)


class _Opening:
    """How far the opening of a route is."""

    def __init__(self, generation_id: bytes) -> None:
        self.generation_id = generation_id
        self.legs: dict[int, Leg] = {}
        self.failed: dict[PeerId, HivemindError] = {}
        self.unpaid: list[HivemindError] = []


__all__ = ["LEAVE_DEADLINE", "PAY_DEADLINE", "Extras", "Model", "Patience", "RouteLostError", "Routes", "Terms"]
