"""What a caller may ask of tasks besides what they need: how important, how dear, how sure, how often."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Any, Final, Literal

from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.tasks.quorum import Quorum
from hivemind_p2p.types import CREDIT, Credits, Needs

Priority = Literal["low", "normal", "high"]
Trust = Literal["values", "pickle"]

PRIORITIES: Final[dict[str, int]] = {"low": -1, "normal": 0, "high": 1}
MOST_RETRIES: Final = 3
LONGEST_RETRIES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How tasks are to be run. Made by hand, or by ``hive.with_options(...)`` from names.

    Args:
        needs: What each needs of the machine.
        max_cost: Credits that one may cost at most, so that a greedy offer cannot empty an account; in a map over very
            many items, that a chunk of them may cost.
        max_retries: Times that one is given to another peer after a peer lost or refused it.
        priority: ``low``, ``normal`` or ``high``; higher ones start first among one's own.
        deadline: Seconds from its submission after which one is given up, wherever it is; None for never.
        idempotent: Whether one may run more than once. If not, one that may have begun is never begun again.
        verify: How many peers of different accounts have to agree about the result; None takes the first one.
        trust: ``values`` takes only data back. ``pickle`` takes any object, and only from peers of one's own account,
            since reading a pickle runs the code in it.
        stream: Whether what is printed comes while it runs; else its end comes with the result.
        keep: Whether it is written down, and goes on without this program: after a crash, ``hive.job(id)`` finds it.

    Attributes:
        limit: `max_cost` in millionths of a credit.
        level: `priority` as a number.
    """

    needs: Needs = field(default_factory=Needs)
    max_cost: Decimal | float | int | str = 1
    max_retries: int = MOST_RETRIES
    priority: Priority = "normal"
    deadline: float | None = None
    idempotent: bool = True
    verify: Quorum | None = None
    trust: Trust = "values"
    stream: bool = True
    keep: bool = False
    limit: Credits = field(init=False, repr=False, compare=False)
    level: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.priority not in PRIORITIES:
            raise ConfigurationError(f"not a priority: {self.priority!r}", hint="Say low, normal or high.")
        if self.trust not in ("values", "pickle"):
            raise ConfigurationError(f"not a kind of trust: {self.trust!r}", hint="Say values or pickle.")
        if not 0 <= self.max_retries <= LONGEST_RETRIES:
            raise ConfigurationError(f"not a number of retries: {self.max_retries}", hint="Say 0 to 1000.")
        if self.deadline is not None and not 0 < self.deadline < math.inf:
            raise ConfigurationError(f"not a deadline: {self.deadline}", hint="Say seconds from now.")
        if self.verify is not None and not self.idempotent:
            raise ConfigurationError("what is verified runs several times, and this may not run twice")
        if self.verify is not None and self.trust == "pickle":
            raise ConfigurationError("a quorum is of other accounts, and pickles are taken from one's own only")
        if self.keep and not (self.verify is None and self.trust == "values"):
            raise ConfigurationError("what is kept is a simple task, without a quorum and without pickles")
        object.__setattr__(self, "limit", credits_of(self.max_cost))
        object.__setattr__(self, "level", PRIORITIES[self.priority])

    @property
    def ordinary(self) -> bool:
        """Whether a task of these is given to any one peer, and forgotten once it has ended."""
        return self.verify is None and self.trust == "values" and not self.keep

    def but(self, **changes: Any) -> Options:
        """These options with some changed.

        Raises:
            ConfigurationError: There is no such option, or it cannot have this value.
        """
        names = [each.name for each in fields(self) if each.init]
        if unknown := changes.keys() - set(names):
            known = ", ".join(names)
            raise ConfigurationError(f"not an option: {', '.join(sorted(unknown))}", hint=f"There are {known}.")
        return replace(self, **changes)


def credits_of(amount: Decimal | float | int | str) -> Credits:
    """Whole credits as millionths.

    Raises:
        ConfigurationError: It is no amount, or below zero.
    """
    try:
        exact = Decimal(str(amount)) * CREDIT
        fits = 0 <= exact < 1 << 62
    except ArithmeticError:
        fits = False
    if not fits:
        raise ConfigurationError(f"not an amount of credits: {amount!r}", hint="Say a number such as 0.5.")
    return Credits(int(exact))


ORDINARY: Final = Options()
"""What holds unless something else is said."""
