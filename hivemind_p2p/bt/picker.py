"""Which piece to ask a source for next: the urgent ones in their order, then the rarest of those that are wanted.

Rarest first keeps every piece of a content alive when sources leave, and spreads what only one source has to many
quickly (B. Cohen, "Incentives Build Robustness in BitTorrent", 2003). Where pieces are equally rare the order that was
handed in decides: a different one at each peer, so that they do not all ask for the same. The first few pieces are
taken in that order whatever their rarity, as in the same paper: a rare piece comes slowly, and who has nothing yet
needs something to give.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from hivemind_p2p.bt.bitfield import Bitfield


class PiecePicker:
    """Keeps the missing pieces by rarity. Pure; picking and counting cost little for any number of pieces.

    A missing piece is either *open* or *taken* (asked of a source, or arrived and not yet checked).

    Args:
        pieces: How many pieces the content has.
        missing: The pieces to pick, without repeats, in the order in which equally rare ones are picked.
        urgent: Those of them that are picked before all others, in this order.
        random_first: As many are picked by the order alone before rarity counts.
    """

    def __init__(
        self, pieces: int, missing: Sequence[int], *, urgent: Iterable[int] = (), random_first: int = 0
    ) -> None:
        self._counts = [0] * pieces
        self._taken: set[int] = set()
        self._missing = set(missing)
        # By how many partial sources have them; a source with everything does not change who is rarer.
        self._open: dict[int, dict[int, None]] = {0: dict.fromkeys(missing)}
        self._in_order: dict[int, None] = dict.fromkeys(missing) if random_first else {}
        self._random_first = random_first
        self._urgent: dict[int, None] = {}
        self.hurry(urgent)

    @property
    def missing(self) -> int:
        """How many wanted pieces have not been stored."""
        return len(self._missing)

    @property
    def taken(self) -> int:
        """How many of these are on their way."""
        return len(self._taken)

    @property
    def open(self) -> int:
        """How many of these nobody was asked for."""
        return len(self._missing) - len(self._taken)

    def is_missing(self, piece: int) -> bool:
        """Whether a piece is wanted and not stored yet."""
        return piece in self._missing

    def wants_from(self, held: Bitfield) -> bool:
        """Whether a source that holds these pieces has any that is missing."""
        if held.complete:
            return bool(self._missing)
        return any(piece in held for piece in self._missing)

    def hurry(self, pieces: Iterable[int]) -> None:
        """These are picked before all others from now on, in this order; what was urgent before is not any more."""
        self._urgent = {piece: None for piece in pieces if piece in self._missing}

    def joined(self, held: Bitfield) -> None:
        """A source with these pieces came."""
        if not held.complete:
            self._shift(held, +1)

    def left(self, held: Bitfield) -> None:
        """A source with these pieces went; they are what it joined with and what `gained` told since."""
        if not held.complete:
            self._shift(held, -1)

    def gained(self, held: Bitfield, piece: int) -> None:
        """A source has got one more piece; `held` includes it already."""
        if held.complete:
            self._shift([other for other in held if other != piece], -1)
        else:
            self._shift([piece], +1)

    def lost(self, held: Bitfield, piece: int) -> None:
        """A source does not have a piece after all; `held` lacks it already."""
        if len(held) == held.length - 1:
            self._shift(held, +1)
        else:
            self._shift([piece], -1)

    def pick(self, held: Bitfield, count: int) -> list[int]:
        """Takes up to `count` open pieces that a source holds, in the order of this module's first lines."""
        picked: list[int] = []
        for candidates in (self._first_candidates(), self._by_rarity(least=0 if held.complete else 1)):
            room = max(0, count - len(picked))
            there = candidates if held.complete else (piece for piece in candidates if piece in held)
            some = list(islice(there, room))
            for piece in some:
                self._take(piece)
            picked += some
        return picked

    def take(self, piece: int) -> None:
        """Takes this piece: it came without being picked."""
        if piece in self._missing and piece not in self._taken:
            self._take(piece)

    def put_back(self, pieces: Iterable[int]) -> None:
        """Pieces that were taken did not come, or came wrong: they are open again."""
        for piece in pieces:
            if piece in self._taken:
                self._taken.discard(piece)
                self._open.setdefault(self._counts[piece], {})[piece] = None

    def stored(self, piece: int) -> None:
        """A piece is on the disk."""
        self._taken.discard(piece)
        self._urgent.pop(piece, None)
        if piece in self._missing:
            self._missing.discard(piece)
            self._close(piece)

    def _first_candidates(self) -> Iterator[int]:
        if self._urgent:
            return (piece for piece in self._urgent if piece not in self._taken)
        if not self._random_first:
            return iter(())
        found = (piece for piece in self._in_order if piece in self._missing and piece not in self._taken)
        return islice(found, self._random_first)

    def _by_rarity(self, *, least: int) -> Iterator[int]:
        """Whoever lacks some pieces makes those that it holds count one at least: it need not be asked below that."""
        for rarity in sorted(self._open):
            if rarity >= least:
                yield from self._open[rarity]

    def _take(self, piece: int) -> None:
        self._close(piece)
        self._taken.add(piece)
        if self._random_first:
            self._random_first -= 1
            if not self._random_first:
                self._in_order.clear()

    def _close(self, piece: int) -> None:
        rarity = self._counts[piece]
        bucket = self._open.get(rarity)
        if bucket is None:
            return
        bucket.pop(piece, None)
        if not bucket:
            del self._open[rarity]

    def _shift(self, pieces: Iterable[int], step: int) -> None:
        for piece in pieces:
            rarity = self._counts[piece]
            self._counts[piece] = rarity + step
            bucket = self._open.get(rarity)
            if bucket is None or piece not in bucket:
                continue
            del bucket[piece]
            if not bucket:
                del self._open[rarity]
            self._open.setdefault(rarity + step, {})[piece] = None
