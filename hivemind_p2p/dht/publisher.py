"""How one peer's records get to their replicas, and stay there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.dht import ids, wire
from hivemind_p2p.dht.asker import Asker
from hivemind_p2p.dht.messages import Store
from hivemind_p2p.dht.node import Node
from hivemind_p2p.dht.publications import Publications
from hivemind_p2p.dht.records import SignedRecord
from hivemind_p2p.errors import HivemindError, RecordError
from hivemind_p2p.identity import Identity
from hivemind_p2p.interfaces import Clock
from hivemind_p2p.types import PeerId, PeerInfo

PLACED_AT_ONCE = 4
"""Keys whose replicas are looked for at once when many records are due."""

_events = telemetry.source("directory")


class Publisher:
    """Stores this peer's records at the peers closest to their keys.

    Args:
        identity: Signs the records.
        node: Whose store and routing table are used.
        asker: Finds the replicas and asks them.
        clock: Seconds since the epoch.
    """

    def __init__(self, identity: Identity, node: Node, asker: Asker, clock: Clock) -> None:
        self._node = node
        self._asker = asker
        self._clock = clock
        self._publications = Publications(identity)
        self._changed = trio.Event()

    def __len__(self) -> int:
        return len(self._publications)

    async def publish(self, key: str, value: bytes, lifetime: float) -> None:
        """Stores a record, which `republish` then keeps alive.

        Raises:
            RecordError: The key or value is too large, the value is empty, or the lifetime is out of bounds.
        """
        signed = self._publications.publish(key, value, lifetime, now=self._clock(), at=trio.current_time())
        self._changed.set()
        await self._replicate([signed])

    async def withdraw(self, key: str) -> None:
        """Replaces a record by an empty one until it would have expired; does nothing where there is none."""
        tombstone = self._publications.withdraw(key, now=self._clock())
        if tombstone is not None:
            await self._replicate([tombstone])

    async def republish(self) -> None:
        """Signs and stores again what is due, until cancelled."""
        while True:
            due_at = self._publications.next_due()
            self._changed = trio.Event()
            with trio.CancelScope(deadline=math.inf if due_at is None else due_at):
                await self._changed.wait()
            due = self._publications.renew(now=self._clock(), at=trio.current_time())
            await self._replicate(due)

    # -- storing -----------------------------------------------------------------------------------------------------

    async def _replicate(self, records: Sequence[SignedRecord]) -> None:
        """Stores records of this peer here and at the peers closest to their keys."""
        self._keep_own(records)
        targets = await self._place(records)
        replicas: Counter[str] = Counter()
        async with trio.open_nursery() as nursery:
            for info, batch in targets:
                nursery.start_soon(self._store, info, batch, replicas)
        # The first peer of a hive has nobody to store at, and that is as it should be.
        alone = self._node.is_alone()
        for key in {signed.record.key for signed in records}:
            if not replicas[key] and not alone:
                _events.warning("unreplicated", key=key)
                self._publications.unreplicated(key, trio.current_time())
                self._changed.set()

    def _keep_own(self, records: Sequence[SignedRecord]) -> None:
        for signed in records:
            try:
                self._node.store.adopt(signed, self._clock())
            except RecordError as error:
                _events.warning("own_record_not_kept", key=signed.record.key, reason=error.message)

    async def _place(self, records: Sequence[SignedRecord]) -> list[tuple[PeerInfo, tuple[SignedRecord, ...]]]:
        """Which records go to which peers, in batches that fit into a message."""
        by_peer: dict[PeerId, list[SignedRecord]] = {}
        infos: dict[PeerId, PeerInfo] = {}
        limiter = trio.CapacityLimiter(PLACED_AT_ONCE)

        async def place(signed: SignedRecord) -> None:
            async with limiter:
                lookup = await self._asker.find_peers(ids.of_key(signed.record.key))
            for info in lookup.replicas():
                infos[info.peer_id] = info
                by_peer.setdefault(info.peer_id, []).append(signed)

        async with trio.open_nursery() as nursery:
            for signed in records:
                nursery.start_soon(place, signed)
        return [(infos[peer], batch) for peer, wanted in by_peer.items() for batch in wire.batches(wanted)]

    async def _store(self, info: PeerInfo, batch: Sequence[SignedRecord], replicas: Counter[str]) -> None:
        try:
            response = await self._asker.request(info, Store(tuple(wire.as_bytes(signed) for signed in batch)))
        except HivemindError:
            return  # counted and logged where it happened; the other replicas are what replicas are for
        refused = {refusal.index: refusal.reason for refusal in response.refusals}
        for index, reason in refused.items():
            _events.warning("record_refused", peer=info.peer_id, index=index, reason=reason)
        replicas.update(signed.record.key for index, signed in enumerate(batch) if index not in refused)
