"""What reaches a stage of one generation: checked, counted, and held back while the next stage is behind.

Pure. Positions count the tokens of the text. A piece that begins below what has arrived takes the text back to its
beginning: a draft was wrong, or the caller has changed its mind; one that begins above leaves a gap and is refused.

**The window.** A stage that computes a prompt faster than the next one would fill that one's memory. So the rows of a
prompt that were sent on and not yet taken are counted, and further ones wait here, where they still are token ids or
were counted by the stage before. A next token needs no window: the ring never holds more than one step of it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from hivemind_p2p.errors import ProtocolError

PREFILL_CHUNK = 512
"""Rows that travel in one piece at the most: bounds a frame (512 x 8192 x 4 bytes are 16 MiB)."""

WINDOW = 1024
"""Rows of prompts that a stage may be ahead of the next one: what is computed there, and what waits behind it."""

MOST_WAITING = 2 * WINDOW + PREFILL_CHUNK
"""Rows of hidden states that may wait at a stage: an honest neighbour never sends more."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows on their way through the stage.

    Attributes:
        position: Of the first row.
        rows: How many; with the drafts where they came from another stage.
        tokens: Ids, at the first stage.
        hidden: Hidden states as bytes, at others, and how they are written.
        last: Whether the next token is to be chosen after these.
        drafts: The last rows' tokens that are only guessed.
        wanted: How many of the last rows the caller wants to see.
        news: Tokens that were chosen, for who drafts.
    """

    position: int
    rows: int
    last: bool
    tokens: tuple[int, ...] = ()
    hidden: memoryview | None = None
    dtype: str = "float32"
    drafts: tuple[int, ...] = ()
    wanted: int = 0
    news: tuple[int, ...] = ()


class Intake:
    """What has arrived of one generation.

    Args:
        room: Tokens that the text may come to.
        budget: Rows that may arrive in all; 0 for no limit but the room.
        vocabulary: Token ids are below.
        reusable: Tokens at the beginning that are in the cache already.
        forwards: Whether somebody says when rows are taken: the next stage, or a caller who wants to see them.
        window: How many rows this stage may be ahead of that.
        most_waiting: Rows that may wait here.

    Attributes:
        arrived: Up to where the text is here.
        received: Pieces so far.
        done: Pieces of these that were computed.
    """

    def __init__(
        self,
        *,
        room: int,
        vocabulary: int,
        reusable: int = 0,
        budget: int = 0,
        forwards: bool = True,
        window: int = WINDOW,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self.arrived = reusable
        self.received = self.done = 0
        self._room = room
        self._vocabulary = vocabulary
        self._budget = budget
        self._forwards = forwards
        self._window = window
        self._most_waiting = most_waiting
        self._held: deque[Piece] = deque()
        self._waiting = 0
        self._ahead = 0
        self._in_all = 0

    @property
    def idle(self) -> bool:
        """Whether everything that came was computed."""
        return self.received == self.done

    def take(self, piece: Piece) -> list[Piece]:
        """Takes a piece in.

        Returns:
            What can be computed now.

        Raises:
            ProtocolError: It does not fit what came before, or cannot be at all.
        """
        self._check(piece)
        self.arrived = piece.position + piece.rows
        self.received += 1
        self._waiting += piece.rows
        self._in_all += piece.rows
        self._held.append(piece)
        return self._release()

    def computed(self, piece: Piece, *, drafted: int = 0) -> None:
        """A whole piece was computed, with so many drafts that this stage has added to it."""
        self.done += 1
        self._waiting -= piece.rows
        if drafted:
            self.arrived = piece.position + piece.rows + drafted

    def taken(self, rows: int) -> list[Piece]:
        """The next stage has computed so many rows of a prompt; what can be computed now."""
        self._ahead = max(0, self._ahead - rows)
        return self._release()

    def _release(self) -> list[Piece]:
        released = []
        while self._held and self._may_go(self._held[0]):
            piece = self._held.popleft()
            if windowed(piece):
                self._ahead += piece.rows
            released.append(piece)
        return released

    def _may_go(self, piece: Piece) -> bool:
        return not (self._forwards and windowed(piece)) or self._ahead + piece.rows <= self._window or not self._ahead

    def _check(self, piece: Piece) -> None:
        if piece.position > self.arrived or piece.position + piece.rows > self._room:
            raise ProtocolError(
                f"tokens {piece.position} to {piece.position + piece.rows} came where {self.arrived} have arrived "
                f"and {self._room} fit"
            )
        if piece.tokens and max(piece.tokens) >= self._vocabulary:
            raise ProtocolError("a token came that is not in the vocabulary")
        if self._budget and self._in_all + piece.rows > self._budget:
            raise ProtocolError(f"more than the {self._budget} tokens came that were agreed on")
        if self._waiting + piece.rows > self._most_waiting:
            raise ProtocolError(f"{self._waiting + piece.rows} rows came before any of them could be computed")


def windowed(piece: Piece) -> bool:
    """Whether the stage that gets it says when it has computed it."""
    return not piece.last


__all__ = ["Intake", "Piece", "windowed"]
