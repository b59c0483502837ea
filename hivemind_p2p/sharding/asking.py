"""Asking peers to host layers, and following what they say of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import trio

from hivemind_p2p import defaults, telemetry
from hivemind_p2p.errors import HivemindError, StreamClosedError
from hivemind_p2p.interfaces import Network
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import hosting, market, wire
from hivemind_p2p.types import LayerSpan, Link, Offer, PeerId

ASK_AGAIN_SECONDS = 0.5
"""How soon a peer that had nothing to do, or failed, is asked again while layers lack a host."""

SILENCE_DEADLINE = 600.0
"""Seconds without a word after which a peer that loads layers is no longer followed: one large piece may take long."""

Told = Callable[[PeerId, "hosting.HostProgress | HivemindError"], None]

_events = telemetry.source("hosting")


class HostAsker:
    """Keeps one conversation with each willing peer about one model.

    Args:
        network: Opens the conversations.
        link: Which model.
        told: Called on whatever a peer says.
        by_hand: Who is to host which layers; nobody else is asked then. None to let every peer decide.
    """

    def __init__(
        self,
        network: Network,
        link: Link,
        told: Told | None = None,
        by_hand: Mapping[PeerId, LayerSpan] | None = None,
    ) -> None:
        self._network = network
        self._link = link
        self._told = told
        self._by_hand = by_hand
        self._asking: set[PeerId] = set()
        self._not_before: dict[PeerId, float] = {}
        self._closed = False

    def ask(self, nursery: trio.Nursery, offers: Sequence[Offer], *, lost: Collection[PeerId] = ()) -> None:
        """Asks every willing peer that is not being asked, and was not asked just now."""
        now = trio.current_time()
        for offer in offers:
            peer = offer.peer.peer_id
            if not market.serves(offer, self._link) or peer in self._asking or peer in lost or self._closed:
                continue
            if self._by_hand is not None and peer not in self._by_hand:
                continue
            if self._not_before.get(peer, now) <= now:
                self._asking.add(peer)
                nursery.start_soon(self._follow, peer, sorted(lost)[: wire.MAX_LOST])

    def close(self) -> None:
        """Asks nobody any more."""
        self._closed = True

    async def _follow(self, peer: PeerId, lost: Sequence[PeerId]) -> None:
        try:
            await self._converse(peer, lost)
        except StreamClosedError:
            return  # it said all that it had to say, or is gone: the offers will tell
        except HivemindError as error:
            _events.debug("host_refused", peer=peer, reason=error.message)
            self._tell(peer, error)
        finally:
            self._asking.discard(peer)
            self._not_before[peer] = trio.current_time() + ASK_AGAIN_SECONDS

    async def _converse(self, peer: PeerId, lost: Sequence[PeerId]) -> None:
        channel = await self._network.open(peer, wire.PROTOCOL)
        try:
            span = self._by_hand[peer] if self._by_hand is not None else None
            wanted = None if span is None else pb.Span(start=span.start, stop=span.stop)
            request = pb.ToStage(host=pb.Host(link=self._link, lost=lost, span=wanted))
            await wire.send(channel, request, defaults.REQUEST_DEADLINE)
            while not self._closed:
                answer = await wire.receive(channel, pb.FromStage, SILENCE_DEADLINE, "say how its loading goes")
                progress = hosting.decode_progress(answer, peer)
                self._tell(peer, progress)
        finally:
            await channel.aclose()

    def _tell(self, peer: PeerId, what: hosting.HostProgress | HivemindError) -> None:
        if self._told is not None:
            self._told(peer, what)


def willing(offers: Sequence[Offer]) -> list[PeerId]:
    """Who serves models."""
    return [offer.peer.peer_id for offer in offers if offer.serves_models]


__all__ = ["HostAsker", "willing"]
