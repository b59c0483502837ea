"""Holds and vouchers: what was set aside for whom, and how much of it has been promised.

A voucher is cumulative: it names all that has been promised out of a hold so far, never a single payment. The payee
needs to keep only the greatest one; sending one twice pays nothing twice, and the next one covers one that got lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from hivemind_p2p.errors import VoucherError
from hivemind_p2p.types import PeerId, format_credits

HOLD_LIFETIME = 3600.0
"""Seconds a hold lives: long enough for a session at a notebook, short enough to get credits back the same day."""

HOLD_GRACE = 600.0
"""Seconds after a hold's end in which vouchers are still settled, for work that ended late or a bootstrap that was
away. Only then the rest goes back to the payer."""

MOST_CREDITS = 10**15
"""The largest amount that is accepted anywhere: sums of millions of them stay exact in 64 bits."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Credits that the bootstrap has set aside from a payer's account for one payee.

    Attributes:
        hold_id: Random, 32 hexadecimal digits.
        payer: The peer that may promise the amount.
        payee: The peer that it may be promised to.
        amount: Millionths of a credit.
        expires_at: Seconds since the epoch.
    """

    hold_id: str
    payer: PeerId
    payee: PeerId
    amount: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class Voucher:
    """A payer's promise: so much of a hold, in all, belongs to the payee. Fields as in `Hold`."""

    hold_id: str
    payer: PeerId
    payee: PeerId
    amount: int


def is_hold_id(text: str) -> bool:
    """Whether a text has the form of a hold's id."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def check_voucher(hold: Hold, voucher: Voucher) -> None:
    """Checks that a voucher (its signature already checked) is one for this hold.

    Raises:
        VoucherError: It is for other peers or another hold, or promises more than the hold has.
    """
    if (voucher.hold_id, voucher.payer, voucher.payee) != (hold.hold_id, hold.payer, hold.payee):
        raise VoucherError(f"a voucher of {voucher.payer} for hold {voucher.hold_id} does not belong to {hold.hold_id}")
    if voucher.amount > hold.amount:
        promised, amount = format_credits(voucher.amount), format_credits(hold.amount)
        raise VoucherError(f"a voucher of {voucher.payer} promises {promised} of a hold of {amount}")


def can_settle(hold: Hold, now: float) -> bool:
    """Whether vouchers for this hold are still settled."""
    return now < hold.expires_at + HOLD_GRACE
