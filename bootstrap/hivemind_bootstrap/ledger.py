"""The ledger's decisions: which entries each operation makes, and what is refused. Pure; `database` stores it.

Everything is double entry. A transfer has entries that sum to zero, so all rows of the ledger always do. The ledger
accounts are texts:

    account:<id>     what an account can spend
    held:<hold id>   what is set aside for one payee
    hive:welcome     where welcome credits come from: the only one that may go below zero, and so the amount
                     (negated) of all credits that there are
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from hivemind_p2p.credits.vouchers import MOST_CREDITS
from hivemind_p2p.errors import InsufficientCreditsError, VoucherError
from hivemind_p2p.types import format_credits

WELCOME = "hive:welcome"


class Kind(StrEnum):
    """Why a transfer was made."""

    WELCOME = "welcome"
    HOLD = "hold"
    SETTLEMENT = "settlement"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row: a ledger account gains `amount` millionths of a credit, or loses where it is below zero."""

    account: str
    amount: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """Entries that belong together and sum to zero.

    Raises:
        ValueError: They do not; a defect in this program, never a user's mistake.
    """

    kind: Kind
    what: str
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if len(self.entries) < 2 or sum(entry.amount for entry in self.entries) != 0:
            raise ValueError(f"a transfer does not balance: {self.entries}")


def account_name(account_id: int) -> str:
    """The ledger account of what an account can spend."""
    return f"account:{account_id}"


def held_name(hold_id: str) -> str:
    """The ledger account of a hold."""
    return f"held:{hold_id}"


def _move(kind: Kind, what: str, source: str, target: str, amount: int) -> Transfer:
    return Transfer(kind, what, (Entry(source, -amount), Entry(target, amount)))


def welcome(account_id: int, amount: int) -> Transfer:
    """What a new account is given."""
    return _move(Kind.WELCOME, "welcome credits", WELCOME, account_name(account_id), amount)


def hold(account_id: int, hold_id: str, amount: int, available: int) -> Transfer:
    """Sets an amount aside.

    Raises:
        InsufficientCreditsError: The account does not cover it.
        VoucherError: The amount is none.
    """
    if not 0 < amount <= MOST_CREDITS:
        raise VoucherError(f"a hold cannot have the amount {amount}")
    if amount > available:
        wanted, there = format_credits(amount), format_credits(available)
        raise InsufficientCreditsError(f"a hold of {wanted} credits was asked for, the account has {there}")
    return _move(Kind.HOLD, "set aside", account_name(account_id), held_name(hold_id), amount)


def settle(hold_id: str, payee_account: int, amount: int, what: str) -> Transfer:
    """Pays a payee out of a hold."""
    return _move(Kind.SETTLEMENT, what, held_name(hold_id), account_name(payee_account), amount)


def release(hold_id: str, account_id: int, rest: int) -> Transfer:
    """Gives back what is left of a hold."""
    return _move(Kind.RELEASE, "given back", held_name(hold_id), account_name(account_id), rest)


def apply(balances: Mapping[str, int], transfer: Transfer) -> dict[str, int]:
    """The balances of the accounts that a transfer touches, after it.

    Raises:
        InsufficientCreditsError: One of them would go below zero that may not.
    """
    after: dict[str, int] = {}
    for entry in transfer.entries:
        after[entry.account] = after.get(entry.account, balances.get(entry.account, 0)) + entry.amount
    short = [name for name, balance in after.items() if balance < 0 and name != WELCOME]
    if short:
        raise InsufficientCreditsError(f"{short[0]} does not have the credits for a {transfer.kind}")
    return after
