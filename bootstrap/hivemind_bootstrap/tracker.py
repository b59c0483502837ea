"""The BitTorrent tracker (BEP 3, 7, 23, 48, 52): tells the clients of a public swarm about each other.

It decides only: requests and the time go in, answers come out; `web/tracker_pages` is its shell over HTTP. Peers of
the hive need no tracker, they find each other through the directory. It is here for ordinary BitTorrent clients that
got a ``.torrent`` file of a content that somebody in the hive shares.

    announce   who takes part in a swarm says so, and is told of up to `MOST_WANTED` others
    scrape     how many there are

Nobody can use it against others: a peer is known by the address that its request came from and no other one, public
clients are never sent to private addresses, and each address gets so many requests and entries. Swarms are those that
peers of the hive have registered, unless the operator opens the tracker to all. All memory is bounded; what is too
much is refused, so that a flood of new entries cannot push out those that are there.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain, islice
from typing import Final, TypeAlias, TypeVar

from hivemind_bootstrap.tracker_requests import Announce, TrackerError
from hivemind_p2p.bt import bencode

INTERVAL: Final = 600
"""Seconds after which a client is to announce again: often enough that new peers are found while a content is young."""

SHORTEST_INTERVAL: Final = 60
"""Seconds that a client is to wait at least, whatever its user presses."""

LIFETIME: Final = 1500.0
"""Seconds after which a peer that was silent is forgotten: two announcements may be lost."""

REGISTERED: Final = 7 * 86_400.0
"""Seconds that a registered swarm is kept without anybody announcing."""

MOST_WANTED: Final = 200
"""Peers in an answer, whatever was asked for."""

MOST_PEERS: Final = 100_000
"""Entries of all swarms together: some 50 MB."""

PEERS_A_SWARM: Final = 5_000
"""Entries of one swarm; who comes after that is told of others, and not told to others."""

MOST_SWARMS: Final = 50_000
"""Swarms that are known."""

REGISTERED_BY_ONE: Final = 5_000
"""Swarms that one peer of the hive has registered."""

MOST_SCRAPED: Final = 64
"""Swarms in one scrape."""

ENTRIES_AN_ADDRESS: Final = 1_000
"""Entries of one address in all swarms together: somebody who seeds much, or an office behind one address."""

PEERS_AN_ADDRESS: Final = 8
"""Entries of one address in one swarm: several clients behind one NAT."""

REQUESTS_AT_ONCE: Final = 120
"""Requests that an address may make at once: a client that starts announces each of its contents."""

REQUESTS_A_SECOND: Final = 2.0
"""Requests of an address in the long run: a thousand contents an interval."""

MOST_ADDRESSES: Final = 50_000
"""Addresses whose requests are counted; who was silent for longest is forgotten first."""

SWARM = 20
"""Bytes of an info hash as trackers see it: the SHA-256 of version 2 is cut off (BEP 52)."""

_T = TypeVar("_T", str, bytes)
_Address: TypeAlias = IPv4Address | IPv6Address
_Key: TypeAlias = tuple[bytes, bytes]  # swarm, and packed address with port


@dataclass(slots=True)
class _Peer:
    compact: bytes  # packed address and port
    network: bytes
    public: bool
    seeds: bool
    heard_at: float
    completed: bool


@dataclass(slots=True)
class _Swarm:
    peers: dict[bytes, _Peer] = field(default_factory=dict)
    owner: str = ""
    completed: int = 0
    heard_at: float = 0.0
    turn: int = 0


@dataclass(slots=True)
class _Budget:
    requests: float
    counted_at: float


@dataclass(frozen=True, slots=True)
class TrackerStatistics:
    """How much there is now."""

    swarms: int
    peers: int


class Tracker:
    """The swarms and who takes part in them.

    Args:
        open_to_all: Whether swarms need not be registered.
    """

    def __init__(self, *, open_to_all: bool = False) -> None:
        self._open_to_all = open_to_all
        self._swarms: OrderedDict[bytes, _Swarm] = OrderedDict()
        # Who was heard longest ago comes first, over all swarms.
        self._peers: OrderedDict[_Key, _Peer] = OrderedDict()
        self._entries: Counter[bytes] = Counter()
        self._owned: Counter[str] = Counter()
        self._budgets: OrderedDict[bytes, _Budget] = OrderedDict()

    def statistics(self) -> TrackerStatistics:
        """How many swarms and peers there are."""
        return TrackerStatistics(len(self._swarms), len(self._peers))

    def register(self, infohash: bytes, owner: str, now: float) -> bool:
        """Makes a content's swarm known; says whether there was room.

        Args:
            infohash: Its 32 bytes, or the first 20.
            owner: Who registers it.
            now: Seconds on a clock that only moves forward.
        """
        self._expire(now)
        if infohash[:SWARM] not in self._swarms and self._owned[owner] >= REGISTERED_BY_ONE:
            return False
        return self._swarm(infohash[:SWARM], now, create=True, owner=owner) is not None

    def announce(self, request: Announce, address: str, now: float) -> bytes:
        """The answer to a client that takes part, or leaves.

        Args:
            request: What it says.
            address: Where its request came from.
            now: Seconds on a clock that only moves forward.

        Raises:
            TrackerError: It asks too often, the swarm is not known, or there is no room.
        """
        where = _unmapped(address)
        self._spend(where, now)
        self._expire(now)
        swarm = self._swarm(request.infohash, now, create=self._open_to_all)
        if swarm is None:
            raise TrackerError("this tracker does not know the content, or is full")
        compact = where.packed + request.port.to_bytes(2, "big")
        if request.event == "stopped":
            self._remove((request.infohash, compact))
        else:
            self._put(swarm, request, compact, where, now)
        wanted = 0 if request.event == "stopped" else min(request.wanted, MOST_WANTED)
        return self._answer(swarm, request, compact, _is_public(where), wanted)

    def scrape(self, infohashes: Iterable[bytes], address: str, now: float) -> bytes:
        """How many take part in swarms, in those of them that are known (BEP 48).

        Raises:
            TrackerError: The address asks too often.
        """
        self._spend(_unmapped(address), now)
        self._expire(now)
        files: dict[bytes, bencode.Value] = {}
        for infohash in islice(infohashes, MOST_SCRAPED):
            if (swarm := self._swarms.get(infohash)) is not None:
                seeds, others = _counted(swarm)
                files[infohash] = {b"complete": seeds, b"downloaded": swarm.completed, b"incomplete": others}
        return bencode.encode({b"files": files})

    # -- what there is -----------------------------------------------------------------------------------------------

    def _swarm(self, infohash: bytes, now: float, *, create: bool, owner: str = "") -> _Swarm | None:
        swarm = self._swarms.get(infohash)
        if swarm is None:
            if not create or len(self._swarms) >= MOST_SWARMS:
                return None
            swarm = self._swarms[infohash] = _Swarm(owner=owner)
            self._owned[owner] += 1
        swarm.heard_at = now
        self._swarms.move_to_end(infohash)
        return swarm

    def _put(self, swarm: _Swarm, request: Announce, compact: bytes, where: _Address, now: float) -> None:
        key = (request.infohash, compact)
        peer = self._peers.get(key)
        if peer is None:
            network = _network(where)
            if len(swarm.peers) >= PEERS_A_SWARM or len(self._peers) >= MOST_PEERS:
                return
            here = sum(other.network == network for other in swarm.peers.values())
            if here >= PEERS_AN_ADDRESS or self._entries[network] >= ENTRIES_AN_ADDRESS:
                raise TrackerError("too many peers: this tracker takes no more of them from your address")
            peer = _Peer(compact, network, _is_public(where), seeds=False, heard_at=now, completed=False)
            self._peers[key] = swarm.peers[compact] = peer
            self._entries[network] += 1
        peer.seeds = request.left == 0
        peer.heard_at = now
        self._peers.move_to_end(key)
        if request.event == "completed" and peer.seeds and not peer.completed:
            peer.completed = True
            swarm.completed += 1

    def _remove(self, key: _Key) -> None:
        peer = self._peers.pop(key, None)
        if peer is None:
            return
        infohash, compact = key
        del self._swarms[infohash].peers[compact]
        _less(self._entries, peer.network)

    def _expire(self, now: float) -> None:
        while self._peers:
            key, peer = next(iter(self._peers.items()))
            if now - peer.heard_at < LIFETIME:
                break
            self._remove(key)
        # A swarm is heard of whenever one of its peers is, and lives longer than they do: it is empty here.
        while self._swarms:
            infohash, swarm = next(iter(self._swarms.items()))
            if now - swarm.heard_at < (LIFETIME if self._open_to_all else REGISTERED):
                break
            del self._swarms[infohash]
            _less(self._owned, swarm.owner)

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answer(self, swarm: _Swarm, request: Announce, compact: bytes, public: bool, wanted: int) -> bytes:
        seeds, others = _counted(swarm)
        chosen = list(islice(_choose(swarm, compact, seeding=request.left == 0, public=public), wanted))
        swarm.turn += len(chosen)
        answer: dict[bytes, bencode.Value] = {
            b"complete": seeds,
            b"incomplete": others,
            b"interval": INTERVAL,
            b"min interval": SHORTEST_INTERVAL,
            b"peers": b"".join(peer.compact for peer in chosen if len(peer.compact) == 6),
        }
        if peers6 := b"".join(peer.compact for peer in chosen if len(peer.compact) == 18):
            answer[b"peers6"] = peers6
        return bencode.encode(answer)

    def _spend(self, where: _Address, now: float) -> None:
        network = _network(where)
        budget = self._budgets.get(network)
        if budget is None:
            if len(self._budgets) >= MOST_ADDRESSES:
                self._budgets.popitem(last=False)
            budget = self._budgets[network] = _Budget(REQUESTS_AT_ONCE, now)
        self._budgets.move_to_end(network)
        budget.requests = min(REQUESTS_AT_ONCE, budget.requests + (now - budget.counted_at) * REQUESTS_A_SECOND)
        budget.counted_at = now
        if budget.requests < 1:
            raise TrackerError("too many requests from your address", retry_minutes=1)
        budget.requests -= 1


def _less(counts: Counter[_T], key: _T) -> None:
    """One less; what is down to nothing takes no room."""
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]


def _choose(swarm: _Swarm, own: bytes, *, seeding: bool, public: bool) -> Iterator[_Peer]:
    """The others in turn, so that each is told as often; seeds have no use for seeds."""
    peers = list(swarm.peers.values())
    start = swarm.turn % len(peers) if peers else 0
    for peer in chain(islice(peers, start, None), islice(peers, start)):
        if peer.compact != own and not (seeding and peer.seeds) and (peer.public or not public):
            yield peer


def _counted(swarm: _Swarm) -> tuple[int, int]:
    seeds = sum(peer.seeds for peer in swarm.peers.values())
    return seeds, len(swarm.peers) - seeds


def _unmapped(address: str) -> _Address:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError as error:
        raise TrackerError("a request without an address") from error
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def _network(address: _Address) -> bytes:
    """What belongs to one owner: an IPv4 address, or 64 bits of an IPv6 address, below which anybody has plenty."""
    return address.packed if address.version == 4 else address.packed[:8]


def _is_public(address: _Address) -> bool:
    return address.is_global
