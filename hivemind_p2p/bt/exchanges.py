"""All conversations of this peer about all its contents: one `Exchange` for each content that anybody asks for."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import trio

from hivemind_p2p.bt.concurrency import RunSync
from hivemind_p2p.bt.contents import Content, ContentStatistics
from hivemind_p2p.bt.exchange import Exchange, Limits, OnMisbehaviour
from hivemind_p2p.bt.fetching import TICK
from hivemind_p2p.interfaces import Channel, Network
from hivemind_p2p.types import PeerId


class Exchanges:
    """Makes the exchange of a content when it is first needed, and tells all of them of the time.

    Args:
        network: Says who this peer is.
        run_sync: Runs what blocks.
        limits: What this peer allows itself.
        chance: Draws orders and lots.
        on_misbehaviour: Told of peers that sent wrong bytes, and what they did.
    """

    def __init__(
        self,
        network: Network,
        *,
        run_sync: RunSync,
        limits: Limits,
        chance: random.Random,
        on_misbehaviour: OnMisbehaviour | None,
    ) -> None:
        self.running = trio.Event()
        self.misbehaved = 0
        self._network = network
        self._run_sync = run_sync
        self._limits = limits
        self._random = chance
        self._on_misbehaviour = on_misbehaviour
        self._by_infohash: dict[bytes, Exchange] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, nursery: trio.Nursery) -> None:
        """Keeps conversations, as tasks of `nursery`, until cancelled."""
        self._nursery = nursery
        self.running.set()
        while True:
            await trio.sleep(TICK)
            for exchange in tuple(self._by_infohash.values()):
                if exchange.active:
                    exchange.tick()

    def begin(self, converse: Callable[[Channel], Awaitable[None]], channel: Channel) -> None:
        """Runs a conversation for as long as it lasts, which may be longer than the fetch that began it."""
        assert self._nursery is not None
        self._nursery.start_soon(converse, channel)

    def of(self, content: Content) -> Exchange:
        """The exchange of a content."""
        infohash = content.store.manifest.infohash
        if infohash not in self._by_infohash:
            self._by_infohash[infohash] = Exchange(
                self._network,
                content,
                run_sync=self._run_sync,
                limits=self._limits,
                chance=self._random,
                on_misbehaviour=self._misbehaves,
            )
        return self._by_infohash[infohash]

    def end(self, content: Content, reason: str) -> None:
        """Ends all conversations about a content."""
        exchange = self._by_infohash.pop(content.store.manifest.infohash, None)
        if exchange is not None:
            exchange.close(reason)

    def is_given(self, content: Content) -> bool:
        """Whether some of a content is being given to others now."""
        exchange = self._by_infohash.get(content.store.manifest.infohash)
        return exchange is not None and bool(exchange.member.served)

    @property
    def conversations(self) -> int:
        """How many go on, about all contents."""
        return sum(len(exchange) for exchange in self._by_infohash.values())

    def statistics_of(self, content: Content) -> ContentStatistics:
        """The figures of a content."""
        exchange = self._by_infohash.get(content.store.manifest.infohash)
        if exchange is None:
            return content.statistics()
        return content.statistics(peers=len(exchange), served=len(exchange.member.served))

    def _misbehaves(self, peer: PeerId, what: str) -> None:
        self.misbehaved += 1
        if self._on_misbehaviour is not None:
            self._on_misbehaviour(peer, what)
