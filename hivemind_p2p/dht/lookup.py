"""How the peers closest to a point are found: ask the closest known ones who is closer, until nobody is.

A plain state machine: `next` says whom to ask now; `answered`, `failed` and `slow` tell what became of it, `holds` that
a peer has told records. The lookup is over when the closest peers that can be had have all answered (the Kademlia
paper, section 2.3), or, where records are looked for, when enough of the closest have told the same.

A lookup takes several disjoint paths at once (S/Kademlia, see `paths`): what a peer names is followed on the path
that asked it and on no other, and no peer is asked twice. So a liar misleads the path that it lies on, and no other.
A peer that answers slowly is not waited for once enough others have answered, so one stalled peer delays nobody.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from itertools import islice, takewhile

from hivemind_p2p.dht import ids
from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.dht.paths import Path
from hivemind_p2p.dht.population import CROWD, CROWD_SHARE
from hivemind_p2p.dht.routing_table import BUCKET_SIZE
from hivemind_p2p.types import PeerId, PeerInfo

PARALLEL = 3
"""Requests on the way at once (Kademlia's alpha) while the neighbourhood of the target is looked for."""

PATHS = 3
"""Disjoint paths: with one request at a time each they cost what one path with three costs."""

PATH_WIDTH = 5
"""Closest peers of each single path that have to answer, even where other paths know closer ones (or liars do)."""

READ_WIDTH = 8
"""Replicas that a lookup of records asks where they differ. Records are stored at 20, so that one of these 8 nearly
always has it."""

QUORUM = 3
"""Replicas among the `READ_WIDTH` closest that settle a lookup of records by telling exactly the same ones. A copy that
is farther away (see `caching`) or out of date settles nothing."""

QUORUM_PATHS = 2
"""Disjoint paths over which these replicas were found, so that no liar settles a lookup with its accomplices alone. A
path that meets peers who don't answer is not waited for."""

SECOND_OPINIONS = 2
"""Further paths, one after the other, of a lookup that has found nothing or a crowd: all others may have been misled.
With a third of all peers liars, three paths are misled once in 30 lookups, five once in 250."""

ENOUGH = 3
"""Answers after which slow peers are no longer waited for."""

MOST_ASKED = 128
"""Peers asked in one lookup: three times what the largest simulated hive needs; a bound on what liars can cost."""

WIDEST = 64
"""Closest peers that have to answer where somebody crowds the target (see `population`)."""


class _State(Enum):
    KNOWN = auto()
    ASKED = auto()
    SLOW = auto()
    ANSWERED = auto()
    FAILED = auto()


_GONE = (_State.FAILED, _State.SLOW)


class Lookup:
    """One lookup.

    Args:
        target: The point looked for.
        start: The peers to begin with, dealt out to the paths.
        own: This peer, never asked.
        width: How many of the closest peers have to answer.
        parallel: Requests on the way at once.
        paths: Disjoint paths; fewer where fewer peers are known or fewer requests allowed.
        quorum: Replicas whose records settle it; 0 for a lookup of peers.
        reach: The distance within which as many honest peers lie as hold a record; 0 if unknown.
    """

    def __init__(
        self,
        target: NodeId,
        start: Iterable[PeerInfo],
        *,
        own: PeerId,
        width: int = BUCKET_SIZE,
        parallel: int = PARALLEL,
        paths: int = PATHS,
        quorum: int = 0,
        reach: int = 0,
    ) -> None:
        self.target = target
        self._own = own
        self._width = width
        self._quorum = quorum
        self._path_width = min(PATH_WIDTH, -(-width // paths))
        self._reach = reach
        self._infos: dict[PeerId, PeerInfo] = {}
        self._states: dict[PeerId, _State] = {}
        self._path_of: dict[PeerId, Path] = {}
        self._order: list[tuple[int, PeerId]] = []
        self._holders: set[PeerId] = set()
        self._agreeing: set[PeerId] = set()
        self._asked = 0
        first = {info.peer_id: info for info in start if info.peer_id != own}
        count = max(1, min(paths, parallel, len(first)))
        self._paths = [Path(-(-(parallel - number) // count)) for number in range(count)]
        self._opinions = SECOND_OPINIONS if count > 1 else 0
        self._start = sorted(first.values(), key=lambda info: ids.of_peer(info.peer_id) ^ target)
        for number, info in enumerate(self._start):
            self._add(self._paths[number % count], info)

    # -- events and actions ------------------------------------------------------------------------------------------

    def next(self) -> tuple[PeerInfo, ...]:
        """Whom to ask now, closest first; they count as asked."""
        if self._settled():
            return ()
        if self._is_exhausted() and self._is_doubtful():
            self._open_path()
        chosen: list[PeerId] = []
        closest, fronts = self._fronts()
        agreeing = {id(self._path_of[peer]) for peer in self._agreeing}
        for path, front in sorted(zip(self._paths, fronts, strict=True), key=lambda pair: id(pair[0]) in agreeing):
            mine = (*(peer for peer in closest if peer in path.known), *front)
            waiting = (peer for peer in dict.fromkeys(mine) if self._states[peer] is _State.KNOWN)
            for peer in list(islice(waiting, max(min(self._room(path), self._lacking()), 0))):
                self._states[peer] = _State.ASKED
                self._path_of[peer] = path
                self._asked += 1
                chosen.append(peer)
        chosen.sort(key=lambda peer: ids.of_peer(peer) ^ self.target)
        return tuple(self._infos[peer] for peer in chosen)

    def answered(self, peer: PeerId, closer: Iterable[PeerInfo]) -> None:
        """A peer answered, naming others; also if it had been given up as slow."""
        if self._states.get(peer) not in (_State.ASKED, _State.SLOW):
            return
        self._states[peer] = _State.ANSWERED
        path = self._path_of[peer]
        before = path.closest_distance()
        for info in closer:
            self._add(path, info)
        path.arrived = path.closest_distance() == before

    def holds(self, peer: PeerId, *, agrees: bool, news: bool) -> None:
        """A peer has told records; to be said before `answered`.

        Args:
            peer: Who.
            agrees: Whether it told exactly what is now known to be current, nothing less and nothing else.
            news: Whether any of it was not known before, so that those that told the former state agree no more.
        """
        if self._states.get(peer) not in (_State.ASKED, _State.SLOW):
            return
        self._holders.add(peer)
        if news:
            self._agreeing.clear()
        if agrees:
            self._agreeing.add(peer)

    def failed(self, peer: PeerId) -> None:
        """A peer did not answer, or nonsense."""
        if peer not in self._states:
            return
        self._states[peer] = _State.FAILED

    def slow(self, peer: PeerId) -> None:
        """A peer has not answered for so long that somebody else should be asked meanwhile."""
        if self._states.get(peer) is _State.ASKED:
            self._states[peer] = _State.SLOW
            self._path_of[peer].let_down()

    # -- what has come of it -----------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether nobody is left to ask or to wait for."""
        return self._settled() or (self._is_exhausted() and not self._is_doubtful())

    def slow_peers(self) -> tuple[PeerId, ...]:
        """The peers that were asked long ago and have not answered yet."""
        return tuple(peer for peer, state in self._states.items() if state is _State.SLOW)

    def closest(self) -> tuple[PeerInfo, ...]:
        """The closest peers that answered, closest first: `width`, or all around a crowded target."""
        return tuple(self._infos[peer] for peer in islice(self._answered(self._order), self._wanted()))

    def replicas(self) -> tuple[PeerInfo, ...]:
        """Where a record belongs: `closest`, and the closest few of every path, should liars have led others astray.

        In an honest hive these are the same peers.
        """
        wanted = {info.peer_id for info in self.closest()}
        for path in self._paths:
            wanted.update(islice(self._answered(path), self._path_width))
        return tuple(self._infos[peer] for _, peer in self._order if peer in wanted)

    def nearest(self, count: int) -> tuple[PeerInfo, ...]:
        """The closest peers known so far that have neither failed nor are slow, closest first."""
        return tuple(self._infos[peer] for peer in self._front(self._order, count))

    def holders(self) -> tuple[PeerInfo, ...]:
        """The peers that have told records, closest first."""
        return tuple(self._infos[peer] for peer in self._answered(self._order) if peer in self._holders)

    def nearest_without(self) -> PeerInfo | None:
        """The closest peer that answered and told no records."""
        without = (peer for peer in self._answered(self._order) if peer not in self._holders)
        return next((self._infos[peer] for peer in without), None)

    def info(self, peer: PeerId) -> PeerInfo | None:
        """What is known about a peer that was met on the way and did not fail."""
        return self._infos.get(peer) if self._states.get(peer) is not _State.FAILED else None

    @property
    def asked(self) -> int:
        """How many peers were asked so far."""
        return self._asked

    @property
    def is_exhaustive(self) -> bool:
        """Whether it looks for all of the closest peers, and not just for enough records."""
        return not self._quorum

    @property
    def crowded(self) -> bool:
        """Whether more peers lie around the target than the hive's size explains.

        Those count that have answered, or that two paths know: one liar's inventions are no crowd.
        """
        near = takewhile(lambda entry: entry[0] < self._reach // CROWD_SHARE, self._order)
        return sum(self._is_sure(peer) for _, peer in near) >= CROWD

    # -- inside ------------------------------------------------------------------------------------------------------

    def _add(self, path: Path, info: PeerInfo) -> None:
        peer = info.peer_id
        if peer == self._own or peer in path.known:
            return
        distance = ids.of_peer(peer) ^ self.target
        path.add(distance, peer)
        if peer not in self._states:
            self._states[peer] = _State.KNOWN
            self._infos[peer] = info
            insort(self._order, (distance, peer))

    def _answered(self, order: Iterable[tuple[int, PeerId]]) -> Iterator[PeerId]:
        return (peer for _, peer in order if self._states[peer] is _State.ANSWERED)

    def _front(self, order: Iterable[tuple[int, PeerId]], width: int) -> Iterator[PeerId]:
        """The closest peers that have neither failed nor are slow."""
        return islice((peer for _, peer in order if self._states[peer] not in _GONE), width)

    def _fronts(self) -> tuple[list[PeerId], list[list[PeerId]]]:
        """All who have to answer: the closest that any path knows, and the closest few of each path; closest first."""
        wanted = self._wanted()
        closest = list(self._front(self._order, wanted))
        if len(self._paths) == 1:
            return closest, [[]]
        path_width = min(self._path_width, -(-wanted // len(self._paths)))
        return closest, [list(self._front(path, path_width)) for path in self._paths]

    def _wanted(self) -> int:
        """How many of the closest have to answer: more where somebody crowds the target, or nothing was found."""
        if self.crowded:
            front = self._front(self._order, WIDEST)
            return max(sum((ids.of_peer(peer) ^ self.target) < self._reach for peer in front), self._width)
        if self._quorum and self._holders:
            return min(READ_WIDTH, self._width)
        return self._width

    def _is_sure(self, peer: PeerId) -> bool:
        state = self._states[peer]
        if state is _State.ANSWERED:
            return True
        return state not in _GONE and sum(peer in path.known for path in self._paths) > 1

    def _is_exhausted(self) -> bool:
        """Whether all who have to answer have done so, or never will in good time."""
        closest, fronts = self._fronts()
        states = [self._states[peer] for peer in {*closest, *(peer for front in fronts for peer in front)}]
        if _State.ASKED in states or (_State.KNOWN in states and self._asked < MOST_ASKED):
            return False
        return not self.slow_peers() or states.count(_State.ANSWERED) >= ENOUGH

    def _is_doubtful(self) -> bool:
        """Whether what was found calls for a second opinion, and there is somebody to give it."""
        if not self._opinions or not (self.crowded or (self._quorum and not self._holders)):
            return False
        return self._asked < MOST_ASKED and any(self._states[info.peer_id] is _State.KNOWN for info in self._start)

    def _open_path(self) -> None:
        """Begins one more path, with peers that this one knew before the lookup and that nobody has asked yet."""
        self._opinions -= 1
        path = Path(1)
        self._paths.append(path)
        for info in self._start:
            if self._states[info.peer_id] is _State.KNOWN:
                self._add(path, info)

    def _settled(self) -> bool:
        """Whether enough of the closest replicas, found over several paths, have told the same records."""
        if not self._quorum or len(self._agreeing) < self._quorum or self.crowded:
            return False
        agreeing = [peer for peer in self._front(self._order, READ_WIDTH) if peer in self._agreeing]
        paths = {id(self._path_of[peer]) for peer in agreeing}
        going_well = sum(not path.was_let_down for path in self._paths)
        return len(agreeing) >= self._quorum and len(paths) >= min(QUORUM_PATHS, going_well)

    def _lacking(self) -> int:
        """How many more answers a quorum needs than may come from those on the way; where some are slow, all help."""
        if not self._agreeing or self.crowded or any(path.was_let_down for path in self._paths):
            return MOST_ASKED
        front = list(self._front(self._order, READ_WIDTH))
        on_the_way = sum(self._states[peer] is _State.ASKED for peer in front)
        return max(self._quorum - sum(peer in self._agreeing for peer in front), 1) - on_the_way

    def _room(self, path: Path) -> int:
        """How many more requests a path may have on the way."""
        on_the_way = sum(self._states[peer] is _State.ASKED and it is path for peer, it in self._path_of.items())
        most = self._burst() if path.arrived else path.parallel
        return min(max(most - on_the_way, 0), MOST_ASKED - self._asked)

    def _burst(self) -> int:
        """Requests on the way at once in the neighbourhood: all that have to answer anyway, but no more."""
        if not self._quorum:
            return self._width
        return self._quorum if self._holders else READ_WIDTH
