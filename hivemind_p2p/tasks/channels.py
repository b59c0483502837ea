"""Open channels to workers, kept for the next task: a new stream costs more than a small task."""

from __future__ import annotations

from typing import Final

import trio

from hivemind_p2p.interfaces import Channel, Network
from hivemind_p2p.tasks.wire import CHANNEL_IDLE, PROTOCOL
from hivemind_p2p.types import PeerId

MOST_IDLE: Final = 16
"""Idle channels kept to one peer: as many tasks as are sent at once to a large one."""


class ChannelPool:
    """Lends channels, one task at a time each."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._idle: dict[PeerId, list[tuple[Channel, float]]] = {}

    async def take(self, peer: PeerId) -> tuple[Channel, bool]:
        """A channel to a peer, and whether it has been used before (the peer may have closed it since).

        Raises:
            PeerUnreachableError: None of its addresses answered.
            DeadlineExceededError: It did not answer in time.
        """
        while idle := self._idle.get(peer):
            channel, since = idle.pop()
            if trio.current_time() - since < CHANNEL_IDLE:
                return channel, True
            await channel.aclose()
        return await self.open(peer), False

    async def open(self, peer: PeerId) -> Channel:
        """A new channel; the errors are those of `take`."""
        return await self._network.open(peer, PROTOCOL)

    async def give_back(self, peer: PeerId, channel: Channel) -> None:
        """Keeps a channel whose task has ended in order."""
        idle = self._idle.setdefault(peer, [])
        if len(idle) >= MOST_IDLE:
            await channel.aclose()
            return
        idle.append((channel, trio.current_time()))

    async def forget(self, peer: PeerId) -> None:
        """Closes the idle channels to a peer that failed."""
        for channel, _ in self._idle.pop(peer, []):
            await channel.aclose()
