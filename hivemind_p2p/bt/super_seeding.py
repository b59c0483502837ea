"""How the only source of a content gets every piece out with few copies: it shows each piece to one peer at a time.

Whoever is shown a piece fetches it and gives it to the others, so that a first full copy is out after little more than
one copy was sent (BEP 16). What is shown but not fetched is bounded for each peer, and a peer that has nothing left to
ask for is shown pieces that others were shown before, those first that nobody has yet: a slow peer holds nothing back
for long, and a peer that is alone gets everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.types import PeerId

AHEAD_BYTES = 8 * 1024 * 1024
"""Bytes shown to a peer and not fetched by it, to begin with: what a fast one has in flight."""

MOST_AHEAD_BYTES = 64 * 1024 * 1024
"""The same for one that is faster still. It is doubled each time that it has lasted for less than `FAST`."""

FAST = 0.1
SLOW = 1.0
"""Seconds in which what was shown ahead is fetched. Where it lasts longer than `SLOW` it is halved: what is shown to a
slow peer keeps others waiting."""

SHARE_AHEAD = 8
"""Of a small content only one in so many pieces is shown ahead: whoever comes first must not be shown everything."""

LEAST_AHEAD = 4
"""Pieces shown ahead at least, however long they are."""

STARVED = 1.0
"""Seconds with nothing to ask for after which a peer is shown what others were shown before. Until then it is expected
to get those pieces from them."""

_MOST_REPEATED = 256
"""Pieces shown a second time in one go. It doubles each time that a peer starves again, up to this."""


@dataclass(slots=True)
class _Shown:
    wanted: Bitfield | None = None
    held: set[int] = field(default_factory=set)
    waiting: set[int] = field(default_factory=set)
    all: set[int] = field(default_factory=set)
    ahead: int = 0
    shown_at: float = -SLOW
    starved_at: float | None = None
    repeats: int = 2


class SuperSeeding:
    """Decides which pieces each peer is shown.

    Args:
        order: Every piece, in the order in which they go out: a random one.
        piece_length: Bytes.
    """

    def __init__(self, order: Sequence[int], *, piece_length: int) -> None:
        self._fresh = dict.fromkeys(order)
        self._copies = [0] * len(order)
        self._ahead = max(LEAST_AHEAD, min(AHEAD_BYTES // piece_length, len(order) // SHARE_AHEAD))
        self._most_ahead = max(LEAST_AHEAD, min(MOST_AHEAD_BYTES // piece_length, len(order) // SHARE_AHEAD))
        self._peers: dict[PeerId, _Shown] = {}

    @property
    def unseen(self) -> int:
        """Pieces that nobody was shown yet."""
        return len(self._fresh)

    def joined(self, peer: PeerId, held: Bitfield) -> None:
        """Somebody came, with what it holds."""
        self._peers[peer] = _Shown(ahead=self._ahead)
        self.has(peer, held)

    def left(self, peer: PeerId) -> None:
        """Somebody went: what it was shown and did not fetch is shown to others."""
        shown = self._peers.pop(peer, None)
        if shown is None:
            return
        for piece in shown.waiting:
            if not self._copies[piece]:
                self._fresh[piece] = None

    def has(self, peer: PeerId, pieces: Bitfield | Sequence[int]) -> None:
        """Somebody says that it has pieces."""
        shown = self._peers.get(peer)
        if shown is None:
            return
        for piece in pieces:
            if piece in shown.held:
                continue
            shown.held.add(piece)
            shown.waiting.discard(piece)
            self._copies[piece] += 1
            self._fresh.pop(piece, None)

    def lost(self, peer: PeerId, piece: int) -> None:
        """Somebody does not have a piece any more, and may be shown it again."""
        shown = self._peers.get(peer)
        if shown is not None and piece in shown.held:
            shown.held.discard(piece)
            shown.all.discard(piece)
            self._copies[piece] -= 1

    def wants(self, peer: PeerId, wanted: Bitfield | None) -> None:
        """Somebody says what it wants; None for nothing."""
        if peer in self._peers:
            self._peers[peer].wanted = wanted

    def show(self, peer: PeerId, now: float) -> list[int]:
        """The pieces to show to somebody now."""
        shown = self._peers.get(peer)
        if shown is None or shown.wanted is None:
            return []
        room = shown.ahead - len(shown.waiting)
        if room <= shown.ahead // 4 and shown.waiting:
            return []
        room += self._adapt(shown, now)
        found = self._new_to_all(shown, room)
        if found or shown.waiting:
            shown.starved_at = None
        elif shown.starved_at is None:
            shown.starved_at = now
        elif now - shown.starved_at >= STARVED:
            found = self._repeated(shown)
            shown.starved_at = now
        for piece in found:
            self._fresh.pop(piece, None)
        shown.waiting.update(found)
        shown.all.update(found)
        return found

    def _adapt(self, shown: _Shown, now: float) -> int:
        """By how many pieces more, or fewer, are shown ahead to a peer from now on."""
        before, lasted = shown.ahead, now - shown.shown_at
        shown.shown_at = now
        if lasted < FAST:
            shown.ahead = min(before * 2, self._most_ahead)
        elif lasted > SLOW:
            shown.ahead = max(before // 2, self._ahead)
        return shown.ahead - before

    def _new_to_all(self, shown: _Shown, room: int) -> list[int]:
        found: list[int] = []
        for piece in self._fresh:
            if len(found) >= room:
                break
            if shown.wanted is not None and piece in shown.wanted and piece not in shown.held:
                found.append(piece)
        return found

    def _repeated(self, shown: _Shown) -> list[int]:
        assert shown.wanted is not None
        open_pieces = [piece for piece in shown.wanted if piece not in shown.held and piece not in shown.all]
        open_pieces.sort(key=self._copies.__getitem__)
        shown.repeats = min(shown.repeats * 2, _MOST_REPEATED)
        return open_pieces[: shown.repeats]
