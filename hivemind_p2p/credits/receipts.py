"""Receipts: what a worker says it has done, for whom and for how much."""

from __future__ import annotations

from dataclasses import dataclass

from hivemind_p2p.errors import VoucherError
from hivemind_p2p.types import PeerId, format_credits

LONGEST_TEXT = 200
"""Characters of a receipt's `what` and of each id: a line in a statement, not an essay."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One piece of work, as the worker bills it.

    Attributes:
        receipt_id: Unique for the worker.
        work_id: Which work: a task's or generation's id.
        worker: Who did it.
        payer: Who asked for it.
        amount: Millionths of a credit.
        what: One line for the statement.
        finished_at: Seconds since the epoch.
    """

    receipt_id: str
    work_id: str
    worker: PeerId
    payer: PeerId
    amount: int
    what: str
    finished_at: float


def check_bill(receipt: Receipt, *, payer: PeerId, worker: PeerId, work_id: str, limit: int) -> None:
    """Checks that a receipt (its signature already checked) bills the work that was asked for.

    Raises:
        VoucherError: It is for other peers or other work, or above the limit.
    """
    if receipt.worker != worker or receipt.payer != payer:
        raise VoucherError(f"{worker} sent a receipt between {receipt.worker} and {receipt.payer}")
    if receipt.work_id != work_id:
        raise VoucherError(f"{worker} sent a receipt for work {receipt.work_id!r} instead of {work_id!r}")
    if receipt.amount > limit:
        amount, most = format_credits(receipt.amount), format_credits(limit)
        raise VoucherError(f"{worker} bills {amount} for {work_id!r}, {most} at most was agreed")


def describe(whats: list[str]) -> str:
    """One line for many receipts: ``12 x function``, the most frequent ones first, three kinds at most."""
    counts: dict[str, int] = {}
    for what in whats:
        counts[what] = counts.get(what, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    parts = [what if count == 1 else f"{count} x {what}" for what, count in ranked[:3]]
    others = sum(count for _, count in ranked[3:])
    return ", ".join(parts) + (f", {others} more" if others else "")
