"""Paying for many tasks at once: what is allowed, what was done, what is billed. Both sides of it; no clock, no keys.

The caller allows its worker unbilled work of up to some limit: an **allowance**. The worker counts what tasks cost,
says it with each result, and now and then writes a bill for many of them, which uses one allowance up. The caller pays
no more than what it was told with results that it has taken; so nothing that is lost on the way is paid. Two
allowances are open as a rule, so that work goes on while a bill is on its way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from hivemind_p2p.errors import VoucherError
from hivemind_p2p.types import Credits

BILL_AFTER: Final = 0.05
"""Seconds after which work is billed: hundreds of small tasks share the signatures, which cost as much as ten of
them, and a caller sees what it pays while it looks."""

BILL_AFTER_QUIET: Final = 0.003
"""Seconds after which work is billed when nothing else is under way: longer than who waits for one result takes to ask
for the next."""

ALLOWANCE_LIFETIME: Final = 240.0
"""Seconds that an allowance is used. The books on both sides forget what was set aside after twice that and more."""

OPEN_ALLOWANCES: Final = 2
"""Allowances that a caller with work under way keeps open."""

CAUTION: Final = 4
"""How many times the usual cost is expected of a task that lies ready."""


@dataclass(frozen=True, slots=True)
class BillDraft:
    """A bill to be written.

    Attributes:
        number: 1, 2, 3, ...
        limit: Of the allowance that it uses up.
        amount: Millionths of a credit.
        what: One line for the statement.
    """

    number: int
    limit: Credits
    amount: Credits
    what: str


@dataclass(slots=True)
class _Allowance:
    limit: int
    until: float


@dataclass(slots=True)
class WorkerTab:
    """The worker's side of one channel.

    Attributes:
        slots: Tasks that may run at once.
        unbilled: What was done and is not billed.
        open_bills: Amounts by bill number.
    """

    slots: int
    unbilled: int = 0
    open_bills: dict[int, int] = field(default_factory=dict)
    _allowances: list[_Allowance] = field(default_factory=list)
    _since: float | None = None
    _last: float = 0.0
    _kinds: Counter[str] = field(default_factory=Counter)
    _usual: float | None = None
    _bills: int = 0

    def allow(self, limit: int, now: float) -> None:
        """The caller has set this aside."""
        self._allowances.append(_Allowance(limit, now + ALLOWANCE_LIFETIME))

    def expire(self, now: float) -> list[int]:
        """Limits of allowances that are too old to be used; they are given back."""
        old = [each.limit for each in self._allowances if each.until <= now]
        self._allowances = [each for each in self._allowances if each.until > now]
        return old

    def take_back(self) -> list[int]:
        """All limits that are left; they are given back."""
        left = [each.limit for each in self._allowances]
        self._allowances.clear()
        return left

    @property
    def allowed(self) -> int:
        """The sum of the allowances."""
        return sum(each.limit for each in self._allowances)

    def covers(self, under_way: int, max_cost: int) -> bool:
        """Whether one more task may be begun beside those under way.

        As many as run at once may cost all that they are allowed; those that lie ready are expected to cost what
        such tasks do.
        """
        usual = max_cost if self._usual is None else min(max_cost, CAUTION * self._usual)
        at_once = min(under_way + 1, self.slots)
        return self.unbilled + at_once * max_cost + (under_way + 1 - at_once) * usual <= self.allowed or (
            not under_way and self.unbilled + max_cost <= self.allowed
        )

    def done(self, cost: int, kind: str, now: float) -> None:
        """A task has ended, and costs this."""
        self._usual = cost if self._usual is None or cost > self._usual else 0.9 * self._usual + 0.1 * cost
        if not cost:
            return
        self.unbilled += cost
        self._kinds[kind] += 1
        self._last = now
        if self._since is None:
            self._since = now

    def due_at(self, *, quiet: bool) -> float | None:
        """When a bill is to be written; None while there is nothing to bill, or nothing to bill it on.

        Args:
            quiet: Whether no task is under way.
        """
        if self._since is None or not self._allowances:
            return None
        if 2 * self.unbilled > self.allowed:
            return self._since
        due_at = self._since + BILL_AFTER
        return min(due_at, self._last + BILL_AFTER_QUIET) if quiet else due_at

    def bill(self) -> BillDraft | None:
        """The next bill: for all that is unbilled, or as much of it as one allowance holds."""
        if not self.unbilled or not self._allowances:
            return None
        fitting = [each for each in self._allowances if each.limit >= self.unbilled]
        used = min(fitting or self._allowances, key=lambda each: each.until)
        self._allowances.remove(used)
        amount = min(self.unbilled, used.limit)
        self.unbilled -= amount
        self._bills += 1
        self.open_bills[self._bills] = amount
        what = ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in self._kinds.most_common(3))
        self._kinds.clear()
        if not self.unbilled:
            self._since = None
        return BillDraft(self._bills, Credits(used.limit), Credits(amount), what)

    def settled(self, number: int) -> int:
        """A bill is paid; its amount.

        Raises:
            VoucherError: There is no such bill.
        """
        amount = self.open_bills.pop(number, None)
        if amount is None:
            raise VoucherError(f"a payment came for the bill {number}, which is not open")
        return amount


@dataclass(slots=True)
class CallerTab:
    """The caller's side of one channel.

    Attributes:
        owed: What results said that they cost, as far as it is not paid.
    """

    owed: int = 0
    _allowances: list[_Allowance] = field(default_factory=list)
    _next_bill: int = 1

    def wanted(self, *, max_cost: int, at_once: int, now: float) -> int:
        """The limit of one more allowance; 0 where enough is allowed for tasks of this cost, so many at once."""
        usable = [each for each in self._allowances if each.until > now]
        one = max_cost * max(1, at_once)
        if len(usable) >= OPEN_ALLOWANCES and sum(each.limit for each in usable) >= OPEN_ALLOWANCES * one:
            return 0
        return one if sum(each.limit for each in usable) < OPEN_ALLOWANCES * one else 0

    def covers(self, max_cost: int, now: float) -> bool:
        """Whether a task of this cost could begin at all."""
        return any(each.limit >= max_cost and each.until > now for each in self._allowances)

    def allow(self, limit: int, now: float) -> None:
        """An allowance is on its way."""
        self._allowances.append(_Allowance(limit, now + ALLOWANCE_LIFETIME))

    def expire(self, now: float) -> list[int]:
        """Limits that need not be kept aside any more: the worker has stopped using them some time ago."""
        old = [each.limit for each in self._allowances if each.until + ALLOWANCE_LIFETIME / 4 <= now]
        self._allowances = [each for each in self._allowances if each.until + ALLOWANCE_LIFETIME / 4 > now]
        return old

    def take_back(self) -> list[int]:
        """All limits that are left."""
        left = [each.limit for each in self._allowances]
        self._allowances.clear()
        return left

    def took(self, cost: int, max_cost: int) -> int:
        """A result was taken; what will be paid for it."""
        cost = min(cost, max_cost)
        self.owed += cost
        return cost

    def billed(self, number: int, limit: int) -> int:
        """A bill on an allowance has come; what it may ask for at most.

        Raises:
            VoucherError: It is not the next one, or on no allowance.
        """
        if number != self._next_bill:
            raise VoucherError(f"the bill {number} came, and {self._next_bill} is the next")
        used = next((each for each in self._allowances if each.limit == limit), None)
        if used is None:
            raise VoucherError(f"the bill {number} is on an allowance of {limit}, and there is none")
        self._allowances.remove(used)
        self._next_bill += 1
        return min(limit, self.owed)

    def paid(self, amount: int) -> None:
        """A bill was paid."""
        self.owed -= amount
