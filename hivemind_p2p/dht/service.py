"""The directory: signed, expiring records under keys, kept by the peers that lie closest to each key.

Participants: every peer of the hive; each asks, answers, and keeps records for the others. Seeds (mostly the
bootstrap) are peers like any other; all that is special about them is that their addresses are known beforehand.

Messages: a `Request` (find peers, store, find records) and its `Response`, in sequence on a channel that is kept
open for a while. See `docs/en/protocols/dht.md`.

Goals:
    - A record that `publish` has stored is found by every peer at once, until it expires or is withdrawn, as long as
      one of its up to 20 replicas can be reached.
    - Replicas are not trusted: a record is checked against its signer, and the newest of several answers counts.
    - A peer that stalls, lies or vanishes costs a lookup a second at the most, once, and never its result.
    - Seeds that were away, or that started again with nothing, are found again within seconds.

Non-goals: secrecy (whoever knows a key reads what is under it); many thousand records under one key; resistance to
an attacker who makes up peer ids close to a key.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import trio

from hivemind_p2p import defaults, telemetry
from hivemind_p2p.dht import ids, wire
from hivemind_p2p.dht.asker import Asker
from hivemind_p2p.dht.channels import KEPT_IDLE, PROTOCOL, REQUEST_DEADLINE
from hivemind_p2p.dht.hive_clock import HiveClock
from hivemind_p2p.dht.kademlia_service import KademliaService
from hivemind_p2p.dht.lookup import PARALLEL
from hivemind_p2p.dht.messages import FindPeers, Request, Response, Store
from hivemind_p2p.dht.node import Node
from hivemind_p2p.dht.publisher import Publisher
from hivemind_p2p.dht.record_keeper import RecordKeeper
from hivemind_p2p.dht.record_store import RecordStore
from hivemind_p2p.dht.records import MAX_KEY
from hivemind_p2p.dht.signatures import check_signatures
from hivemind_p2p.dht.statistics import DirectoryStatistics
from hivemind_p2p.dht.validators import Validator, Validators
from hivemind_p2p.errors import (
    BootstrapUnreachableError,
    BusyError,
    HivemindError,
    PeerUnreachableError,
    RecordError,
)
from hivemind_p2p.identity import Identity
from hivemind_p2p.interfaces import Channel, Clock, Network, TaskStatus
from hivemind_p2p.net.addresses import join_peer
from hivemind_p2p.net.clock import ask_clock
from hivemind_p2p.proto import dht_pb2
from hivemind_p2p.types import PeerId, PeerInfo, Record

MOST_CHANNELS = 1024
"""Conversations answered at once; each is idle most of the time."""

MOST_CHANNELS_OF_PEER = 16
"""Conversations with one peer: above what its lookups have on the way at once, and no way to crowd out others."""

SEEDS_EVERY = 10.0
"""Seconds between looks at whether the seeds are among the known peers."""

REFRESH_EVERY = 600.0
"""Seconds after which a bucket without lookups is refreshed."""

SWEEP_EVERY = 30.0
"""Seconds between sweeps that drop expired records and unused channels."""

CLOCK_EVERY = 600.0
"""Seconds between questions to the seeds what time it is: a clock drifts a few milliseconds in that time."""

MOST_CHECKED = 4
"""Peers that failed lately and are asked again in a sweep, so that those that were only slow come back."""

_events = telemetry.source("directory")


class DirectoryService:
    """One peer's part in the directory; implements `interfaces.Directory`.

    Args:
        network: Carries the requests; its `/hivemind/dht/1` is answered from now on.
        identity: Signs what this peer publishes.
        clock: Seconds since the epoch, for the dates of records.
        seeds: The peers through which the hive is joined; empty for the first one.
        parallel: Requests that a lookup has on the way at once.
        folder: Where records are kept on the disk as well; None for in memory only.
        validators: What may stand under the keys of which name space (see `validators`).

    Attributes:
        standard: The same directory in libp2p's standard Kademlia messages.
    """

    def __init__(
        self,
        network: Network,
        identity: Identity,
        *,
        clock: Clock,
        seeds: Sequence[PeerInfo] = (),
        parallel: int = PARALLEL,
        folder: Path | None = None,
        validators: Mapping[str, Validator] | None = None,
    ) -> None:
        own = identity.peer_id
        self._network = network
        self._clock = HiveClock(clock)
        self._seeds = tuple(wire.bounded(seed) for seed in seeds if seed.peer_id != own)
        store = RecordStore(validators=Validators(validators), journal=folder is not None)
        self._node = Node(own, seeds=self._seeds, parallel=parallel, store=store)
        self._keeper = RecordKeeper(store, folder, self._clock) if folder is not None else None
        self._asker = Asker(network, self._node, self._clock)
        self._publisher = Publisher(identity, self._node, self._asker, self._clock)
        self.standard = KademliaService(network, self._node, self._clock)
        self._channels_of: Counter[PeerId] = Counter()
        self._joined = False
        self._answered = 0
        network.serve(PROTOCOL, self._serve, most_at_once=MOST_CHANNELS)

    # -- interfaces.Directory ----------------------------------------------------------------------------------------

    async def publish(self, key: str, value: bytes, *, lifetime: float) -> None:
        """Stores this peer's record and keeps it alive while `run` runs, until it is withdrawn.

        Returns once the record lies at the closest replicas, which are those that a read asks (or, before `run`, at
        all of them). The others are given it meanwhile. Where none can be reached it is tried again soon: a hive that
        is away for a moment is no error.

        Raises:
            RecordError: The key or value is too large, the value is empty, or the lifetime is out of bounds.
        """
        await self._publisher.publish(key, value, lifetime)

    async def withdraw(self, key: str) -> None:
        """Stops republishing, and replaces the record by an empty one until it would have expired."""
        await self._publisher.withdraw(key)

    async def lookup(self, key: str) -> tuple[Record, ...]:
        """Everybody's current records under a key; empty if there are none.

        Raises:
            RecordError: No record can have this key.
        """
        _check_key(key)
        return tuple(signed.record for signed in await self._asker.find_records(key) if signed.record.value)

    async def lookup_many(self, keys: Iterable[str]) -> dict[str, tuple[Record, ...]]:
        """The current records under each of many keys; those that share replicas are asked for together.

        Raises:
            RecordError: No record can have one of these keys.
        """
        wanted = tuple(dict.fromkeys(keys))
        for key in wanted:
            _check_key(key)
        found = await self._asker.find_many(wanted)
        return {
            key: tuple(signed.record for signed in signeds if signed.record.value) for key, signeds in found.items()
        }

    async def find_peer(self, peer: PeerId) -> PeerInfo:
        """Where a peer can be dialled.

        Raises:
            PeerUnreachableError: Nobody knows it, or it does not answer where others know it.
        """
        if peer == self._node.own:
            return PeerInfo(peer, self._network.addresses)
        if known := self._node.table.get(peer):
            return known
        found = (await self._asker.find_peers(ids.of_peer(peer))).info(peer)
        if found is None or not found.addresses:
            raise PeerUnreachableError(f"nobody in the hive knows where peer {peer} can be reached")
        self._network.learn(found)
        return found

    # -- life --------------------------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Makes this peer known to the seeds and to its neighbours.

        Raises:
            BootstrapUnreachableError: There are seeds, and none of them answered.
        """
        if not self._seeds:
            return
        silent = await self._ask_seeds(self._seeds, defaults.REQUEST_DEADLINE)
        if len(silent) == len(self._seeds):
            raise BootstrapUnreachableError(f"the hive cannot be joined: {'; '.join(silent)}")
        self._joined = True
        await self._asker.find_peers(ids.of_peer(self._node.own))
        _events.info("joined", peers=len(self._node.table))

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Joins the hive (unless `join` has), then keeps its place in it and its records alive until cancelled.

        Raises:
            BootstrapUnreachableError: There are seeds, and none of them answered at the start.
        """
        if not self._joined:
            await self.join()
        try:
            async with trio.open_nursery() as nursery:
                if self._keeper is not None:
                    await nursery.start(self._keeper.run)
                nursery.start_soon(self._publisher.republish)
                nursery.start_soon(self.standard.identify_strangers)
                nursery.start_soon(self._keep_time)
                nursery.start_soon(self._publisher.hand_over)
                nursery.start_soon(self._asker.check_doubtful)
                nursery.start_soon(self._asker.leave_copies)
                nursery.start_soon(_every, SEEDS_EVERY, self._keep_seeds)
                nursery.start_soon(_every, REFRESH_EVERY, self._refresh)
                nursery.start_soon(_every, SWEEP_EVERY, self._sweep)
                nursery.start_soon(_every, SWEEP_EVERY, self.standard.sweep)
                task_status.started()
        finally:
            with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
                await self._asker.close_idle(0)

    def statistics(self) -> DirectoryStatistics:
        """Counts since the start, and what there is now."""
        node = self._node
        return DirectoryStatistics(
            peers=len(node.table),
            records=len(node.store),
            record_bytes=node.store.size,
            published=len(self._publisher),
            lookups=self._asker.lookups,
            requests=self._asker.requests,
            failures=self._asker.failures,
            answered=self._answered,
            refused=node.refused + self.standard.refused,
            standard_answered=self.standard.answered,
            written=self._keeper.written if self._keeper else 0,
            clock_correction=self._clock.correction,
        )

    # -- answering ---------------------------------------------------------------------------------------------------

    async def _serve(self, channel: Channel) -> None:
        remote = channel.remote
        if self._channels_of[remote] >= MOST_CHANNELS_OF_PEER:
            raise BusyError(f"peer {remote} has {MOST_CHANNELS_OF_PEER} directory channels open already")
        self._channels_of[remote] += 1
        try:
            await self._converse(channel)
        finally:
            self._channels_of[remote] -= 1
            if not self._channels_of[remote]:
                del self._channels_of[remote]

    async def _converse(self, channel: Channel) -> None:
        # One scope for a whole conversation: one for each message costs a tenth of what an answer does.
        with trio.CancelScope() as scope:
            while True:
                scope.deadline = trio.current_time() + 2 * KEPT_IDLE
                channel.rest(True)
                message, _ = await channel.receive(dht_pb2.Request)
                channel.rest(False)
                scope.deadline = trio.current_time() + REQUEST_DEADLINE
                response = await self._answer(wire.decode_request(message, channel.remote))
                await channel.send(wire.encode_response(response))

    async def _answer(self, request: Request) -> Response:
        if isinstance(request.question, Store):
            await check_signatures(request.question.records)
        asker = request.sender.peer_id
        known = asker in self._node.table
        response, doubtful = self._node.answer(request, now=self._clock(), at=trio.current_time())
        self._asker.doubt(doubtful)
        if not known and asker in self._node.table:
            self._publisher.welcome(request.sender)
        self._answered += 1
        return response

    # -- upkeep ------------------------------------------------------------------------------------------------------

    async def _ask_seeds(self, seeds: Iterable[PeerInfo], deadline: float) -> list[str]:
        """Makes this peer known to seeds; returns what is to be said of those that did not answer."""
        silent: list[str] = []

        async def ask(seed: PeerInfo) -> None:
            try:
                await self._asker.request(seed, FindPeers(ids.of_peer(self._node.own)), deadline)
            except HivemindError as error:
                where = ", ".join(join_peer(seed)) or seed.peer_id
                silent.append(f"{where} did not answer ({error.message})")

        async with trio.open_nursery() as nursery:
            for seed in seeds:
                nursery.start_soon(ask, seed)
        return silent

    async def _keep_seeds(self) -> None:
        """Finds seeds again that were away: without them the parts of a hive would not find each other again."""
        missing = [seed for seed in self._seeds if seed.peer_id not in self._node.table]
        if missing and len(await self._ask_seeds(missing, REQUEST_DEADLINE)) < len(missing):
            _events.info("rejoined", seeds=len(missing))
            await self._asker.find_peers(ids.of_peer(self._node.own))

    async def _keep_time(self) -> None:
        """Asks the seeds what time it is, the first that tells it."""
        while True:
            for seed in self._seeds:
                try:
                    difference = await ask_clock(self._network, seed.peer_id, self._clock.machine)
                except HivemindError:
                    continue  # it does not tell the time, or is away
                if self._clock.correct(difference):
                    _events.warning("clock_corrected", seconds=self._clock.correction, by=seed.peer_id)
                break
            await trio.sleep(CLOCK_EVERY)

    async def _refresh(self) -> None:
        own = ids.of_peer(self._node.own)
        await self._asker.find_peers(own)
        for index in self._node.table.stale_buckets(trio.current_time(), REFRESH_EVERY):
            await self._asker.find_peers(ids.in_bucket(own, index, secrets.randbits(ids.ID_BITS)))

    async def _sweep(self) -> None:
        self._node.store.expire(self._clock())
        for doubtful in self._node.table.doubtful(trio.current_time(), MOST_CHECKED):
            self._asker.doubt(doubtful)
        await self._asker.close_idle()


def _check_key(key: str) -> None:
    if not 0 < len(key.encode()) <= MAX_KEY:
        raise RecordError(f"a key has 1 to {MAX_KEY} bytes, this has {len(key.encode())}")


async def _every(seconds: float, action: Callable[[], Awaitable[None]]) -> None:
    while True:
        await trio.sleep(seconds)
        await action()
