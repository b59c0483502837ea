"""Texts in client mode that live from call to call: give a whole text, get rows, and only what is new is computed.

A `FedText` keeps a conversation with the stages in a task of its own. Whoever asks gives the text as it is now; what it
has in common with the text as it was is in the stages' caches still. So beams that are reordered, drafts that are taken
back and texts that just grow are all the same: a text, and how many of its last rows are wanted.

The room that is set aside at the stages grows with the text, and a conversation in which nothing happens for a while is
ended, so that it costs nobody memory; the next question opens another one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import trio

from hivemind_p2p.errors import GenerationError, HivemindError, PromptTooLongError
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding.remote import RemoteModel
from hivemind_p2p.sharding.rows import Rows

IDLE_SECONDS = 60.0
"""Seconds without a question after which the stages are let go; they would do so themselves after 120."""

SPARE_ROOM = 64
"""Tokens of room beyond what is asked for at least: a text that grows token by token is not opened anew each time."""

BUDGET = 4
"""Tokens that may be computed, as a multiple of the room: texts that are taken back are computed in part again."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms texts are fed.

    Attributes:
        mode: ``LOGITS``, ``HIDDEN`` or ``STATES``.
        room: Tokens that a text is likely to come to.
        activations: How hidden states travel between stages; empty for their own dtype.
        wait_for_hosts: Seconds to wait for a host of layers that lack one; None for the usual.
    """

    mode: pb.Mode = pb.LOGITS
    room: int = 0
    activations: str = ""
    wait_for_hosts: float | None = None


@dataclass(slots=True, eq=False)
class _Question:
    text: list[int]
    wanted: int
    answered: trio.Event = field(default_factory=trio.Event)
    rows: dict[int, Array] | None = None
    error: BaseException | None = None


class FedText:
    """One text.

    Args:
        model: What computes it.
        terms: How.
        nursery: Where its task runs.

    Attributes:
        text: The tokens that the stages hold now.
    """

    def __init__(self, model: RemoteModel, terms: Terms, nursery: trio.Nursery) -> None:
        self.text: list[int] = []
        self._model = model
        self._terms = terms
        self._ask, self._asked = trio.open_memory_channel[_Question](0)
        self._room = 0
        self._budget = 0
        nursery.start_soon(self._run)

    async def rows(self, text: Sequence[int], wanted: int) -> dict[int, Array]:
        """The rows of the last tokens of a text.

        Args:
            text: All of it, at least one token.
            wanted: How many of its last tokens' rows are wanted, at least one.

        Returns:
            By 0 what the mode is named after: shape (wanted, vocabulary) or (wanted, hidden size), float32. In the
            mode ``STATES`` logits by 0, and hidden states by the number of layers that they are behind.

        Raises:
            PromptTooLongError: It does not fit the model's context.
            MissingLayersError: Layers have no host, and none came in time.
            GenerationError: It failed on one route after another.
        """
        context = self._model.described.context
        if len(text) > context:
            raise PromptTooLongError(f"{len(text)} tokens do not fit the context of {context}")
        question = _Question(list(text), wanted)
        try:
            await self._ask.send(question)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise GenerationError("the hive was closed") from None
        await question.answered.wait()
        if question.error is not None:
            raise question.error
        assert question.rows is not None
        return question.rows

    def close(self) -> None:
        """Lets the stages go, soon."""
        self._ask.close()

    async def _run(self) -> None:
        with self._asked:
            question = await self._next(math.inf)
            while question is not None:
                question = await self._converse(question)

    async def _next(self, seconds: float) -> _Question | None:
        """The next question; None if there is none in time, or none any more."""
        with trio.move_on_after(seconds):
            try:
                return await self._asked.receive()
            except trio.EndOfChannel:
                return None
        return None

    async def _converse(self, question: _Question) -> _Question | None:
        """One conversation with the stages; the first question of the next one, if there is one."""
        self.text = []
        self._room, self._budget = self._enough(len(question.text))
        following: _Question | None = question
        try:
            async with self._open() as rows:
                while following is not None and self._fits(following):
                    question, following = following, None
                    await self._answer(rows, question)
                    following = await self._next(IDLE_SECONDS)
        except HivemindError as error:
            self._refuse(question, error)
        except BaseException:
            self._refuse(question, GenerationError("the hive was closed before the text was computed"))
            raise
        self.text = []
        return following if following is not None else await self._next(math.inf)

    def _open(self) -> Any:
        terms = self._terms
        return self._model.rows(
            terms.mode,
            room=self._room,
            budget=self._budget,
            activations=terms.activations,
            wait_for_hosts=terms.wait_for_hosts,
        )

    def _enough(self, length: int) -> tuple[int, int]:
        room = min(max(self._terms.room, length + length // 2 + SPARE_ROOM), self._model.described.context)
        return room, BUDGET * room

    def _fits(self, question: _Question) -> bool:
        return len(question.text) <= self._room and len(question.text) - self._position(question) <= self._budget

    def _position(self, question: _Question) -> int:
        return min(common(self.text, question.text), len(question.text) - question.wanted)

    async def _answer(self, rows: Rows, question: _Question) -> None:
        position = self._position(question)
        new = question.text[position:]
        self._budget -= len(new)
        if self._terms.mode == pb.STATES:
            question.rows = await rows.states(position, new, rows=question.wanted)
        else:
            question.rows = {0: await rows.feed(position, new, rows=question.wanted)}
        self.text = question.text
        question.answered.set()

    def _refuse(self, question: _Question, error: BaseException) -> None:
        if not question.answered.is_set():
            question.error = error
            question.answered.set()


class FedTexts:
    """Several texts that belong together: the rows of a batch, or beams.

    Args:
        model: What computes them.
        terms: How.
        nursery: Where their tasks run.
    """

    def __init__(self, model: RemoteModel, terms: Terms, nursery: trio.Nursery) -> None:
        self._model = model
        self._terms = terms
        self._nursery = nursery
        self._held: list[FedText] = []

    async def rows(self, texts: Sequence[tuple[Sequence[int], int]]) -> list[dict[int, Array]]:
        """The rows of each text's last tokens, computed side by side.

        Args:
            texts: Each with how many of its last tokens' rows are wanted. Whose stages compute it is the business of
                this object: those that hold the most of it already.
        """
        found: list[dict[int, Array] | None] = [None] * len(texts)
        failures: list[HivemindError] = []
        chosen = self._assign([text for text, _ in texts])
        async with trio.open_nursery() as nursery:

            async def compute(index: int) -> None:
                try:
                    found[index] = await chosen[index].rows(*texts[index])
                except HivemindError as error:
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            for index in range(len(texts)):
                nursery.start_soon(compute, index)
        if failures:
            raise failures[0]
        return [rows for rows in found if rows is not None]

    def _assign(self, texts: Sequence[Sequence[int]]) -> list[FedText]:
        """To each text the one whose stages hold the most of it."""
        while len(self._held) < len(texts):
            self._held.append(FedText(self._model, self._terms, self._nursery))
        pairs = sorted(
            ((common(held.text, text), row, place) for row, text in enumerate(texts) for place, held in self._places()),
            key=lambda pair: -pair[0],
        )
        chosen: dict[int, FedText] = {}
        taken: set[int] = set()
        for _, row, place in pairs:
            if row not in chosen and place not in taken:
                chosen[row] = self._held[place]
                taken.add(place)
        return [chosen[row] for row in range(len(texts))]

    def _places(self) -> list[tuple[int, FedText]]:
        return list(enumerate(self._held))

    def close(self) -> None:
        """Lets all stages go, soon; further questions open them again."""
        held, self._held = self._held, []
        for each in held:
            each.close()


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens at the beginning of two texts are the same."""
    low, high = 0, min(len(first), len(second))
    # Whole slices are compared, in C, and halved: texts are long and agree in most of their length.
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


__all__ = ["FedText", "FedTexts", "Terms", "common"]
