"""How one peer asks others: single questions, and lookups made of them. What it sees goes into the routing table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.dht import ids, wire
from hivemind_p2p.dht.channels import KEPT_IDLE, REQUEST_DEADLINE, Channels
from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.dht.lookup import QUORUM, READ_WIDTH, Lookup
from hivemind_p2p.dht.messages import (
    FindPeers,
    FindRecords,
    Question,
    ReadMany,
    Request,
    Response,
    SignedBytes,
    Store,
)
from hivemind_p2p.dht.node import Node, check_page
from hivemind_p2p.dht.record_cache import MOST_OF_KEY
from hivemind_p2p.dht.record_store import RecordStore
from hivemind_p2p.dht.records import SignedRecord
from hivemind_p2p.dht.replication import Copy, copy_along_path, is_placed
from hivemind_p2p.dht.routing_table import BUCKET_SIZE
from hivemind_p2p.dht.signatures import check_signatures
from hivemind_p2p.dht.tally import Tally, by_key
from hivemind_p2p.dht.walk import SLOW_AFTER, Ask, walk
from hivemind_p2p.errors import BusyError, HivemindError, NetworkError
from hivemind_p2p.interfaces import Clock, Network
from hivemind_p2p.types import PeerId, PeerInfo

MOST_PAGES = 40
"""Pages of records read from one replica: more than an honest one can fill."""

MOST_DOUBTFUL = 16
"""Peers waiting to be checked because they are in the way of newer ones."""

MOST_COPIES = 8
"""Copies waiting to be left along the paths of lookups."""

LOOKUPS_AT_ONCE = 8
"""Lookups at once for keys that could not be read together."""

FEWEST_KNOWN = 8
"""Records below which naming those that are known costs more than it saves."""

_events = telemetry.source("directory")


@dataclass(frozen=True, slots=True)
class Placed:
    """What has become of a record.

    Attributes:
        replicas: The peers that should have it.
        taken: Those that took it.
        refusals: Why others did not.
    """

    replicas: tuple[PeerInfo, ...]
    taken: frozenset[PeerId]
    refusals: Mapping[PeerId, str]


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
        self._copies, self._to_copy = trio.open_memory_channel[tuple[Copy, tuple[SignedRecord, ...]]](MOST_COPIES)
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

        # Whom to read from is a choice, where to store is not: only reading goes on with somebody else so soon.
        await self._walk(lookup, ask, self._channels.round_trips.patience)
        found = merged.get(key, self._clock())
        self._copy(lookup, found)
        return found

    async def store_closest(self, target: NodeId, record: SignedBytes, placed: trio.Event | None = None) -> Placed:
        """Stores a record at the peers closest to a point, in the requests that look for them as far as possible.

        Args:
            target: The point.
            record: What to store.
            placed: Set as soon as the record `is_placed`.
        """
        store = Store((record,), target)
        told: dict[PeerId, Response] = {}
        near = self._nearness()

        def look() -> None:
            if placed is not None and not placed.is_set():
                nearest = lookup.nearest(READ_WIDTH)
                if is_placed(nearest, dict.fromkeys(told, True)):
                    placed.set()

        async def ask(info: PeerInfo) -> Sequence[PeerInfo]:
            if ids.distance(ids.of_peer(info.peer_id), target) > near:
                return self._worth_asking(await self.request(info, FindPeers(target)))
            told[info.peer_id] = response = await self.request(info, store)
            return self._worth_asking(response)

        async def store_at(info: PeerInfo) -> None:
            with suppress(HivemindError):
                told[info.peer_id] = await self.request(info, Store((record,)))
                look()

        lookup = self._node.find_peers(target, trio.current_time())
        await self._walk(lookup, ask, then=look)
        replicas = lookup.replicas()
        async with trio.open_nursery() as nursery:
            for info in replicas:
                if info.peer_id not in told:
                    nursery.start_soon(store_at, info)
        refusals = {peer: response.refusals[0].reason for peer, response in told.items() if response.refusals}
        return Placed(replicas, frozenset(told) - frozenset(refusals), refusals)

    async def find_many(self, keys: Sequence[str]) -> dict[str, tuple[SignedRecord, ...]]:
        """Looks up the records under many keys: first at the replicas that are known, for all their keys at once."""
        now = self._clock()
        tallies = {key: Tally(key, self._node.store.get(key, now), now) for key in keys}
        by_peer: dict[PeerInfo, list[str]] = {}
        for key in keys:
            for info in self._node.table.closest(ids.of_key(key), QUORUM):
                by_peer.setdefault(info, []).append(key)

        async def read(info: PeerInfo, its_keys: Sequence[str]) -> None:
            with suppress(HivemindError):  # what it has not told is looked up below
                await self.read_many(info, its_keys, tallies)

        async with trio.open_nursery() as nursery:
            for info, its_keys in by_peer.items():
                nursery.start_soon(read, info, its_keys)
        now = self._clock()
        found = {key: tally.found(now) for key, tally in tallies.items() if tally.settled(now)}
        await self._find_each([key for key in keys if key not in found], found)
        return {key: found[key] for key in keys}

    async def _find_each(self, keys: Sequence[str], found: dict[str, tuple[SignedRecord, ...]]) -> None:
        limiter = trio.CapacityLimiter(LOOKUPS_AT_ONCE)

        async def find(key: str) -> None:
            async with limiter:
                found[key] = await self.find_records(key)

        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(find, key)

    async def read_many(self, info: PeerInfo, keys: Sequence[str], merged: Mapping[str, Tally]) -> None:
        """Reads several keys at one replica; what it has not answered stays as it is.

        Raises:
            HivemindError: It could not be reached, did not answer in time, sent nonsense, or refused.
        """
        waiting = list(keys)
        while waiting:
            response = await self.request(info, ReadMany(tuple(waiting[: wire.MOST_KEYS])))
            answered, waiting = waiting[: response.kept], waiting[response.kept :]
            await check_signatures(response.records)
            told = by_key(response.records)
            for key in answered:
                merged[key].take(info.peer_id, told.get(key, ()), self._clock())
            if not answered:
                return  # the first of them does not fit into one answer

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

    async def leave_copies(self) -> None:
        """Leaves copies along the paths of finished lookups, until cancelled."""
        async for copy, records in self._to_copy:
            signed = tuple(wire.as_bytes(record) for record in records)
            with suppress(HivemindError):  # a copy that could not be left is no loss
                await self.request(copy.peer, Store(signed, copy_seconds=max(1, int(copy.seconds))))

    async def close_idle(self, older_than: float = KEPT_IDLE) -> None:
        """Closes the channels that were not used for so many seconds; 0 for all."""
        await self._channels.close_idle(older_than)

    async def _read(self, info: PeerInfo, key: str, merged: RecordStore, lookup: Lookup) -> Sequence[PeerInfo]:
        """Reads all pages of a replica; what has come before it fails stays."""
        known = _worth_naming(merged.get(key, self._clock()))
        question = FindRecords(key, known=frozenset(known))
        peers: Sequence[PeerInfo] = ()
        told: set[bytes] = set()
        news = False
        for _ in range(MOST_PAGES):
            response = await self.request(info, question)
            check_page(question, response, info.peer_id)
            await check_signatures(response.records)
            news |= self._node.merge(merged, key, response.records, self._clock())
            told.update(record.body for record in response.records)
            peers = peers or self._worth_asking(response)
            if not response.next:
                break
            question = FindRecords(key, response.next, question.known)
        if known and response.kept == len(known) + len(told):
            told.update(known.values())  # it has all that it was told not to send
        if told:
            lookup.holds(info.peer_id, agrees=self._node.agrees(merged, key, told, self._clock()), news=news)
        return peers

    async def _walk(
        self, lookup: Lookup, ask: Ask, slow_after: float = SLOW_AFTER, then: Callable[[], None] = lambda: None
    ) -> None:
        self.lookups += 1
        left_behind = await walk(lookup, ask, slow_after, then=then)
        self._node.finished(lookup, trio.current_time(), left_behind)

    def _copy(self, lookup: Lookup, found: tuple[SignedRecord, ...]) -> None:
        """Has a copy left where the next lookup passes, if it is worth it."""
        if not 0 < len(found) <= MOST_OF_KEY or sum(signed.size for signed in found) > wire.MAX_BATCH:
            return
        if copy := copy_along_path(lookup):
            with suppress(trio.WouldBlock):  # enough are waiting
                self._copies.send_nowait((copy, found))

    def _nearness(self) -> int:
        """The distance from a key within which a peer is likely to be one of its replicas."""
        own = ids.of_peer(self._node.own)
        neighbours = self._node.table.closest(own, BUCKET_SIZE)
        if len(neighbours) < BUCKET_SIZE:
            return ids.FARTHEST
        # Until lookups have told how many peers there are, this peer's own neighbourhood stands for all others.
        reach = self._node.population.reach(BUCKET_SIZE) or ids.distance(ids.of_peer(neighbours[-1].peer_id), own)
        return min(2 * reach, ids.FARTHEST)

    def _worth_asking(self, response: Response) -> tuple[PeerInfo, ...]:
        return self._node.worth_asking(response.peers, trio.current_time())


def _worth_naming(found: tuple[SignedRecord, ...]) -> dict[bytes, bytes]:
    """The bodies of records by their marks, where there are so many that they are not sent again by every replica."""
    if not FEWEST_KNOWN <= len(found) <= wire.MOST_KNOWN:
        return {}
    return {signed.mark: signed.body for signed in found}
