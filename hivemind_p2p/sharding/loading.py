"""Waiting until every layer of a model has a host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from hivemind_p2p.errors import HivemindError, MissingLayersError
from hivemind_p2p.interfaces import Network, OfferBook
from hivemind_p2p.sharding import asking, hosting, route
from hivemind_p2p.types import LayerSpan, Link, Offer, PeerId

LOOK_SECONDS = 0.25
"""How often offers are looked at while layers lack a host."""


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a model is on its way to having hosts.

    Attributes:
        layers_ready: Layers that have one.
        layer_count: All of them.
        hosts: What each peer that works on it said last.
        missing: Which layers lack a host, in words; empty once none does.
    """

    layers_ready: int
    layer_count: int
    hosts: dict[PeerId, hosting.HostProgress] = field(default_factory=dict)
    missing: str = ""

    @property
    def fraction(self) -> float:
        """Between 0 and 1: layers that are ready, and of those that are fetched the part that has arrived."""
        ready = float(self.layers_ready)
        for host in self.hosts.values():
            if host.span is not None and host.wanted_bytes and host.state in _UNDER_WAY:
                ready += len(host.span) * host.done_bytes / host.wanted_bytes
        return min(1.0, ready / self.layer_count) if self.layer_count else 0.0

    @property
    def text(self) -> str:
        """One line for people."""
        line = f"{self.layers_ready} of {self.layer_count} layers have a host"
        busy = [
            f"{hosting.State.Name(host.state).lower()} layers {host.span}"
            for host in self.hosts.values()
            if host.span is not None and host.state in _UNDER_WAY
        ]
        return f"{line} ({', '.join(busy)})" if busy else line


_UNDER_WAY = (hosting.State.CLAIMED, hosting.State.FETCHING, hosting.State.LOADING)


class Loading:
    """Waits for hosts of a model and tells how far they are.

    Args:
        network: Speaks to the hosts.
        offers: Where they are found.
        link: Which model.
        layer_count: How many layers it has.
        progress: Called whenever something changes.
        by_hand: Who is to host which layers; None to let the peers decide.
    """

    def __init__(
        self,
        network: Network,
        offers: OfferBook,
        link: Link,
        layer_count: int,
        progress: Callable[[LoadProgress], None] | None,
        by_hand: Mapping[PeerId, LayerSpan] | None = None,
    ) -> None:
        self._network = network
        self._offers = offers
        self._link = link
        self._layer_count = layer_count
        self._progress = progress
        self._by_hand = by_hand
        self._hosts: dict[PeerId, hosting.HostProgress] = {}
        self._ready = 0
        self._missing = ""
        self._reasons: dict[PeerId, HivemindError] = {}
        self._wake = trio.Event()

    async def run(self, timeout: float) -> None:
        """Returns once a route exists.

        Raises:
            MissingLayersError: None came within `timeout` seconds.
        """
        deadline = trio.current_time() + timeout
        asker = asking.HostAsker(self._network, self._link, self._told, self._by_hand)
        async with trio.open_nursery() as nursery:
            missing = await self._wait(nursery, asker, deadline)
            asker.close()
            nursery.cancel_scope.cancel()
        if missing is not None:
            raise self._explained(missing, timeout)

    async def _wait(self, nursery: trio.Nursery, asker: asking.HostAsker, deadline: float) -> MissingLayersError | None:
        while True:
            self._wake = trio.Event()
            offers = await self._offers.offers(fresh=True)
            self._ready = route.covered(offers, self._link, self._layer_count)
            try:
                route.choose(offers, self._link, self._layer_count)
                self._check_placed(offers)
            except MissingLayersError as missing:
                self._missing = missing.message
                self._report()
                if trio.current_time() >= deadline:
                    return missing
            else:
                self._missing = ""
                self._report()
                return None
            asker.ask(nursery, offers)
            # A host that says it is ready is looked up at once; others are found by looking now and then.
            with trio.move_on_after(min(LOOK_SECONDS, max(0.0, deadline - trio.current_time()))):
                await self._wake.wait()

    def _check_placed(self, offers: Sequence[Offer]) -> None:
        """Whether those who were placed by hand are where they should be."""
        ready = {
            (offer.peer.peer_id, stage.span)
            for offer in offers
            for stage in offer.stages
            if stage.link == self._link and stage.ready
        }
        for peer, span in (self._by_hand or {}).items():
            if (peer, span) not in ready:
                raise MissingLayersError(f"peer {peer} does not host layers {span} of {self._link} yet")

    def _told(self, peer: PeerId, what: hosting.HostProgress | HivemindError) -> None:
        if isinstance(what, HivemindError):
            self._reasons[peer] = what
            self._hosts.pop(peer, None)
        else:
            self._hosts[peer] = what
            self._reasons.pop(peer, None)
            if what.state == hosting.State.READY:
                self._wake.set()
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(LoadProgress(self._ready, self._layer_count, dict(self._hosts), self._missing))

    def _explained(self, missing: MissingLayersError, timeout: float) -> MissingLayersError:
        message = f"{missing.message}, and none came within {timeout:g} s"
        if self._reasons:
            peer, reason = next(iter(self._reasons.items()))
            return MissingLayersError(f"{message}; {peer} does not host them because {reason.message}")
        return MissingLayersError(message, hint=missing.hint)
