"""What one peer of the directory decides: how it answers, and what it learns from being asked.

A plain class without a network, so that the same decisions run in production, in unit tests and in a simulation of
many peers. Two clocks: `now` is seconds since the epoch, which records are dated in; `at` is seconds on a
clock that never jumps, by which peers are judged.
"""

from __future__ import annotations

from hivemind_p2p.dht import ids, wire
from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.dht.lookup import PARALLEL, QUORUM, Lookup
from hivemind_p2p.dht.messages import (
    FindPeers,
    FindRecords,
    ReadMany,
    Refusal,
    Request,
    Response,
    SignedBytes,
    Store,
)
from hivemind_p2p.dht.population import Population
from hivemind_p2p.dht.record_store import RecordStore
from hivemind_p2p.dht.routing_table import BUCKET_SIZE, RoutingTable
from hivemind_p2p.errors import ProtocolError, RecordError
from hivemind_p2p.types import PeerId, PeerInfo

MOST_MERGED = 8192
"""Records that one lookup merges: all that 8 replicas can hold under a key, twice."""


class Node:
    """The state of one peer in the directory and the rules that it follows.

    Args:
        own: Who it is.
        seeds: Peers that are asked where no other peer is known.
        parallel: Requests that its lookups have on the way at once.
        store: Keeps records for the hive; a new one in memory if there is none.
    """

    def __init__(
        self,
        own: PeerId,
        *,
        seeds: tuple[PeerInfo, ...] = (),
        parallel: int = PARALLEL,
        store: RecordStore | None = None,
    ) -> None:
        self.own = own
        self.table = RoutingTable(own)
        self.population = Population()
        self.store = RecordStore() if store is None else store
        self.refused = 0
        self._seeds = seeds
        self._parallel = parallel

    def answer(self, request: Request, *, now: float, at: float) -> tuple[Response, PeerInfo | None]:
        """Answers a question and remembers who asked.

        Returns:
            The response, and a silent peer that should be checked because it is in the way of the one that asked.
        """
        asker = request.sender.peer_id
        match request.question:
            case FindPeers(target):
                response = Response(peers=self.table.closest(target, BUCKET_SIZE, without=asker))
            case Store(records, target, copy_seconds):
                peers = () if target is None else self.table.closest(target, BUCKET_SIZE, without=asker)
                response = Response(peers=peers, refusals=self._keep(records, copy_seconds, now))
            case FindRecords():
                response = self._find(asker, request.question, now)
            case ReadMany(keys):
                response = self._read_many(keys, now)
        return response, self.table.seen(request.sender, at)

    def is_alone(self) -> bool:
        """Whether this is the first peer of a hive, with nobody to ask yet."""
        return not self._seeds and not len(self.table)

    def find_peers(self, target: NodeId, at: float, *, start: tuple[PeerInfo, ...] = ()) -> Lookup:
        """A lookup of the peers closest to a point, which begins with the closest known ones and `start`."""
        return self._lookup(target, start, at)

    def find_records(self, key: str, at: float, *, start: tuple[PeerInfo, ...] = ()) -> Lookup:
        """A lookup of the records under a key: it ends once enough of the closest replicas have told the same."""
        return self._lookup(ids.of_key(key), start, at, quorum=QUORUM)

    def finished(self, lookup: Lookup, at: float, left_behind: tuple[PeerId, ...] | None = None) -> None:
        """Learns from a lookup that has come to its end, however it went.

        Args:
            lookup: Which.
            at: When, in seconds on a clock that never jumps.
            left_behind: Those of its slow peers that count as failed; None for all of them.
        """
        for peer in lookup.slow_peers() if left_behind is None else left_behind:
            self.table.failed(peer, at)
        self.table.refreshed(lookup.target, at)
        if lookup.is_exhaustive:
            closest = lookup.closest()[:BUCKET_SIZE]
            distances = tuple(ids.distance(ids.of_peer(info.peer_id), lookup.target) for info in closest)
            self.population.observe(lookup.target, distances)

    def worth_asking(self, peers: tuple[PeerInfo, ...], at: float) -> tuple[PeerInfo, ...]:
        """The peers that can be dialled and have not just failed, with the addresses that they gave themselves."""
        known = (self.table.get(info.peer_id) or info for info in peers)
        return tuple(info for info in known if info.addresses and not self.table.is_avoided(info.peer_id, at))

    def merge(self, merged: RecordStore, key: str, records: tuple[SignedBytes, ...], now: float) -> bool:
        """Takes a replica's records into a lookup's result; what is forged, expired or under another key is not.

        Returns:
            Whether any of them was news.
        """
        news = False
        for record in records:
            try:
                news |= merged.put(record.body, record.signature, now, under=key)
            except RecordError:
                self.refused += 1
        return news

    def agrees(self, merged: RecordStore, key: str, told: set[bytes], now: float) -> bool:
        """Whether a replica has told (the bodies of) all that a lookup has merged so far, and nothing else."""
        return told == {signed.body for signed in merged.get(key, now)}

    def new_merge(self, key: str, now: float) -> RecordStore:
        """The result of a lookup to begin with: this peer's own replica."""
        merged = RecordStore(most_signers=MOST_MERGED, most_records=MOST_MERGED)
        for signed in self.store.get(key, now):
            merged.adopt(signed, now)
        return merged

    def _lookup(self, target: NodeId, start: tuple[PeerInfo, ...], at: float, *, quorum: int = 0) -> Lookup:
        known = self.worth_asking(self.table.closest(target, BUCKET_SIZE), at)
        if not known:
            # After a while without a network everybody has failed; most of them are still where they were.
            known = (*self._seeds, *self.table.closest_doubtful(target, BUCKET_SIZE))
        return Lookup(
            target,
            (*known, *start),
            own=self.own,
            parallel=self._parallel,
            quorum=quorum,
            reach=self.population.reach(BUCKET_SIZE),
        )

    def _keep(self, records: tuple[SignedBytes, ...], copy_seconds: int, now: float) -> tuple[Refusal, ...]:
        refusals: list[Refusal] = []
        for index, record in enumerate(records):
            try:
                if copy_seconds:
                    self.store.put_copy(record.body, record.signature, now, copy_seconds)
                else:
                    self.store.put(record.body, record.signature, now)
            except RecordError as error:
                refusals.append(Refusal(index, error.message))
        self.refused += len(refusals)
        return tuple(refusals)

    def _find(self, asker: PeerId, question: FindRecords, now: float) -> Response:
        page, next_after = self.store.page(
            question.key,
            question.after,
            now,
            most_bytes=wire.MAX_BATCH,
            most_records=wire.MOST_RECORDS,
            known=question.known,
        )
        # The peers are told once, with the first page.
        first = not question.after
        peers = self.table.closest(ids.of_key(question.key), BUCKET_SIZE, without=asker) if first else ()
        records = tuple(wire.as_bytes(signed) for signed in page)
        return Response(peers, records, next_after, kept=len(self.store.get(question.key, now)))

    def _read_many(self, keys: tuple[str, ...], now: float) -> Response:
        """What is kept under the keys, in their order, as far as it fits: a key's records come together or not."""
        records: list[SignedBytes] = []
        size = answered = 0
        for key in keys:
            found = self.store.get(key, now)
            size += sum(signed.size for signed in found)
            if size > wire.MAX_BATCH or len(records) + len(found) > wire.MOST_RECORDS:
                break
            records += (wire.as_bytes(signed) for signed in found)
            answered += 1
        return Response(records=tuple(records), kept=answered)


def check_page(question: FindRecords, response: Response, remote: PeerId) -> None:
    """Checks that pages move on, so that a replica cannot send records for ever.

    Raises:
        ProtocolError: They do not.
    """
    if response.next and response.next <= question.after:
        raise ProtocolError(f"peer {remote} sends the records under {question.key!r} in circles")
