"""How one peer's records get to their replicas, and stay there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.dht import ids, wire
from hivemind_p2p.dht.asker import Asker
from hivemind_p2p.dht.messages import Store
from hivemind_p2p.dht.node import Node
from hivemind_p2p.dht.placements import Placements
from hivemind_p2p.dht.publications import Publications
from hivemind_p2p.dht.records import SignedRecord
from hivemind_p2p.dht.replication import is_placed, to_hand_over
from hivemind_p2p.errors import HivemindError, RecordError
from hivemind_p2p.identity import Identity
from hivemind_p2p.interfaces import Clock
from hivemind_p2p.types import PeerId, PeerInfo

PLACED_AT_ONCE = 4
"""Keys whose replicas are looked for at once when many records are due."""

MOST_NEWCOMERS = 64
"""Newcomers that wait to be given what they should keep."""

LOOKED_AT_ONCE = 32
"""Keys looked at for a newcomer before others have their turn: 3 ms."""

PREPARED_AT_ONCE = 64
"""Records signed, or whose replicas are picked, before others have their turn: 2 ms."""

MOST_UNFINISHED = 16
"""Publications of which only the farther replicas are left; beyond it each is waited for to its end."""

STORED_AT_ONCE = 32
"""Replicas that are written to at once."""

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
        self._placements = Placements()
        self._newcomers, self._to_welcome = trio.open_memory_channel[PeerInfo](MOST_NEWCOMERS)
        self._changed = trio.Event()
        self._background: trio.Nursery | None = None
        self._unfinished = 0

    def __len__(self) -> int:
        return len(self._publications)

    async def publish(self, key: str, value: bytes, lifetime: float) -> None:
        """Stores a record, which `republish` then keeps alive.

        While `republish` runs, this returns as soon as the replicas that a read asks have it, and the others are given
        it meanwhile.

        Raises:
            RecordError: The key or value is too large, the value is empty, or the lifetime is out of bounds.
        """
        # A node whose clock was set back since its former life goes on above the sequences that it finds of itself.
        if former := self._node.store.newest(key, self._node.own):
            self._publications.above(former.record.sequence)
        signed = self._publications.publish(key, value, lifetime, now=self._clock(), at=trio.current_time())
        self._changed.set()
        await self._replicate_soon(signed)

    async def withdraw(self, key: str) -> None:
        """Replaces a record by an empty one until it would have expired; does nothing where there is none."""
        tombstone = self._publications.withdraw(key, now=self._clock())
        if tombstone is not None:
            await self._replicate_soon(tombstone)

    async def republish(self) -> None:
        """Signs and stores again what is due, and finishes what `publish` has begun, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._background = nursery
            try:
                await self._republish()
            finally:
                self._background = None

    async def _republish(self) -> None:
        while True:
            due_at = self._publications.next_due()
            self._changed = trio.Event()
            with trio.CancelScope(deadline=math.inf if due_at is None else due_at):
                await self._changed.wait()
            await self._replicate(await self._renew())

    async def _renew(self) -> Sequence[SignedRecord]:
        """Signs anew what is due, in small steps: a peer may share ten thousand contents."""
        due = self._publications.due(trio.current_time())
        renewed: list[SignedRecord] = []
        for start in range(0, len(due), PREPARED_AT_ONCE):
            await trio.lowlevel.checkpoint()
            keys = due[start : start + PREPARED_AT_ONCE]
            renewed += self._publications.renew(keys, now=self._clock(), at=trio.current_time())
        return renewed

    # -- newcomers ---------------------------------------------------------------------------------------------------

    def welcome(self, newcomer: PeerInfo) -> None:
        """Has a peer that is new in the routing table given the records that it should keep."""
        with suppress(trio.WouldBlock):  # enough are waiting; the next publication gives it what is missing
            self._newcomers.send_nowait(newcomer)

    async def hand_over(self) -> None:
        """Gives newcomers what they should keep, until cancelled."""
        async for newcomer in self._to_welcome:
            try:
                await self._hand_over(newcomer)
            except HivemindError as error:
                _events.debug("not_handed_over", peer=newcomer.peer_id, error=error.message)

    async def _hand_over(self, newcomer: PeerInfo) -> None:
        store, table, own = self._node.store, self._node.table, self._node.own
        keys = store.keys()
        for start in range(0, len(keys), LOOKED_AT_ONCE):
            await trio.lowlevel.checkpoint()
            handed = to_hand_over(table, own, newcomer, keys[start : start + LOOKED_AT_ONCE])
            records = [signed for key in handed for signed in store.originals(key, self._clock())]
            for batch in wire.batches(signed for signed in records if signed.record.signer != newcomer.peer_id):
                await self._asker.request(newcomer, Store(tuple(wire.as_bytes(signed) for signed in batch)))

    # -- storing -----------------------------------------------------------------------------------------------------

    async def _replicate_soon(self, signed: SignedRecord) -> None:
        """Stores a record at its closest replicas; the others are given it in the background, if there is one."""
        if self._background is None or self._unfinished >= MOST_UNFINISHED:
            await self._replicate([signed])
            return
        placed = trio.Event()
        self._unfinished += 1
        self._background.start_soon(self._finish, signed, placed)
        await placed.wait()

    async def _finish(self, signed: SignedRecord, placed: trio.Event) -> None:
        try:
            await self._replicate([signed], placed)
        finally:
            self._unfinished -= 1
            placed.set()

    async def _replicate(self, records: Sequence[SignedRecord], placed_one: trio.Event | None = None) -> None:
        """Stores records of this peer here and at the peers closest to their keys.

        Args:
            records: Which.
            placed_one: Of a single record: set as soon as it `is_placed`.
        """
        placed = await self._keep_and_place(records)
        taken = await self._store_batches({signed: peers for signed, peers in placed.items() if peers}, placed_one)
        unplaced = [
            signed
            for signed, peers in placed.items()
            if not self._placements.stored(signed.record.key, taken[signed.record.key], len(peers))
        ]
        refused = await self._place(unplaced, taken, placed_one)
        # The first peer of a hive has nobody to store at, and that is as it should be.
        if not self._node.is_alone():
            self._note_taken({signed.record.key for signed in records}, taken, refused)

    def _note_taken(self, keys: Set[str], taken: Counter[str], refused: Mapping[str, str]) -> None:
        """Has what nobody took tried again, and says so once for all of them."""
        for key in keys & taken.keys():
            self._publications.replicated(key)
        lost = sorted(keys - taken.keys())
        for key in lost:
            self._publications.unreplicated(key, trio.current_time(), refused=key in refused)
        if lost:
            _events.warning("unreplicated", records=len(lost), key=lost[0], reason=refused.get(lost[0], "unreachable"))
            self._changed.set()

    async def _keep_and_place(self, records: Sequence[SignedRecord]) -> dict[SignedRecord, Sequence[PeerInfo]]:
        """Keeps records here, and returns where else each of them belongs, as far as that is known; in small steps."""
        placed: dict[SignedRecord, Sequence[PeerInfo]] = {}
        kept = 0
        for start in range(0, len(records), PREPARED_AT_ONCE):
            if start:
                await trio.lowlevel.checkpoint()
            some, at = records[start : start + PREPARED_AT_ONCE], trio.current_time()
            kept += sum(map(self._keep_own, some))
            placed |= {signed: self._placements.replicas(signed.record.key, self._node.table, at) for signed in some}
        if kept < len(records):
            _events.warning("own_records_not_kept", records=len(records) - kept)
        return placed

    def _keep_own(self, signed: SignedRecord) -> bool:
        try:
            self._node.store.adopt(signed, self._clock())
        except RecordError as error:
            _events.debug("own_record_not_kept", key=signed.record.key, reason=error.message)
            return False
        return True

    async def _place(
        self, records: Sequence[SignedRecord], taken: Counter[str], placed_one: trio.Event | None
    ) -> Mapping[str, str]:
        """Looks for the replicas of each record and stores it at them; remembers them for the next time.

        Returns:
            Why some replica refused a key's record.
        """
        limiter = trio.CapacityLimiter(PLACED_AT_ONCE)
        refused: dict[str, str] = {}

        async def place(signed: SignedRecord) -> None:
            key = signed.record.key
            async with limiter:
                placed = await self._asker.store_closest(ids.of_key(key), wire.as_bytes(signed), placed_one)
            for peer, reason in placed.refusals.items():
                refused[key] = reason
                _events.debug("record_refused", peer=peer, key=key, reason=reason)
            if placed.taken:
                taken[key] = max(taken[key], len(placed.taken))
            if placed.replicas:
                self._placements.found(key, placed.replicas, trio.current_time())

        async with trio.open_nursery() as nursery:
            for signed in records:
                nursery.start_soon(place, signed)
        return refused

    async def _store_batches(
        self, placed: Mapping[SignedRecord, Sequence[PeerInfo]], placed_one: trio.Event | None
    ) -> Counter[str]:
        """Stores records at known replicas, all records of a replica together; returns how many took each key."""
        answered: dict[PeerId, bool] = {}
        taken: Counter[str] = Counter()
        by_peer: dict[PeerId, list[SignedRecord]] = {}
        infos: dict[PeerId, PeerInfo] = {}
        for signed, peers in placed.items():
            for info in peers:
                infos[info.peer_id] = info
                by_peer.setdefault(info.peer_id, []).append(signed)
        limiter = trio.CapacityLimiter(STORED_AT_ONCE)

        async def store(info: PeerInfo, records: Sequence[SignedRecord]) -> None:
            async with limiter:
                answers = [await self._store(info, batch, taken) for batch in wire.batches(records)]
            answered[info.peer_id] = all(answers)
            if placed_one is not None and all(is_placed(peers, answered) for peers in placed.values()):
                placed_one.set()

        async with trio.open_nursery() as nursery:
            for peer, wanted in by_peer.items():
                nursery.start_soon(store, infos[peer], wanted)
        return taken

    async def _store(self, info: PeerInfo, batch: Sequence[SignedRecord], taken: Counter[str]) -> bool:
        """Stores records at one replica; returns whether it answered."""
        try:
            response = await self._asker.request(info, Store(tuple(wire.as_bytes(signed) for signed in batch)))
        except HivemindError:
            return False  # counted and logged where it happened; the other replicas are what replicas are for
        refused = {refusal.index: refusal.reason for refusal in response.refusals if refusal.index < len(batch)}
        for index, reason in refused.items():
            _events.debug("record_refused", peer=info.peer_id, key=batch[index].record.key, reason=reason)
        taken.update(signed.record.key for index, signed in enumerate(batch) if index not in refused)
        return True
