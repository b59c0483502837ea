"""One question, one answer: the channels to other peers, kept open for a while because opening one costs 2 ms."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

import trio

from hivemind_p2p.dht.round_trips import RoundTrips
from hivemind_p2p.errors import DeadlineExceededError, StreamClosedError
from hivemind_p2p.interfaces import Channel, Network
from hivemind_p2p.proto import dht_pb2
from hivemind_p2p.types import PeerId

PROTOCOL = "/hivemind/dht/1"

REQUEST_DEADLINE = 3.0
"""Seconds for one exchange, dialling included: a lookup makes several, and has other peers to ask."""

KEPT_IDLE = 30.0
"""Seconds an unused channel is kept open by the one that opened it; the other side gives it twice as long."""

MOST_IDLE = 64
"""Unused channels kept: more peers than a small hive has; in a large one the least recently used is closed."""


@dataclass(slots=True)
class _Idle:
    channel: Channel
    since: float


class Channels:
    """Exchanges requests for responses with any peer. Channels carry one exchange at a time."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._idle: OrderedDict[PeerId, _Idle] = OrderedDict()
        self.round_trips = RoundTrips()

    async def exchange(
        self, peer: PeerId, request: dht_pb2.Request, *, deadline: float = REQUEST_DEADLINE
    ) -> dht_pb2.Response:
        """Asks a peer, dialling it first where there is no connection.

        Raises:
            DeadlineExceededError: It did not answer in time.
            NetworkError: It could not be reached, or what it sent is malformed.
            HivemindError: It refused: the class that it names.
        """
        try:
            with trio.fail_after(deadline):
                return await self._exchange(peer, request, deadline)
        except trio.TooSlowError as error:
            raise DeadlineExceededError(
                f"peer {peer} did not answer a directory request within {deadline:g} s"
            ) from error

    async def _exchange(self, peer: PeerId, request: dht_pb2.Request, deadline: float) -> dht_pb2.Response:
        idle = self._idle.pop(peer, None)
        if idle is not None:
            # It may have died while it lay idle. Every request can be repeated without harm: once more, afresh.
            idle.channel.rest(False)
            with suppress(StreamClosedError):
                return await self._use(peer, idle.channel, request)
        channel = await self._network.open(peer, PROTOCOL, deadline=deadline)
        return await self._use(peer, channel, request)

    async def _use(self, peer: PeerId, channel: Channel, request: dht_pb2.Request) -> dht_pb2.Response:
        done = False
        started = trio.current_time()
        try:
            await channel.send(request)
            response, _ = await channel.receive(dht_pb2.Response)
            channel.rest(True)
            done = True
            self.round_trips.took(trio.current_time() - started)
        finally:
            if not done:
                await channel.aclose()
        await self._keep(peer, channel)
        return response

    async def _keep(self, peer: PeerId, channel: Channel) -> None:
        if peer in self._idle:
            await channel.aclose()
            return
        self._idle[peer] = _Idle(channel, trio.current_time())
        if len(self._idle) > MOST_IDLE:
            _, oldest = self._idle.popitem(last=False)
            await oldest.channel.aclose()

    async def close_idle(self, older_than: float = KEPT_IDLE) -> None:
        """Closes the channels that nobody has used for so many seconds; 0 for all."""
        latest = trio.current_time() - older_than
        for peer in [peer for peer, idle in self._idle.items() if idle.since <= latest]:
            # Another task may have taken it while this one was closing the former.
            if (idle := self._idle.pop(peer, None)) is not None:
                await idle.channel.aclose()
