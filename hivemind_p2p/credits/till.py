"""The worker's till: admits payers, writes bills, keeps vouchers, and hands the best ones to the bootstrap.

Participants: a payee (this peer), its payers, and the bootstrap.

Messages: payments come in as opaque bytes from the protocols of tasks and sharding; `SettleRequest` goes to the
bootstrap about a second after something was earned, and at `drain`. A payer that leaves sends `SignOff`: its holds
are settled and ended at once.

Goals: no work without a hold that the bootstrap has certified, checked offline; a voucher that was taken is on disk
before `collect` returns, and is kept until the bootstrap has settled it, however long that is away.

Non-goals: prices (the services know what their work costs), disputes.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.credits.earner_book import EarnedHold, EarnerBook
from hivemind_p2p.credits.journal import LARGEST_JOURNAL, Journal
from hivemind_p2p.credits.receipts import LONGEST_TEXT, Receipt
from hivemind_p2p.credits.requests import ask
from hivemind_p2p.credits.vouchers import Hold
from hivemind_p2p.credits.wire import (
    CREDITS_PROTOCOL,
    MOST_CLAIMS,
    MOST_RECEIPTS,
    PAYMENTS_PROTOCOL,
    open_countersigned,
    open_hold,
    open_voucher,
    read_payment,
    seal_receipt,
)
from hivemind_p2p.defaults import REQUEST_DEADLINE
from hivemind_p2p.errors import BusyError, HivemindError, PaymentRequiredError, VoucherError
from hivemind_p2p.identity import Identity
from hivemind_p2p.interfaces import Channel, Clock, Network, TaskStatus
from hivemind_p2p.proto import credits_pb2
from hivemind_p2p.types import Credits, PeerId

SETTLE_AFTER = 1.0
"""Seconds between the first unsettled voucher and its settlement: many pieces of work share one transaction."""

LONGEST_BACK_OFF = 60.0
"""Seconds between attempts while the bootstrap is away; the first ones follow after 1, 2, 4, ... seconds."""

_events = telemetry.source("till")


@dataclass(frozen=True, slots=True)
class TillStatistics:
    """Counts since the start; amounts in millionths of a credit."""

    admitted: int
    collected: int
    settled: int
    unsettled: int


class Till:
    """Earns; implements `interfaces.Earner`. `run` settles in the background; `drain` settles what is left at the end.

    Args:
        network: The network.
        identity: Signs receipts.
        bootstrap: Whose holds are money here.
        clock: Seconds since the epoch.
        folder: Where unsettled vouchers outlive a crash; None to keep them in memory alone.
    """

    def __init__(
        self, network: Network, identity: Identity, bootstrap: PeerId, clock: Clock, *, folder: Path | None = None
    ) -> None:
        self._network = network
        self._identity = identity
        self._bootstrap = bootstrap
        self._clock = clock
        self._book = EarnerBook()
        self._journal = Journal(folder)
        self._earned = trio.Event()
        self._settling = trio.Lock()
        self._admitted = self._collected = self._settled = 0
        network.serve(PAYMENTS_PROTOCOL, self._answer_sign_off)
        for payment in self._journal.read():
            self._recall(payment)

    def _recall(self, data: bytes) -> None:
        try:
            payment = read_payment(data)
            hold, _ = self._take(payment)
            if payment.HasField("receipt"):
                self._book.keep_receipt(hold.hold_id, self._own_receipt(payment, hold.payer)[1])
        except (VoucherError, BusyError) as error:
            _events.warning("bad_journal_entry", reason=error.message)

    async def admit(self, payer: PeerId, payment: bytes, *, limit: Credits) -> None:
        """Checks, without asking anybody, that work of up to `limit` will be paid.

        Raises:
            PaymentRequiredError: No hold covers it, or too much is unpaid.
            VoucherError: The hold or voucher is forged, for others, or expired.
        """
        await trio.lowlevel.checkpoint()
        if limit <= 0:
            return
        if not payment:
            raise PaymentRequiredError(f"{payer} asks for work and sent no payment")
        parts = read_payment(payment)
        hold, better = self._take(parts)
        if better:
            self._note(payment)
        _check_sender(hold, payer)
        now = self._clock()
        if now >= hold.expires_at:
            raise VoucherError(f"the hold {hold.hold_id} of {payer} ended {now - hold.expires_at:.0f} s ago")
        known = self._book.known(payer, hold.hold_id)
        if known is not None and known.refused:
            raise PaymentRequiredError(f"the bootstrap no longer settles the hold {hold.hold_id} of {payer}")
        self._book.admit(payer, limit, now)
        self._admitted += 1

    def dismiss(self, payer: PeerId, *, limit: Credits) -> None:
        """Says that admitted work will not be billed: it was refused later, was given up, or cannot be charged for."""
        self._book.dismiss(payer, limit)

    def _take(self, payment: credits_pb2.Payment) -> tuple[Hold, bool]:
        voucher = open_voucher(payment.voucher)
        known = self._book.known(voucher.payer, voucher.hold_id)
        if known is not None and known.certificate == payment.hold:
            hold = known.hold
        else:
            hold = open_hold(payment.hold, self._bootstrap)
        if hold.payee != self._identity.peer_id:
            raise VoucherError(f"a hold for {hold.payee} was sent to {self._identity.peer_id}")
        return hold, self._book.take(hold, payment.hold, voucher, payment.voucher)

    def _note(self, payment: bytes) -> None:
        self._journal.append(payment)
        self._earned.set()

    async def bill(
        self, payer: PeerId, *, work_id: str, amount: Credits, what: str, limit: Credits | None = None
    ) -> bytes:
        """A signed receipt for work done."""
        await trio.lowlevel.checkpoint()
        receipt = Receipt(
            receipt_id=secrets.token_hex(12),
            work_id=work_id,
            worker=self._identity.peer_id,
            payer=payer,
            amount=amount,
            what=what[:LONGEST_TEXT],
            finished_at=self._clock(),
        )
        self._book.bill(receipt, self._clock(), limit)
        return seal_receipt(self._identity, receipt)

    async def collect(self, payer: PeerId, payment: bytes) -> None:
        """Takes a payment; the best voucher is handed to the bootstrap soon after.

        Raises:
            VoucherError: It is forged, or does not cover the bill.
        """
        await trio.lowlevel.checkpoint()
        parts = read_payment(payment)
        hold = None
        if parts.HasField("voucher"):
            hold, better = self._take(parts)
            if better:
                self._note(payment)
            _check_sender(hold, payer)
        receipt, message = self._own_receipt(parts, payer)
        if self._book.paid(receipt) and hold is not None:
            self._book.keep_receipt(hold.hold_id, message)
        self._collected += 1

    def _own_receipt(
        self, payment: credits_pb2.Payment, payer: PeerId
    ) -> tuple[Receipt, credits_pb2.CountersignedReceipt]:
        receipt = open_countersigned(payment.receipt)
        if receipt.worker != self._identity.peer_id or receipt.payer != payer:
            raise VoucherError(f"{payer} paid with a receipt between {receipt.worker} and {receipt.payer}")
        return receipt, payment.receipt

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Settles what is earned, until cancelled."""
        task_status.started()
        pause = SETTLE_AFTER
        while True:
            if not self._book.due(self._clock()):
                self._earned = trio.Event()
                await self._earned.wait()
            await trio.sleep(pause)
            pause = SETTLE_AFTER if await self._settle() else min(2 * pause, LONGEST_BACK_OFF)

    async def drain(self) -> None:
        """Settles now what is left. What the bootstrap does not take stays on disk for the next start."""
        await self._settle()

    async def _settle(self) -> bool:
        """One attempt; True where nothing is left to try again. Never raises: vouchers are safe where they are."""
        async with self._settling:
            now = self._clock()
            for lost in self._book.tidy(now):
                _events.error("voucher_lost", payer=lost.hold.payer, hold=lost.hold.hold_id, amount=lost.due)
            due = self._book.due(now)
            try:
                for start in range(0, len(due), MOST_CLAIMS):
                    await self._claim(due[start : start + MOST_CLAIMS])
            except HivemindError as error:
                _events.warning("settlement_failed", reason=error.message)
            left = self._book.due(now)
            self._tidy_journal(left)
            return not left

    def _tidy_journal(self, left: list[EarnedHold]) -> None:
        if left and self._journal.size < LARGEST_JOURNAL:
            return
        payments = [credits_pb2.Payment(hold=item.certificate, voucher=item.signed) for item in left]
        self._journal.replace([payment.SerializeToString() for payment in payments])

    async def _claim(self, due: list[EarnedHold]) -> None:
        most = MOST_RECEIPTS // len(due)
        claims = [
            credits_pb2.Claim(voucher=item.signed, receipts=self._book.receipts_of(item.hold.hold_id, most))
            for item in due
        ]
        request = credits_pb2.CreditsRequest(settle=credits_pb2.SettleRequest(claims=claims))
        answer = await ask(self._network, self._bootstrap, CREDITS_PROTOCOL, request, credits_pb2.CreditsAnswer)
        for item, claim, outcome in zip(due, claims, answer.settle.outcomes, strict=False):
            self._learn(item, len(claim.receipts), outcome)

    def _learn(self, item: EarnedHold, receipts: int, outcome: credits_pb2.ClaimOutcome) -> None:
        hold = item.hold
        if outcome.hold_id != hold.hold_id:
            _events.warning("settlement_mixed_up", hold=hold.hold_id)
            return
        if not outcome.error_code:
            self._settled += max(0, outcome.settled - item.settled)
            self._book.settled(hold.payer, hold.hold_id, outcome.settled, receipts)
            return
        _events.warning("settlement_refused", hold=hold.hold_id, payer=hold.payer, reason=outcome.error_message)
        if outcome.error_code == VoucherError.code():
            self._book.refuse(hold.payer, hold.hold_id)

    async def _answer_sign_off(self, channel: Channel) -> None:
        with trio.fail_after(REQUEST_DEADLINE):
            await channel.receive(credits_pb2.SignOff)
        ended = await self.sign_off(channel.remote)
        with trio.fail_after(REQUEST_DEADLINE):
            await channel.send(credits_pb2.SignedOff(holds=ended))

    async def sign_off(self, payer: PeerId | None = None) -> int:
        """Settles, then gives the rest of every hold (of one payer) back; returns how many ended.

        Raises:
            BootstrapUnreachableError: The bootstrap is away; the holds end by themselves later.
        """
        await self.drain()
        leaving = [item for item in self._book.open_holds(self._clock()) if payer in {None, item.hold.payer}]
        for item in leaving:
            request = credits_pb2.CreditsRequest(close=credits_pb2.CloseRequest(hold_id=item.hold.hold_id))
            await ask(self._network, self._bootstrap, CREDITS_PROTOCOL, request, credits_pb2.CreditsAnswer)
            self._book.refuse(item.hold.payer, item.hold.hold_id)
        return len(leaving)

    def statistics(self) -> TillStatistics:
        """Counts since the start."""
        unsettled = sum(item.due for item in self._book.due(self._clock()))
        return TillStatistics(self._admitted, self._collected, self._settled, unsettled)


def _check_sender(hold: Hold, payer: PeerId) -> None:
    if hold.payer != payer:
        raise VoucherError(f"{payer} sent a hold of {hold.payer}")
