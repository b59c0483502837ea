"""How one peer asks others: single questions, and lookups made of them. What it sees goes into the routing table."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.dht import ids, wire
from hivemind_p2p.dht.channels import KEPT_IDLE, REQUEST_DEADLINE, Channels
from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.dht.lookup import Lookup
from hivemind_p2p.dht.messages import FindPeers, FindRecords, Question, Request, Response
from hivemind_p2p.dht.node import Node, check_page
from hivemind_p2p.dht.record_store import RecordStore
from hivemind_p2p.dht.records import SignedRecord
from hivemind_p2p.dht.walk import Ask, walk
from hivemind_p2p.errors import BusyError, HivemindError, NetworkError
from hivemind_p2p.interfaces import Clock, Network
from hivemind_p2p.types import PeerInfo

MOST_PAGES = 40
"""Pages of records read from one replica: more than an honest one can fill."""

MOST_DOUBTFUL = 16
"""Peers waiting to be checked because they are in the way of newer ones."""

_events = telemetry.source("directory")


class Asker:
    """Asks on behalf of one node.

    Args:
        network: Carries the requests.
        node: Who asks; its routing table learns from every answer and every failure.
        clock: Seconds since the epoch.
    """

    def __init__(self, network: Network, node: Node, clock: Clock) -> None:
        self._network = network
        self._node = node
        self._clock = clock
        self._channels = Channels(network)
        self._doubts, self._doubtful = trio.open_memory_channel[PeerInfo](MOST_DOUBTFUL)
        self.lookups = self.requests = self.failures = 0

    async def request(self, info: PeerInfo, question: Question, deadline: float = REQUEST_DEADLINE) -> Response:
        """One question to one peer.

        Raises:
            HivemindError: It could not be reached, did not answer in time, sent nonsense, or refused.
        """
        sender = wire.bounded(PeerInfo(self._node.own, self._network.addresses))
        self._network.learn(info)
        self.requests += 1
        try:
            message = await self._channels.exchange(
                info.peer_id, wire.encode_request(Request(sender, question)), deadline=deadline
            )
            response = wire.decode_response(message, info.peer_id)
        except HivemindError as error:
            self.failures += 1
            # A busy peer is alive.
            if isinstance(error, NetworkError) and not isinstance(error, BusyError):
                self._node.table.failed(info.peer_id, trio.current_time())
            _events.debug("request_failed", peer=info.peer_id, error=error.message)
            raise
        self.doubt(self._node.table.seen(info, trio.current_time()))
        return response

    async def find_peers(self, target: NodeId) -> Lookup:
        """Looks up the peers closest to a point; returns the finished lookup."""

        async def ask(info: PeerInfo) -> Sequence[PeerInfo]:
            return self._worth_asking(await self.request(info, FindPeers(target)))

        lookup = self._node.find_peers(target, trio.current_time())
        await self._walk(lookup, ask)
        return lookup

    async def find_records(self, key: str) -> tuple[SignedRecord, ...]:
        """Looks up the records under a key, tombstones among them: this peer's replica and others, merged."""
        merged = self._node.new_merge(key, self._clock())

        lookup = self._node.find_records(key, trio.current_time())

        async def ask(info: PeerInfo) -> Sequence[PeerInfo]:
            return await self._read(info, key, merged, lookup)

        await self._walk(lookup, ask)
        return merged.get(key, self._clock())

    def doubt(self, doubtful: PeerInfo | None) -> None:
        """Has a peer checked by `check_doubtful`, if there is one."""
        if doubtful is None:
            return
        try:
            self._doubts.send_nowait(doubtful)
        except trio.WouldBlock:
            return  # enough are waiting; it will come up again

    async def check_doubtful(self) -> None:
        """Checks doubtful peers until cancelled: those that do not answer leave the routing table."""
        own = ids.of_peer(self._node.own)
        async for info in self._doubtful:
            try:
                await self.request(info, FindPeers(own))
            except HivemindError:
                continue  # it has left the routing table, which is all that this was for

    async def close_idle(self, older_than: float = KEPT_IDLE) -> None:
        """Closes the channels that were not used for so many seconds; 0 for all."""
        await self._channels.close_idle(older_than)

    async def _read(self, info: PeerInfo, key: str, merged: RecordStore, lookup: Lookup) -> Sequence[PeerInfo]:
        """Reads all pages of a replica; what has come before it fails stays."""
        question = FindRecords(key)
        peers: Sequence[PeerInfo] = ()
        told: set[bytes] = set()
        news = False
        for _ in range(MOST_PAGES):
            response = await self.request(info, question)
            check_page(question, response, info.peer_id)
            news |= self._node.merge(merged, key, response.records, self._clock())
            told.update(record.body for record in response.records)
            peers = peers or self._worth_asking(response)
            if not response.next:
                break
            question = FindRecords(key, response.next)
        if told:
            lookup.holds(info.peer_id, agrees=self._node.agrees(merged, key, told, self._clock()), news=news)
        return peers

    async def _walk(self, lookup: Lookup, ask: Ask) -> None:
        self.lookups += 1
        await walk(lookup, ask)
        self._node.finished(lookup, trio.current_time())

    def _worth_asking(self, response: Response) -> tuple[PeerInfo, ...]:
        return self._node.worth_asking(response.peers, trio.current_time())
