"""One generation in the engine's thread: from what arrived to a chunk, and from the engine's output to what goes on.

Everything but `add` is called in the thread that belongs to the engine, never in the network's loop.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hivemind_p2p.errors import GenerationError, HivemindError
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import quantise
from hivemind_p2p.sharding.choosing import Chooser, Drafter
from hivemind_p2p.sharding.chunks import Chunk, Engine, Output
from hivemind_p2p.sharding.intake import Piece
from hivemind_p2p.sharding.requests import OpenRequest

if TYPE_CHECKING:
    import torch

ROWS_MESSAGE_BYTES = 4 * 2**20
"""Bytes of one message with rows for the caller."""


class NonsenseError(Exception):
    """What the previous stage sent is no result of a model."""


@dataclass(slots=True)
class Part:
    """The rows of one piece that are computed in one step."""

    piece: Piece
    offset: int
    rows: int
    drafts: tuple[int, ...] = ()

    @property
    def position(self) -> int:
        """Of the first row."""
        return self.piece.position + self.offset

    @property
    def final(self) -> bool:
        """Whether the piece is complete with it."""
        return self.offset + self.rows == self.piece.rows

    @property
    def stop(self) -> int:
        """The position behind the last row, drafts included."""
        return self.position + self.rows + (len(self.drafts) if self.piece.tokens else 0)

    @property
    def chooses(self) -> bool:
        """Whether a token is chosen after it."""
        return self.final and self.piece.last

    @property
    def wanted(self) -> int:
        """How many of its last rows the caller wants to see."""
        return max(0, min(self.rows, self.offset + self.rows - (self.piece.rows - self.piece.wanted)))


@dataclass(frozen=True, slots=True)
class Made:
    """What became of a part: hidden states for the next stage, tokens, or rows for the caller; or an error.

    Attributes:
        nonsense: Whether the error is the previous stage's, not this one's.
    """

    part: Part
    forward: pb.Activations | None = None
    hidden: memoryview | None = None
    token: pb.Token | None = None
    rows: tuple[tuple[pb.Rows, memoryview], ...] = ()
    error: HivemindError | None = None
    nonsense: bool = False


class Computation:
    """A generation at one engine.

    Args:
        engine: Computes it.
        key: Its cache there.
        request: What its caller asked for.
        chooser: On the last stage, where tokens are chosen.
        drafter: On the first stage, where the caller asked for speculation.
        deliver: Called in the network's loop with what was made.
    """

    def __init__(
        self,
        engine: Engine,
        key: Hashable,
        request: OpenRequest,
        *,
        chooser: Chooser | None,
        drafter: Drafter | None,
        deliver: Callable[[Made], None],
    ) -> None:
        self.engine = engine
        self.key = key
        self.request = request
        self.deliver = deliver
        self._chooser = chooser
        self._drafter = drafter
        self._pieces: deque[Piece] = deque()
        self._offset = 0

    def add(self, piece: Piece) -> None:
        """Hands over a piece; called in the network's loop."""
        self._pieces.append(piece)

    def take(self, rows: int) -> Part:
        """The next rows, of one piece."""
        part = Part(self._pieces[0], self._offset, rows)
        self._offset += rows
        if part.final:
            self._pieces.popleft()
            self._offset = 0
        return part

    # -- before the engine

    def assemble(self, part: Part) -> Chunk:
        """The engine's input.

        Raises:
            NonsenseError: The previous stage has sent what is no hidden state.
        """
        piece = part.piece
        inputs = self._ids(part) if piece.hidden is None else self._hidden(part)
        return Chunk(self.key, part.position, inputs, self._logits(part))

    def _ids(self, part: Part) -> torch.Tensor:
        import torch

        piece = part.piece
        tokens = piece.tokens[part.offset : part.offset + part.rows]
        if self._drafter is not None and piece.last:
            if part.offset == 0 and piece.news:
                self._drafter.extend(piece.news)
            if part.chooses:
                # The last token of the text is never computed on, so it needs no draft behind it.
                most = min(self.request.drafts, self.request.room - part.position - part.rows - 1)
                part.drafts = tuple(self._drafter.draft(most)) if most > 0 else ()
        return torch.tensor(tokens + part.drafts, dtype=torch.int64)

    def _hidden(self, part: Part) -> torch.Tensor:
        piece = part.piece
        assert piece.hidden is not None
        if part.final:
            part.drafts = piece.drafts
        rows = self._decoded(piece, piece.hidden)
        rows = rows[part.offset : part.offset + part.rows]
        if not are_numbers(rows):
            raise NonsenseError(f"peer {self.request.previous} sent hidden states that are no numbers")
        return rows

    def _decoded(self, piece: Piece, payload: memoryview) -> torch.Tensor:
        import torch

        width = self.engine.shape.hidden_size
        if piece.dtype == self.engine.dtype == "float32" and not payload.readonly:
            # The usual case, and on the way of every token: the rows are computed on where they were received.
            return torch.frombuffer(payload, dtype=torch.float32).view(piece.rows, width)
        return quantise.decode(payload, piece.rows, width, piece.dtype, self.engine.dtype)

    def _logits(self, part: Part) -> int:
        if not self.engine.last:
            return 0
        if self.request.mode in {pb.LOGITS, pb.STATES}:
            return part.wanted
        return len(part.drafts) + 1 if part.chooses and self._chooser is not None else 0

    # -- behind the engine

    def conclude(self, part: Part, output: Output) -> Made:
        """What goes on."""
        if output.error is not None:
            return Made(part, error=GenerationError(output.error))
        if not self.engine.last:
            return self._forward(part, output)
        if part.wanted and self.request.mode == pb.STATES:
            return Made(part, rows=(*self._states(part, output), *self._rows(part, output.logits)))
        if part.wanted:
            return Made(part, rows=self._rows(part, output.logits if self.request.mode == pb.LOGITS else output.hidden))
        if part.chooses and self._chooser is not None:
            return self._choose(part, output, self._chooser)
        return Made(part)

    def _forward(self, part: Part, output: Output) -> Made:
        if output.hidden is None:
            raise GenerationError(f"layers {self.engine.span} gave no hidden states")
        written = self.request.activations or native_encoding(self.engine.dtype)
        header = pb.Activations(
            position=part.position,
            tokens=len(output.hidden),
            dtype=written,
            last=part.chooses,
            drafts=part.drafts,
            rows=part.wanted,
        )
        states = self._states(part, output) if self.request.mode == pb.STATES else ()
        return Made(part, forward=header, hidden=_encoded(output.hidden, written), rows=states)

    def _choose(self, part: Part, output: Output, chooser: Chooser) -> Made:
        if output.logits is None:
            raise GenerationError(f"layers {self.engine.span} gave no logits")
        position = part.stop - len(part.drafts)
        chosen = chooser.choose(output.logits, position, part.drafts)
        tokens = self._until_end(position, chosen.tokens)
        ended = tokens[-1] in self.request.ends or position + len(tokens) >= self.request.room
        token = pb.Token(
            position=position,
            tokens=tokens,
            finished=ended,
            log_probabilities=chosen.log_probabilities[: len(tokens)],
            likeliest=chosen.likeliest[: len(tokens)],
            drafted=len(part.drafts),
        )
        return Made(part, token=token)

    def _until_end(self, position: int, tokens: Sequence[int]) -> list[int]:
        kept: list[int] = []
        for token in tokens[: self.request.room - position]:
            kept.append(token)
            if token in self.request.ends:
                break
        return kept

    def _states(self, part: Part, output: Output) -> tuple[tuple[pb.Rows, memoryview], ...]:
        return self._rows(part, output.hidden, layer=self.engine.span.stop) if part.wanted else ()

    def _rows(self, part: Part, found: Any, *, layer: int = 0) -> tuple[tuple[pb.Rows, memoryview], ...]:
        if found is None:
            raise GenerationError(f"layers {self.engine.span} did not give what was wanted of them")
        found = found[len(found) - part.wanted :]
        width = found.shape[1]
        each = max(1, ROWS_MESSAGE_BYTES // (4 * width))
        first = part.stop - part.wanted
        return tuple(
            (
                pb.Rows(position=first + start, count=len(found[start : start + each]), width=width, layer=layer),
                quantise.encode(found[start : start + each], "float32"),
            )
            for start in range(0, part.wanted, each)
        )


def _encoded(hidden: torch.Tensor, written: str) -> memoryview:
    import torch

    if written == "float32" and hidden.dtype is torch.float32 and hidden.is_cpu and hidden.is_contiguous():
        array: Any = hidden.numpy()
        return memoryview(array).cast("B")
    return quantise.encode(hidden, written)


def are_numbers(rows: torch.Tensor) -> bool:
    """Whether no row holds NaN or infinity. The sum tells it in one pass: what makes a sum infinite is no model's."""
    return math.isfinite(rows.sum().item())


def native_encoding(dtype: str) -> str:
    """How hidden states of a dtype are written without loss."""
    return dtype if dtype in quantise.ENCODINGS else "float32"


__all__ = ["Computation", "Made", "NonsenseError", "Part", "are_numbers", "native_encoding"]
