"""One download as a state machine: what the sources do goes in, what to do about it comes out.

It decides which source is asked for which piece, how many requests each has in flight, when a source has been silent
for too long, and who is banned. It knows neither network nor disk nor clock; `fetching.py` performs its actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.picker import PiecePicker
from hivemind_p2p.types import PeerId

FIRST_WINDOW = 4
"""Requests in flight to a source that has not shown yet how fast it is."""

WINDOW_BYTES = 8 * 1024 * 1024
"""Bytes in flight to a fast source: 80 ms of a gigabit a second."""

LARGEST_WINDOW = 64
"""Requests in flight to a source, however small the pieces are."""


@dataclass(frozen=True, slots=True)
class Request:
    """Ask a source for pieces."""

    source: PeerId
    pieces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Leave a source; it may be tried again later."""

    source: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Ban:
    """Leave a source and never take anything of this content from it again."""

    source: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """Every wanted piece is stored."""


Action: TypeAlias = Request | Drop | Ban | Done


@dataclass(slots=True)
class _Source:
    held: Bitfield
    heard_at: float
    window: int
    asked: dict[int, None] = field(default_factory=dict)
    refusals: int = 0


class Download:
    """Fetches the missing pieces of a content from sources that come and go.

    Args:
        pieces: How many pieces the content has.
        missing: Which of them are wanted, in the order in which equally rare ones are asked for.
        piece_length: Bytes of a piece.
        patience: Seconds without any piece after which a source that was asked for one is left.
        now: The time, on any clock that only moves forward. All later `now` are on the same one.
    """

    def __init__(self, pieces: int, missing: Sequence[int], *, piece_length: int, patience: float, now: float) -> None:
        self.pieces = pieces
        self.patience = patience
        self.banned: set[PeerId] = set()
        self._picker = PiecePicker(pieces, missing)
        self._sources: dict[PeerId, _Source] = {}
        self._largest_window = max(2, min(LARGEST_WINDOW, WINDOW_BYTES // piece_length))
        self._progress_at = now

    @property
    def missing(self) -> int:
        """How many wanted pieces have not been stored."""
        return self._picker.missing

    @property
    def sources(self) -> tuple[PeerId, ...]:
        """Who takes part."""
        return tuple(self._sources)

    def stalled_for(self, now: float) -> float:
        """Seconds since which nothing moves and nothing is on its way; 0 while something is."""
        return 0.0 if self._picker.taken else now - self._progress_at

    def expects(self, source: PeerId, piece: int) -> bool:
        """Whether a source was asked for a piece that has not arrived."""
        state = self._sources.get(source)
        return state is not None and piece in state.asked

    def source_joined(self, source: PeerId, held: Bitfield, now: float) -> list[Action]:
        """A source said what it holds."""
        if source in self.banned:
            return [Drop(source, "it is banned")]
        if source in self._sources:
            return []
        self._sources[source] = _Source(held.copy(), now, min(FIRST_WINDOW, self._largest_window))
        self._picker.joined(held)
        if self._picker.wants_from(held):
            self._progress_at = now
        return self._ask([source], now)

    def source_has(self, source: PeerId, pieces: Iterable[int], now: float) -> list[Action]:
        """A source has got more pieces. Numbers that are no piece are left out."""
        state = self._sources.get(source)
        if state is None:
            return []
        for piece in pieces:
            if 0 <= piece < self.pieces and state.held.add(piece):
                self._picker.gained(state.held, piece)
        return self._ask([source], now)

    def piece_arrived(self, source: PeerId, piece: int, now: float) -> list[Action]:
        """A source sent a piece, which is checked and stored next. The source can be asked for another already."""
        state = self._sources.get(source)
        if state is None:
            return []
        if piece not in state.asked:
            return self._leave(Drop(source, f"it sent piece {piece}, which it was not asked for"), now)
        del state.asked[piece]
        state.heard_at = now
        state.window = min(state.window + 1, self._largest_window)
        return self._ask([source], now)

    def piece_stored(self, piece: int, now: float) -> list[Action]:
        """A piece was right and is on the disk."""
        self._picker.stored(piece)
        self._progress_at = now
        return [Done()] if self.missing == 0 else []

    def piece_corrupt(self, source: PeerId, piece: int, now: float) -> list[Action]:
        """A piece from this source did not match the hash tree."""
        self.banned.add(source)
        self._picker.put_back([piece])
        return self._leave(Ban(source, f"piece {piece} from it does not match the hash tree"), now)

    def piece_refused(self, source: PeerId, piece: int, now: float) -> list[Action]:
        """A source said that it cannot send a piece that it was asked for."""
        state = self._sources.get(source)
        if state is None or piece not in state.asked:
            return []
        del state.asked[piece]
        state.heard_at = now
        self._picker.put_back([piece])
        state.refusals += 1
        if state.refusals > self.pieces:
            # Otherwise one that tells of a piece and refuses it, in turns, would keep a download alive for ever.
            return self._leave(Drop(source, f"it refused {state.refusals} requests"), now)
        if state.held.discard(piece):
            self._picker.lost(state.held, piece)
        return self._ask(self._sources, now)

    def source_left(self, source: PeerId, now: float) -> list[Action]:
        """The connection to a source ended. What it was asked for is asked of others."""
        state = self._sources.pop(source, None)
        if state is not None:
            self._picker.left(state.held)
            self._picker.put_back(state.asked)
        return self._ask(self._sources, now)

    def tick(self, now: float) -> list[Action]:
        """Time has passed: leaves the sources that have been silent for too long."""
        actions: list[Action] = []
        for source, state in list(self._sources.items()):
            if state.asked and now - state.heard_at >= self.patience:
                reason = (
                    f"it sent nothing for {now - state.heard_at:.0f} seconds with {len(state.asked)} pieces asked for"
                )
                actions += self._leave(Drop(source, reason), now)
        return actions

    def _leave(self, action: Drop | Ban, now: float) -> list[Action]:
        return [action, *self.source_left(action.source, now)]

    def _ask(self, sources: Iterable[PeerId], now: float) -> list[Action]:
        actions: list[Action] = []
        for source in sources:
            state = self._sources[source]
            pieces = self._picker.pick(state.held, state.window - len(state.asked))
            if not pieces:
                continue
            if not state.asked:
                state.heard_at = now
            state.asked.update(dict.fromkeys(pieces))
            actions.append(Request(source, tuple(pieces)))
        return actions
