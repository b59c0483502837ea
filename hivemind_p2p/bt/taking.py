"""What a peer takes from the others in the swarm of one content: one download, put into messages and blocks.

One half of `member.py`, pure like it; the other half is `giving.py`. It stands between `download.py`, which thinks in
whole pieces, and the wire, on which long pieces travel as several blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hivemind_p2p.bt import download as decided
from hivemind_p2p.bt.actions import Action, Ban, Finished, Leave, Send, Shape
from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.download import Download
from hivemind_p2p.bt.wire import Block, Cancel, Interest, Request, ranges
from hivemind_p2p.types import PeerId

MOST_STRAYS = 256
"""Blocks that nobody waits for which one peer may send: what was on its way when a fetch ended."""


class Taking:
    """Fetches pieces while somebody wants any.

    Args:
        shape: Of the content.
        banned: Who is banned already, and why; added to.
    """

    def __init__(self, shape: Shape, banned: dict[PeerId, str]) -> None:
        self.download: Download | None = None
        self.interest = Interest(False)
        self.banned = banned
        self._shape = shape
        self._sources: dict[PeerId, Bitfield] = {}
        self._choking: set[PeerId] = set()
        self._parts: dict[tuple[PeerId, int], set[Block]] = {}
        self._strays: dict[PeerId, int] = {}

    def begin(
        self, missing: Sequence[int], held: int, *, patience: float, now: float, urgent: Sequence[int], in_order: bool
    ) -> list[Action]:
        """Begins to fetch pieces; `held` are here already. The caller tells the others of `interest`."""
        self.download = Download(
            self._shape.pieces,
            missing,
            piece_length=self._shape.piece_length,
            length_of=self._shape.length_of,
            patience=patience,
            now=now,
            urgent=urgent,
        )
        self.download.banned.update(self.banned)
        everything = len(missing) + held == self._shape.pieces
        pieces = b"" if everything else Bitfield(self._shape.pieces, missing).to_bytes()
        self.interest = Interest(True, everything, pieces, in_order)
        actions: list[Action] = []
        for peer, its in self._sources.items():
            actions += self._put(self.download.source_joined(peer, its, now, choking=peer in self._choking))
        return actions

    def end(self) -> list[Action]:
        """The fetch is done or given up: what is still asked for is taken back."""
        cancelled = [] if self.download is None else self.download.cancel_all()
        actions = self._put(cancelled)
        self.download = None
        self.interest = Interest(False)
        self._parts.clear()
        return actions

    def hurry(self, pieces: Sequence[int], now: float) -> list[Action]:
        """These are wanted before all others from now on, in this order."""
        return self._put(self.download.hurry(pieces, now)) if self.download is not None else []

    def read_along(self) -> bool:
        """Somebody reads what is fetched; whether that is news for the others."""
        if self.download is None or self.interest.in_order:
            return False
        self.interest = replace(self.interest, in_order=True)
        return True

    # -- sources -----------------------------------------------------------------------------------------------------

    def joined(self, peer: PeerId, held: Bitfield, now: float) -> list[Action]:
        """Somebody said what it holds; `held` is kept up to date by the caller."""
        self._sources[peer] = held
        self._choking.add(peer)
        if self.download is None:
            return []
        return self._put(self.download.source_joined(peer, held, now, choking=True))

    def left(self, peer: PeerId, now: float) -> list[Action]:
        """Somebody went."""
        self._sources.pop(peer, None)
        self._choking.discard(peer)
        self._strays.pop(peer, None)
        for key in [key for key in self._parts if key[0] == peer]:
            del self._parts[key]
        return self._put(self.download.source_left(peer, now)) if self.download is not None else []

    def has(self, peer: PeerId, pieces: Iterable[int], now: float) -> list[Action]:
        """Somebody got more pieces."""
        return self._put(self.download.source_has(peer, pieces, now)) if self.download is not None else []

    def lost(self, peer: PeerId, pieces: Iterable[int]) -> None:
        """Somebody does not hold pieces any more."""
        if self.download is not None:
            self.download.source_lost(peer, pieces)

    def chokes(self, peer: PeerId, choking: bool, now: float) -> list[Action]:
        """Somebody refuses requests from now on, or takes them again."""
        (self._choking.add if choking else self._choking.discard)(peer)
        return self._put(self.download.source_chokes(peer, choking, now)) if self.download is not None else []

    def snubs(self, peer: PeerId) -> bool:
        """Whether somebody was asked and sends nothing."""
        return self.download is not None and self.download.snubs(peer)

    # -- pieces ------------------------------------------------------------------------------------------------------

    def block_arrived(self, peer: PeerId, block: Block, now: float) -> tuple[bool, bool, list[Action]]:
        """A block came.

        Returns:
            Whether it is to be kept, whether the piece is complete with it, and what to do.
        """
        if self.download is None:
            return False, False, self._stray(peer)
        if not self.download.expects(peer, block.piece):
            return False, False, self._put(self.download.piece_arrived(peer, block.piece, now))
        left = self._parts.get((peer, block.piece)) or set(ranges(block.piece, self._shape.length_of(block.piece)))
        if block not in left:
            return False, False, [Leave(peer, f"it sent a block of piece {block.piece} that it was not asked for")]
        left.discard(block)
        if left:
            self._parts[peer, block.piece] = left
            self.download.block_arrived(peer, now)
            return True, False, []
        self._parts.pop((peer, block.piece), None)
        return True, True, self._put(self.download.piece_arrived(peer, block.piece, now))

    def refused(self, peer: PeerId, block: Block, now: float) -> list[Action]:
        """Somebody will not send a block that it was asked for."""
        self._parts.pop((peer, block.piece), None)
        return self._put(self.download.piece_refused(peer, block.piece, now)) if self.download is not None else []

    def stored(self, pieces: Iterable[int], now: float) -> list[Action]:
        """Pieces were right and are on the disk."""
        actions: list[Action] = []
        for piece in pieces:
            if self.download is not None:
                actions += self._put(self.download.piece_stored(piece, now))
        return actions

    def corrupt(self, peer: PeerId, piece: int, now: float) -> list[Action]:
        """A piece from a peer did not match the hash tree."""
        return self._put(self.download.piece_corrupt(peer, piece, now)) if self.download is not None else []

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        return self._put(self.download.tick(now)) if self.download is not None else []

    def holdings(self) -> Mapping[PeerId, Bitfield]:
        """What each of the others says that it holds."""
        return self._sources

    def _stray(self, peer: PeerId) -> list[Action]:
        self._strays[peer] = self._strays.get(peer, 0) + 1
        if self._strays[peer] <= MOST_STRAYS:
            return []
        return [Leave(peer, f"it sent {self._strays[peer]} blocks that nobody asked for")]

    def _put(self, actions: Sequence[decided.Action]) -> list[Action]:
        """Decisions about pieces as decisions about messages."""
        made: list[Action] = []
        for action in actions:
            match action:
                case decided.Request(source, pieces):
                    made.append(Send(source, Request(self._blocks(pieces))))
                case decided.Cancel(source, pieces):
                    for piece in pieces:
                        self._parts.pop((source, piece), None)
                    made.append(Send(source, Cancel(self._blocks(pieces))))
                case decided.Drop(source, reason):
                    made.append(Leave(source, reason))
                case decided.Ban(source, reason):
                    if source not in self.banned:  # more wrong pieces may have been on their way with the first
                        made.append(Ban(source, reason))
                    self.banned[source] = reason
                case decided.Done():
                    made.append(Finished())
        return made

    def _blocks(self, pieces: Iterable[int]) -> tuple[Block, ...]:
        return tuple(block for piece in pieces for block in ranges(piece, self._shape.length_of(piece)))
