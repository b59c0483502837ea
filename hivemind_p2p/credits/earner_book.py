"""What a worker has been promised, has billed and has been paid. Decides; asks nobody.

The worker's risk is bounded: to each payer it never lends more unpaid work than there is room in the payer's holds.
A voucher is taken down as soon as its signature is right, whatever else is wrong with the message that it came in:
money that was promised is never thrown away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from hivemind_p2p.credits.receipts import Receipt
from hivemind_p2p.credits.vouchers import Hold, Voucher, can_settle, check_voucher
from hivemind_p2p.errors import BusyError, PaymentRequiredError, VoucherError
from hivemind_p2p.proto import common_pb2, credits_pb2
from hivemind_p2p.types import PeerId, format_credits

ADMISSION_LIFETIME = 600.0
"""Seconds an admission counts that was never billed (cancelled work). Less than the payer's reservation lives."""

BILL_LIFETIME = 300.0
"""Seconds an unpaid bill counts against its payer: after that it is a loss, and was bounded by the hold."""

MOST_OPEN = 4096
"""Admissions, and unpaid bills, that one payer may have at a time."""

MOST_HOLDS = 64
"""Holds of one payer that are kept at a time."""

MOST_RECEIPTS = 20_000
"""Countersigned receipts kept for the next settlement. Beyond it the oldest are dropped: a statement then says less,
no credit is lost."""


@dataclass(slots=True)
class EarnedHold:
    """A hold made for this worker, and the best voucher for it."""

    hold: Hold
    certificate: common_pb2.Signed
    best: Voucher
    signed: common_pb2.Signed
    settled: int = 0
    refused: bool = False

    @property
    def due(self) -> int:
        """What is promised and not yet settled."""
        return 0 if self.refused else max(0, self.best.amount - self.settled)


@dataclass(slots=True)
class PayerAccount:
    """One payer as the worker sees it.

    Attributes:
        holds: By hold id.
        admitted: Work that runs: its limit, and when it was admitted.
        bills: Unpaid bills by receipt id: the amount, and when it was billed.
        surplus: What has been promised beyond the bills that are marked as paid.
    """

    holds: dict[str, EarnedHold] = field(default_factory=dict)
    admitted: deque[tuple[int, float]] = field(default_factory=deque)
    bills: dict[str, tuple[int, float]] = field(default_factory=dict)
    surplus: int = 0

    def billed(self) -> int:
        """The sum of the unpaid bills."""
        return sum(amount for amount, _ in self.bills.values())

    def forget(self, now: float) -> None:
        """Drops what no longer counts."""
        while self.admitted and now - self.admitted[0][1] > ADMISSION_LIFETIME:
            self.admitted.popleft()
        old = [key for key, (_, at) in self.bills.items() if now - at > BILL_LIFETIME]
        for key in old:
            del self.bills[key]
        gone = [
            key for key, item in self.holds.items() if now >= item.hold.expires_at and not _worth_keeping(item, now)
        ]
        for key in gone:
            del self.holds[key]


def _admission(admitted: Iterable[tuple[int, float]], amount: int, limit: int | None) -> tuple[int, float] | None:
    """Which admission a bill is for."""
    if limit is not None:
        below = [item for item in admitted if item[0] <= limit]
        return max(below, key=lambda item: item[0], default=None)
    fitting = [item for item in admitted if item[0] >= amount]
    return max(fitting or admitted, key=lambda item: item[0], default=None)


def _worth_keeping(item: EarnedHold, now: float) -> bool:
    return item.due > 0 and can_settle(item.hold, now)


class EarnerBook:
    """All payers of one worker."""

    def __init__(self) -> None:
        self._payers: dict[PeerId, PayerAccount] = {}
        self._receipts: dict[str, deque[credits_pb2.CountersignedReceipt]] = {}
        self._receipts_kept = 0

    def known(self, payer: PeerId, hold_id: str) -> EarnedHold | None:
        """What is known about a hold."""
        account = self._payers.get(payer)
        return account.holds.get(hold_id) if account else None

    def take(self, hold: Hold, certificate: common_pb2.Signed, voucher: Voucher, signed: common_pb2.Signed) -> bool:
        """Takes down a voucher whose signatures are right; True where it is better than the best one so far.

        Raises:
            VoucherError: It does not belong to the hold, or promises more than the hold has.
            BusyError: The payer has too many holds.
        """
        check_voucher(hold, voucher)
        account = self._payers.setdefault(hold.payer, PayerAccount())
        known = account.holds.get(hold.hold_id)
        if known is None:
            return self._first(account, EarnedHold(hold, certificate, voucher, signed))
        if voucher.amount <= known.best.amount:
            return False
        account.surplus += voucher.amount - known.best.amount
        known.best, known.signed = voucher, signed
        return True

    def _first(self, account: PayerAccount, earned: EarnedHold) -> bool:
        if len(account.holds) >= MOST_HOLDS:
            raise BusyError(f"{earned.hold.payer} has {MOST_HOLDS} holds for this peer already")
        account.holds[earned.hold.hold_id] = earned
        # A voucher from before this worker restarted has paid for old work; only what open bills explain counts.
        account.surplus += min(earned.best.amount, max(0, account.billed() - account.surplus))
        return earned.best.amount > 0

    def admit(self, payer: PeerId, limit: int, now: float) -> None:
        """Lends work of up to `limit` to a payer whose hold and voucher were taken down just before.

        Raises:
            PaymentRequiredError: The payer's holds have no room for it.
            BusyError: Too much of its work is open.
        """
        account = self._payers.setdefault(payer, PayerAccount())
        account.forget(now)
        if max(len(account.admitted), len(account.bills)) >= MOST_OPEN:
            raise BusyError(f"{payer} has {MOST_OPEN} pieces of work open")
        room = sum(item.hold.amount - item.best.amount for item in account.holds.values() if now < item.hold.expires_at)
        open_work = sum(amount for amount, _ in account.admitted) + max(0, account.billed() - account.surplus)
        if open_work + limit > room:
            asked, left = format_credits(limit), format_credits(max(0, room - open_work))
            raise PaymentRequiredError(f"{payer} asks for work of up to {asked}, its holds have room for {left}")
        account.admitted.append((limit, now))

    def dismiss(self, payer: PeerId, limit: int) -> None:
        """Takes back an admission of this limit whose work will not be billed; does nothing if there is none."""
        account = self._payers.get(payer)
        found = next((item for item in account.admitted if item[0] == limit), None) if account else None
        if account is not None and found is not None:
            account.admitted.remove(found)

    def bill(self, receipt: Receipt, now: float, limit: int | None = None) -> None:
        """Turns an admission into a bill.

        An admission does not know its work. Where the limit of the work is told, one of that limit is taken; else the
        largest one that fits: the sum is then never more than what the payer has reserved, and an honest payer is
        never refused. If there is none such, a bill before has taken it in place of one that is still here.
        """
        account = self._payers.get(receipt.payer)
        if account is None:
            return
        if (taken := _admission(account.admitted, receipt.amount, limit)) is not None:
            account.admitted.remove(taken)
        if receipt.amount > 0:
            account.bills[receipt.receipt_id] = (receipt.amount, now)

    def paid(self, receipt: Receipt) -> bool:
        """Marks a bill as paid, by a payment whose voucher was taken down just before.

        Returns:
            Whether it was open: False for one that was paid before, or billed before this worker restarted.

        Raises:
            VoucherError: The payer's vouchers do not cover it.
        """
        account = self._payers.get(receipt.payer)
        if account is None or receipt.receipt_id not in account.bills:
            return False
        amount, _ = account.bills[receipt.receipt_id]
        if amount > account.surplus:
            owed, promised = format_credits(amount), format_credits(account.surplus)
            raise VoucherError(f"{receipt.payer} pays {promised} of a bill of {owed} for {receipt.work_id!r}")
        account.surplus -= amount
        del account.bills[receipt.receipt_id]
        return True

    def keep_receipt(self, hold_id: str, message: credits_pb2.CountersignedReceipt) -> None:
        """Keeps a countersigned receipt for the settlement of its hold."""
        if self._receipts_kept >= MOST_RECEIPTS:
            self._drop_oldest_receipt()
        self._receipts.setdefault(hold_id, deque()).append(message)
        self._receipts_kept += 1

    def _drop_oldest_receipt(self) -> None:
        key, kept = next(iter(self._receipts.items()))
        kept.popleft()
        self._receipts_kept -= 1
        if not kept:
            del self._receipts[key]

    def due(self, now: float) -> list[EarnedHold]:
        """The holds that have something to settle."""
        everything = (item for account in self._payers.values() for item in account.holds.values())
        return [item for item in everything if item.due > 0 and can_settle(item.hold, now)]

    def open_holds(self, now: float) -> list[EarnedHold]:
        """The holds with nothing left to settle that have not ended."""
        everything = (item for account in self._payers.values() for item in account.holds.values())
        return [item for item in everything if item.due == 0 and not item.refused and now < item.hold.expires_at]

    def receipts_of(self, hold_id: str, most: int) -> list[credits_pb2.CountersignedReceipt]:
        """Up to `most` receipts for a hold's settlement; they stay until `settled`."""
        return list(self._receipts.get(hold_id, ()))[:most]

    def settled(self, payer: PeerId, hold_id: str, amount: int, receipts: int) -> None:
        """Marks a hold as settled up to `amount`, and its first `receipts` receipts as handed in."""
        kept = self._receipts.get(hold_id, deque())
        for _ in range(min(receipts, len(kept))):
            kept.popleft()
            self._receipts_kept -= 1
        if not kept:
            self._receipts.pop(hold_id, None)
        if (item := self.known(payer, hold_id)) is not None:
            item.settled = max(item.settled, amount)

    def refuse(self, payer: PeerId, hold_id: str) -> None:
        """Marks a hold that the bootstrap will never settle, so that it is not asked again and again."""
        kept = self._receipts.pop(hold_id, deque())
        self._receipts_kept -= len(kept)
        if (item := self.known(payer, hold_id)) is not None:
            item.refused = True

    def tidy(self, now: float) -> list[EarnedHold]:
        """Forgets payers without holds, and returns the holds that ended with something due: a loss."""
        lost = []
        for payer, account in list(self._payers.items()):
            lost += [item for item in account.holds.values() if item.due > 0 and not can_settle(item.hold, now)]
            account.forget(now)
            if not account.holds:
                del self._payers[payer]
        return lost
