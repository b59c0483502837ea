"""How the peers closest to a point are found: ask the closest known ones who is closer, until nobody is.

A plain state machine: `next` says whom to ask now; `answered`, `failed` and `slow` tell what became of it.
The lookup is over when the closest peers that can be had have all answered (the Kademlia paper, section 2.3).
A peer that answers slowly is not waited for once enough others have answered, so one stalled peer delays nobody.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from enum import Enum, auto

from hivemind_p2p.dht import ids
from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.dht.routing_table import BUCKET_SIZE
from hivemind_p2p.types import PeerId, PeerInfo

PARALLEL = 3
"""Requests on the way at once (Kademlia's alpha)."""

READ_WIDTH = 8
"""Replicas that a lookup of records asks. Records are stored at 20, so that one of these 8 nearly always has it."""

ENOUGH = 3
"""Answers after which slow peers are no longer waited for."""

MOST_ASKED = 128
"""Peers asked in one lookup: three times what the largest simulated hive needs; a bound on what liars can cost."""


class _State(Enum):
    KNOWN = auto()
    ASKED = auto()
    SLOW = auto()
    ANSWERED = auto()
    FAILED = auto()


class Lookup:
    """One lookup.

    Args:
        target: The point looked for.
        start: The peers to begin with.
        own: This peer, never asked.
        width: How many of the closest peers have to answer.
        parallel: Requests on the way at once.
    """

    def __init__(
        self,
        target: NodeId,
        start: Iterable[PeerInfo],
        *,
        own: PeerId,
        width: int = BUCKET_SIZE,
        parallel: int = PARALLEL,
    ) -> None:
        self.target = target
        self._own = own
        self._width = width
        self._parallel = parallel
        self._order: list[tuple[int, PeerId]] = []
        self._infos: dict[PeerId, PeerInfo] = {}
        self._states: dict[PeerId, _State] = {}
        self._asked = 0
        for info in start:
            self._add(info)

    def next(self) -> tuple[PeerInfo, ...]:
        """Whom to ask now, closest first; they count as asked."""
        room = min(self._parallel - self._on_the_way(), MOST_ASKED - self._asked)
        waiting = [peer for peer in self._front() if self._states[peer] is _State.KNOWN]
        chosen = waiting[: max(room, 0)]
        for peer in chosen:
            self._states[peer] = _State.ASKED
        self._asked += len(chosen)
        return tuple(self._infos[peer] for peer in chosen)

    def answered(self, peer: PeerId, closer: Iterable[PeerInfo]) -> None:
        """A peer answered, naming others; also if it had been given up as slow."""
        if self._states.get(peer) not in (_State.ASKED, _State.SLOW):
            return
        self._states[peer] = _State.ANSWERED
        for info in closer:
            self._add(info)

    def failed(self, peer: PeerId) -> None:
        """A peer did not answer, or nonsense."""
        if peer in self._states:
            self._states[peer] = _State.FAILED

    def slow(self, peer: PeerId) -> None:
        """A peer has not answered for so long that somebody else should be asked meanwhile."""
        if self._states.get(peer) is _State.ASKED:
            self._states[peer] = _State.SLOW

    @property
    def finished(self) -> bool:
        """Whether nobody is left to ask or to wait for."""
        front = [self._states[peer] for peer in self._front()]
        if _State.ASKED in front or (_State.KNOWN in front and self._asked < MOST_ASKED):
            return False
        return not self.slow_peers() or front.count(_State.ANSWERED) >= ENOUGH

    def slow_peers(self) -> tuple[PeerId, ...]:
        """The peers that were asked long ago and have not answered yet."""
        return tuple(peer for peer, state in self._states.items() if state is _State.SLOW)

    def closest(self) -> tuple[PeerInfo, ...]:
        """The closest peers that answered, closest first, `width` at the most."""
        peers = (peer for _, peer in self._order if self._states[peer] is _State.ANSWERED)
        return tuple(self._infos[peer] for peer, _ in zip(peers, range(self._width), strict=False))

    def info(self, peer: PeerId) -> PeerInfo | None:
        """What is known about a peer that was met on the way and did not fail."""
        return self._infos.get(peer) if self._states.get(peer) is not _State.FAILED else None

    @property
    def asked(self) -> int:
        """How many peers were asked so far."""
        return self._asked

    def _add(self, info: PeerInfo) -> None:
        peer = info.peer_id
        if peer == self._own or peer in self._states:
            return
        self._states[peer] = _State.KNOWN
        self._infos[peer] = info
        insort(self._order, (ids.distance(ids.of_peer(peer), self.target), peer))

    def _front(self) -> list[PeerId]:
        """The closest `width` peers that have neither failed nor are slow."""
        front: list[PeerId] = []
        for _, peer in self._order:
            if self._states[peer] in (_State.FAILED, _State.SLOW):
                continue
            front.append(peer)
            if len(front) == self._width:
                break
        return front

    def _on_the_way(self) -> int:
        return sum(state is _State.ASKED for state in self._states.values())
