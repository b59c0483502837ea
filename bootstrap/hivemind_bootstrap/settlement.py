"""What a voucher is worth: checked against its hold, without asking the database or a clock."""

from __future__ import annotations

from dataclasses import dataclass

from hivemind_p2p.credits.receipts import Receipt, describe
from hivemind_p2p.credits.vouchers import Hold, Voucher, can_settle, check_voucher
from hivemind_p2p.errors import VoucherError
from hivemind_p2p.types import PeerId


@dataclass(frozen=True, slots=True)
class HoldState:
    """A hold as the ledger knows it.

    Attributes:
        hold: What was certified.
        account_id: Whose credits they are.
        settled: How much of it has been paid out.
        closed: Whether the rest has been given back.
    """

    hold: Hold
    account_id: int
    settled: int = 0
    closed: bool = False

    @property
    def rest(self) -> int:
        """What has not been paid out."""
        return self.hold.amount - self.settled


def due(state: HoldState, voucher: Voucher, now: float) -> int:
    """What a voucher adds to what is settled already: zero for one that was settled before, in full or in part.

    Raises:
        VoucherError: It is not for this hold, promises more than the hold has, or comes too late.
    """
    check_voucher(state.hold, voucher)
    owed = max(0, voucher.amount - state.settled)
    if owed and (state.closed or not can_settle(state.hold, now)):
        raise VoucherError(f"the hold {state.hold.hold_id} has ended: its rest was given back to {state.hold.payer}")
    return owed


def can_release(state: HoldState, now: float) -> bool:
    """Whether the rest of a hold goes back by itself: only after the last moment at which a voucher is settled."""
    return not state.closed and not can_settle(state.hold, now)


def check_close(state: HoldState, asked_by: PeerId) -> None:
    """Checks that a hold may be ended early: by its payee alone, who gives up the rest.

    Raises:
        VoucherError: Somebody else asks.
    """
    if asked_by != state.hold.payee:
        raise VoucherError(f"{asked_by} is not the payee of the hold {state.hold.hold_id} and cannot end it")


def matching(hold: Hold, receipts: list[Receipt]) -> list[Receipt]:
    """The receipts that are between a hold's payer and payee; others have no business in its settlement."""
    return [receipt for receipt in receipts if (receipt.payer, receipt.worker) == (hold.payer, hold.payee)]


def what_for(receipts: list[Receipt]) -> str:
    """The line that a settlement shows in both statements."""
    return describe([receipt.what or "work" for receipt in receipts]) or "work"
