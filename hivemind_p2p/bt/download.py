"""One download as a state machine: what the sources do goes in, what to do about it comes out.

It decides which source is asked for which piece, how many requests each has in flight, when a source has been silent
for too long, and who is banned. It knows neither network nor disk nor clock; `member.py` puts it beside the deciding
of what is given to others, and `exchange.py` performs what comes out.

A piece comes whole from one source, so that who sent wrong bytes is beyond doubt. Only at the end, when every piece
that is missing has been asked for, a piece that takes long is asked of a second source as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.picker import PiecePicker
from hivemind_p2p.bt.request_window import ArrivalRate, RequestWindow
from hivemind_p2p.types import PeerId

LARGEST_WINDOW = 128
"""Pieces in flight from a source, however small they are."""

RANDOM_FIRST = 4
"""Pieces that are taken in the order handed in before rarity counts."""

ENDGAME_AFTER = 1.0
"""Seconds for which a piece may be on its way before, at the end, a second source is asked."""

MOST_ASKED = 2
"""Sources that one piece is asked of at the same time."""

LONGEST_QUEUE = 5.0
"""Patiences by which a source is given more time because this peer's own link is busy with what others send."""

SNUB = 2.0
"""A source that stays silent for this many times the patience is left; after once its pieces are asked of others."""


@dataclass(frozen=True, slots=True)
class Request:
    """Ask a source for pieces."""

    source: PeerId
    pieces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Take requests to a source back."""

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


Action: TypeAlias = Request | Cancel | Drop | Ban | Done


@dataclass(slots=True)
class _Source:
    held: Bitfield
    heard_at: float
    window: RequestWindow
    asked: dict[int, float] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)
    in_flight: int = 0
    refusals: int = 0
    choking: bool = False
    snubs: bool = False


class Download:
    """Fetches the missing pieces of a content from sources that come and go.

    Args:
        pieces: How many pieces the content has.
        missing: Which of them are wanted, in the order in which equally rare ones are asked for.
        piece_length: Bytes of a piece that is no file's last one.
        length_of: Bytes of each piece.
        patience: Seconds without any piece after which a source that was asked for one counts as silent.
        now: The time, on any clock that only moves forward. All later `now` are on the same one.
        urgent: Pieces that are asked for before all others, in this order.
        random_first: See `PiecePicker`.
    """

    def __init__(
        self,
        pieces: int,
        missing: Sequence[int],
        *,
        piece_length: int,
        length_of: Callable[[int], int],
        patience: float,
        now: float,
        urgent: Iterable[int] = (),
        random_first: int = RANDOM_FIRST,
    ) -> None:
        self.pieces = pieces
        self.patience = patience
        self.banned: set[PeerId] = set()
        self.picker = PiecePicker(pieces, missing, urgent=urgent, random_first=random_first)
        self._piece_length = piece_length
        self._length_of = length_of
        self._sources: dict[PeerId, _Source] = {}
        self._askers: dict[int, set[PeerId]] = {}
        self._unchecked: set[int] = set()
        self._arrivals = ArrivalRate(now)
        self._progress_at = now

    @property
    def missing(self) -> int:
        """How many wanted pieces have not been stored."""
        return self.picker.missing

    @property
    def sources(self) -> tuple[PeerId, ...]:
        """Who takes part."""
        return tuple(self._sources)

    def stalled_for(self, now: float) -> float:
        """Seconds since which nothing moves and nothing is on its way; 0 while something is."""
        return 0.0 if self.picker.taken else now - self._progress_at

    @property
    def promised(self) -> bool:
        """Whether some source has a piece that is missing, though it may not give it now."""
        return any(self.picker.wants_from(state.held) for state in self._sources.values())

    def expects(self, source: PeerId, piece: int) -> bool:
        """Whether a piece from a source is of use: it was asked for, even if that was taken back meanwhile."""
        state = self._sources.get(source)
        return state is not None and (piece in state.asked or self._late(piece, state))

    def _late(self, piece: int, state: _Source) -> bool:
        return piece in state.cancelled and self.picker.is_missing(piece) and piece not in self._unchecked

    def snubs(self, source: PeerId) -> bool:
        """Whether a source was asked and sends nothing."""
        state = self._sources.get(source)
        return state is not None and state.snubs

    # -- sources -----------------------------------------------------------------------------------------------------

    def source_joined(self, source: PeerId, held: Bitfield, now: float, *, choking: bool = False) -> list[Action]:
        """A source said what it holds."""
        if source in self.banned:
            return [Drop(source, "it is banned")]
        if source in self._sources:
            return []
        self._sources[source] = _Source(held.copy(), now, RequestWindow(self._piece_length), choking=choking)
        self.picker.joined(held)
        if self.picker.wants_from(held):
            self._progress_at = now
        return self._ask([source], now)

    def source_has(self, source: PeerId, pieces: Iterable[int], now: float) -> list[Action]:
        """A source has got more pieces. Numbers that are no piece are left out."""
        state = self._sources.get(source)
        if state is None:
            return []
        for piece in pieces:
            if 0 <= piece < self.pieces and state.held.add(piece):
                self.picker.gained(state.held, piece)
        return self._ask([source], now)

    def source_lost(self, source: PeerId, pieces: Iterable[int]) -> None:
        """A source does not hold pieces any more."""
        state = self._sources.get(source)
        if state is None:
            return
        for piece in pieces:
            if state.held.discard(piece):
                self.picker.lost(state.held, piece)

    def source_chokes(self, source: PeerId, choking: bool, now: float) -> list[Action]:
        """A source refuses requests from now on, and answers those it has with refusals; or takes requests again."""
        state = self._sources.get(source)
        if state is None:
            return []
        state.choking = choking
        return self._ask([source], now)

    def source_left(self, source: PeerId, now: float) -> list[Action]:
        """The connection to a source ended. What it was asked for is asked of others."""
        state = self._sources.pop(source, None)
        if state is not None:
            self.picker.left(state.held)
            self._put_back(source, tuple(state.asked), state)
        return self._ask(self._sources, now)

    # -- pieces ------------------------------------------------------------------------------------------------------

    def block_arrived(self, source: PeerId, now: float) -> None:
        """A part of a piece came."""
        state = self._sources.get(source)
        if state is not None:
            state.heard_at = now

    def piece_arrived(self, source: PeerId, piece: int, now: float) -> list[Action]:
        """A source sent a piece, which is checked and stored next. The source can be asked for another already."""
        state = self._sources.get(source)
        if state is None:
            return []
        late = self._late(piece, state)
        if piece not in state.asked and not late:
            if piece in state.cancelled:
                state.cancelled.discard(piece)
                return []
            return self._leave(Drop(source, f"it sent piece {piece}, which it was not asked for"), now)
        state.heard_at = now
        state.snubs = False
        state.cancelled.discard(piece)
        if late:
            self.picker.take(piece)
        else:
            self._answered(source, piece, state)
        self._unchecked.add(piece)
        self._arrivals.arrived(self._length_of(piece), now)
        state.window.arrived(piece, self._length_of(piece), now)
        return [*self._cancel_others(piece), *self._ask([source], now)]

    def piece_stored(self, piece: int, now: float) -> list[Action]:
        """A piece was right and is on the disk."""
        self.picker.stored(piece)
        self._unchecked.discard(piece)
        self._progress_at = now
        return [Done()] if self.missing == 0 else []

    def piece_corrupt(self, source: PeerId, piece: int, now: float) -> list[Action]:
        """A piece from this source did not match the hash tree."""
        self.banned.add(source)
        self._unchecked.discard(piece)
        self.picker.put_back([piece])
        return self._leave(Ban(source, f"piece {piece} from it does not match the hash tree"), now)

    def piece_refused(self, source: PeerId, piece: int, now: float) -> list[Action]:
        """A source said that it cannot send a piece that it was asked for."""
        state = self._sources.get(source)
        if state is None or piece not in state.asked:
            return []
        state.heard_at = now
        self._put_back(source, (piece,), state)
        state.refusals += 1
        if state.choking:
            return self._ask(self._sources, now)
        if state.refusals > self.pieces:
            # Otherwise one that tells of a piece and refuses it, in turns, would keep a download alive for ever.
            return self._leave(Drop(source, f"it refused {state.refusals} requests"), now)
        if state.held.discard(piece):
            self.picker.lost(state.held, piece)
        return self._ask(self._sources, now)

    def hurry(self, pieces: Iterable[int], now: float) -> list[Action]:
        """These are wanted before all others from now on, in this order."""
        self.picker.hurry(pieces)
        return self._ask(self._sources, now)

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Time has passed: takes work from silent sources, leaves those silent for long, and finishes the end."""
        actions: list[Action] = []
        patience = self._patience_with_all(now)
        for source, state in list(self._sources.items()):
            silent = now - state.heard_at
            if not state.asked or silent < patience:
                continue
            if not state.snubs:
                state.snubs = True
                actions += self._snub(source, state, now)
            elif silent >= patience * SNUB:
                reason = f"it sent nothing for {silent:.0f} seconds with {len(state.asked)} pieces asked for"
                actions += self._leave(Drop(source, reason), now)
        return actions + self._endgame(now)

    def _patience_with_all(self, now: float) -> float:
        """The patience, longer where pieces do come, but more are on their way than this peer's own link can take."""
        if now - self._arrivals.last_at >= self.patience:
            return self.patience
        in_flight = sum(state.in_flight for state in self._sources.values())
        return self.patience + min(in_flight / max(self._arrivals.rate(now), 1.0), LONGEST_QUEUE * self.patience)

    def _snub(self, source: PeerId, state: _Source, now: float) -> list[Action]:
        """All but one of its pieces are asked of others; that one it may still send, and is then back in favour."""
        *others, _ = state.asked
        if len(state.asked) == 1:
            return []
        self._put_back(source, tuple(others), state)
        state.cancelled.update(others)
        return [Cancel(source, tuple(others)), *self._ask(self._sources, now)]

    def _endgame(self, now: float) -> list[Action]:
        if self.picker.open or not self.picker.taken:
            return []
        late = [
            piece
            for piece, askers in self._askers.items()
            if 0 < len(askers) < MOST_ASKED and all(self._asked_long_ago(peer, piece, now) for peer in askers)
        ]
        actions: list[Action] = []
        for source, state in self._sources.items():
            if state.choking or state.snubs:
                continue
            mine = [piece for piece in late if piece in state.held and source not in self._askers[piece]]
            mine = mine[: self._room(state)]
            late = [piece for piece in late if piece not in mine]
            actions += self._request(source, mine, now)
        return actions

    def _asked_long_ago(self, source: PeerId, piece: int, now: float) -> bool:
        return now - self._sources[source].asked[piece] >= ENDGAME_AFTER

    # -- asking ------------------------------------------------------------------------------------------------------

    def _leave(self, action: Drop | Ban, now: float) -> list[Action]:
        return [action, *self.source_left(action.source, now)]

    def _ask(self, sources: Iterable[PeerId], now: float) -> list[Action]:
        actions: list[Action] = []
        for source in sources:
            if not self.picker.open:
                break
            state = self._sources[source]
            if state.choking or state.snubs:
                continue
            if (room := self._room(state)) > 0:
                actions += self._request(source, self.picker.pick(state.held, room), now)
        return actions

    def _room(self, state: _Source) -> int:
        """Pieces to ask for now. Nothing until a quarter of the window is free: few messages carry many requests."""
        free = state.window.bytes - state.in_flight
        if state.asked and free * 4 < state.window.bytes:
            return 0
        return min(-(-free // self._piece_length), LARGEST_WINDOW - len(state.asked))

    def _request(self, source: PeerId, pieces: Sequence[int], now: float) -> list[Action]:
        if not pieces:
            return []
        state = self._sources[source]
        if not state.asked:
            state.heard_at = now
        for piece in pieces:
            state.asked[piece] = now
            state.cancelled.discard(piece)
            state.in_flight += self._length_of(piece)
            state.window.asked(piece, now)
            self._askers.setdefault(piece, set()).add(source)
        return [Request(source, tuple(pieces))]

    def _answered(self, source: PeerId, piece: int, state: _Source) -> None:
        del state.asked[piece]
        state.in_flight -= self._length_of(piece)
        askers = self._askers.get(piece, set())
        askers.discard(source)
        if not askers:
            self._askers.pop(piece, None)

    def _put_back(self, source: PeerId, pieces: Sequence[int], state: _Source) -> None:
        for piece in pieces:
            self._answered(source, piece, state)
            state.window.forget(piece)
            if piece not in self._askers:
                self.picker.put_back([piece])

    def _cancel_others(self, piece: int) -> list[Action]:
        actions: list[Action] = []
        for other in tuple(self._askers.get(piece, ())):
            state = self._sources[other]
            self._answered(other, piece, state)
            state.window.forget(piece)
            state.cancelled.add(piece)
            actions.append(Cancel(other, (piece,)))
        return actions

    def cancel_all(self) -> list[Cancel]:
        """Takes every request back: the download is over."""
        return [Cancel(source, tuple(state.asked)) for source, state in self._sources.items() if state.asked]
