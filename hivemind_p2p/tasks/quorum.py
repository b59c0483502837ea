"""Which of several answers to the same task is right: those that enough peers of different accounts agree about.

A decision core: answers go in, what to do next comes out. One account has one voice, however many peers it has. As many
copies run as have to agree; only where they do not, or where one failed, another is asked, up to a number of answers.

Answers agree if their values are equal, or, with a tolerance, if they differ in floating-point numbers only and those
are close. Being close is not transitive, so an answer joins the first group whose first member it is close to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.types import PeerId

MOST_VOICES: Final = 99


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many peers have to agree.

    Args:
        agree: Answers that have to be alike.
        of: Answers that are asked for at most.
        tolerance: How far floating-point numbers may be apart, relative to the larger one; 0 for not at all.
        absolute: The same as a difference, for numbers near zero.

    Example:
        >>> Quorum(2, of=3)
        Quorum(agree=2, of=3, tolerance=0.0, absolute=0.0)
    """

    agree: int
    of: int = 0
    tolerance: float = 0.0
    absolute: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", self.of or self.agree)
        if not 2 <= self.agree <= self.of <= MOST_VOICES:
            raise ConfigurationError(
                f"{self.agree} of {self.of} answers cannot be a quorum", hint="Say for example Quorum(2, of=3)."
            )
        if 2 * self.agree <= self.of:
            raise ConfigurationError(
                f"of {self.of} answers two groups of {self.agree} could disagree", hint="Ask more than half to agree."
            )
        if not (0 <= self.tolerance < math.inf and 0 <= self.absolute < math.inf):
            raise ConfigurationError(f"not a tolerance: {self.tolerance}, {self.absolute}")

    def same(self, one: Any, other: Any) -> bool:
        """Whether two values count as the same answer."""
        return alike(one, other, self.tolerance, self.absolute)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one peer said.

    Attributes:
        peer: Who it is.
        account: Whose it is.
        value: Its result; None where it failed.
        error: What it said failed in the task itself: an answer too; empty for a value.
    """

    peer: PeerId
    account: str
    value: Any = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """So many more copies are to be started, on peers of none of these accounts."""

    copies: int
    accounts: frozenset[str]


@dataclass(frozen=True, slots=True)
class Agreed:
    """The answer, who gave it, and who gave another."""

    answer: Answer
    majority: tuple[Answer, ...]
    minority: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Disagreed:
    """No answer will have enough voices.

    Attributes:
        groups: How many gave each answer, the most frequent first.
    """

    groups: tuple[int, ...]
    answers: tuple[Answer, ...]


Verdict = Agreed | Disagreed


@dataclass(slots=True)
class Vote:
    """One task's answers so far.

    Attributes:
        quorum: What has to be reached.
        running: Copies that have not ended.
        verdict: How it ended; None while it goes on.
    """

    quorum: Quorum
    running: int = 0
    verdict: Verdict | None = None
    _groups: list[list[Answer]] = field(default_factory=list)

    @property
    def answers(self) -> list[Answer]:
        """All that count, in the order in which they came."""
        return [answer for group in self._groups for answer in group]

    @property
    def accounts(self) -> frozenset[str]:
        """Accounts that have spoken."""
        return frozenset(answer.account for answer in self.answers)

    def begin(self) -> Ask:
        """The first copies."""
        self.running = self.quorum.agree
        return Ask(self.running, frozenset())

    def answered(self, answer: Answer) -> Ask | Verdict | None:
        """A copy has ended; what follows, None for waiting on."""
        self.running -= 1
        if self.verdict is not None:
            return None
        if answer.account not in self.accounts:
            self._add(answer)
        return self._decide()

    def lost(self) -> Ask | Verdict | None:
        """A copy ended without an answer: nobody could run it."""
        self.running -= 1
        return self._decide() if self.verdict is None else None

    def _add(self, answer: Answer) -> None:
        for group in self._groups:
            if self._agree(group[0], answer):
                group.append(answer)
                return
        self._groups.append([answer])

    def _agree(self, one: Answer, other: Answer) -> bool:
        if one.error or other.error:
            return one.error == other.error
        return self.quorum.same(one.value, other.value)

    def _decide(self) -> Ask | Verdict | None:
        best = max(self._groups, key=len, default=[])
        if len(best) >= self.quorum.agree:
            minority = tuple(answer for group in self._groups if group is not best for answer in group)
            self.verdict = Agreed(best[0], tuple(best), minority)
            return self.verdict
        missing = self.quorum.agree - len(best)
        left = self.quorum.of - len(self.answers)
        if missing > left:
            self.verdict = self._disagreed()
            return self.verdict
        if self.running >= missing:
            return None
        copies = missing - self.running
        self.running += copies
        return Ask(copies, self.accounts)

    def give_up(self) -> Disagreed:
        """There is nobody else to ask."""
        disagreed = self._disagreed()
        self.verdict = disagreed
        return disagreed

    def _disagreed(self) -> Disagreed:
        return Disagreed(tuple(sorted(map(len, self._groups), reverse=True)), tuple(self.answers))


def alike(one: Any, other: Any, tolerance: float = 0.0, absolute: float = 0.0) -> bool:
    """Whether two safe values are the same, but for floating-point numbers that are close.

    NaN is like NaN here: two peers that both found that there is no number agree.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return _close(one, other, tolerance, absolute)
    if isinstance(one, complex):
        return all(_close(*parts, tolerance, absolute) for parts in ((one.real, other.real), (one.imag, other.imag)))
    if isinstance(one, list | tuple | dict):
        return _containers_alike(one, other, tolerance, absolute)
    if hasattr(one, "dtype") and hasattr(one, "shape"):
        return _arrays_alike(one, other, tolerance, absolute)
    return bool(one == other)


def _containers_alike(one: Any, other: Any, tolerance: float, absolute: float) -> bool:
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key], tolerance, absolute) for key in one)
    return all(alike(a, b, tolerance, absolute) for a, b in zip(one, other, strict=True))


def _close(one: float, other: float, tolerance: float, absolute: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return one == other or math.isclose(one, other, rel_tol=tolerance, abs_tol=absolute)


def _arrays_alike(one: Any, other: Any, tolerance: float, absolute: float) -> bool:
    if one.dtype != other.dtype or tuple(one.shape) != tuple(other.shape):
        return False
    import numpy

    if type(one) is not numpy.ndarray:
        import torch

        floating = one.is_floating_point() or one.is_complex()
        close = torch.isclose(one, other, rtol=tolerance, atol=absolute, equal_nan=True) if floating else one == other
        return bool(close.all())
    floating = numpy.issubdtype(one.dtype, numpy.inexact)
    if not floating:
        return bool(numpy.array_equal(one, other))
    return bool(numpy.isclose(one, other, rtol=tolerance, atol=absolute, equal_nan=True).all())


def group_sizes(groups: Sequence[int]) -> str:
    """For people: ``2 and 1``, or ``none``."""
    return " and ".join(map(str, groups)) or "none"
