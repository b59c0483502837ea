"""The caller's purse: gets holds from the bootstrap and pays workers with vouchers.

Participants: a payer (this peer), its bootstrap, and any number of payees.

Messages: `HoldRequest` to the bootstrap, answered by a certificate; everything else travels as opaque `Payment`
bytes inside the protocols of tasks and sharding.

Goals: one question to the bootstrap serves many pieces of work; never two questions for one payee at a time; nothing
is paid that was not asked for, billed rightly and within its limit, and nothing twice.

Non-goals: choosing payees, or judging the quality of work.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.credits.payer_book import OpenHold, PayerBook
from hivemind_p2p.credits.pricing import hold_amount
from hivemind_p2p.credits.receipts import Receipt, check_bill
from hivemind_p2p.credits.requests import ask
from hivemind_p2p.credits.wire import (
    CREDITS_PROTOCOL,
    PAYMENTS_PROTOCOL,
    countersign,
    open_hold,
    open_receipt,
    read_signed,
    seal_voucher,
)
from hivemind_p2p.errors import CreditError, HivemindError, VoucherError
from hivemind_p2p.identity import Identity
from hivemind_p2p.interfaces import Clock, Network
from hivemind_p2p.proto import credits_pb2
from hivemind_p2p.types import Credits, PeerId

RECEIPTS_REMEMBERED = 100_000
"""Receipts that are remembered as paid. An older one could only be paid again by a fresh `authorise` and `pay`."""

SIGN_OFF_DEADLINE = 3.0
"""Seconds a payee has to settle when this peer leaves: it asks the bootstrap twice."""

_events = telemetry.source("purse")


@dataclass(frozen=True, slots=True)
class PurseStatistics:
    """Counts since the start; `paid` in millionths of a credit."""

    holds: int
    payments: int
    paid: int


@dataclass(slots=True)
class _Payee:
    book: PayerBook = field(default_factory=PayerBook)
    asking: trio.Lock = field(default_factory=trio.Lock)
    waiting: int = 0
    # A hold that was asked for and never answered: asking for it again gets the same one.
    unanswered: credits_pb2.HoldRequest | None = None


class Purse:
    """Pays workers; implements `interfaces.Payer`.

    Args:
        network: The network.
        identity: Signs vouchers; its peer must be linked to an account.
        bootstrap: Keeps the account.
        clock: Seconds since the epoch.
    """

    def __init__(self, network: Network, identity: Identity, bootstrap: PeerId, clock: Clock) -> None:
        self._network = network
        self._identity = identity
        self._bootstrap = bootstrap
        self._clock = clock
        self._payees: dict[PeerId, _Payee] = {}
        self._receipts: OrderedDict[tuple[PeerId, str], None] = OrderedDict()
        self._holds = self._payments = self._paid = 0

    async def authorise(self, payee: PeerId, limit: Credits) -> bytes:
        """A payment that lets `payee` start work of up to `limit`; empty where the work is free.

        Raises:
            InsufficientCreditsError: The account does not cover it.
            AccountRequiredError: This peer has no account.
            BootstrapUnreachableError: A hold is needed and the bootstrap is away.
        """
        if limit <= 0:
            return b""
        entry = self._payees.setdefault(payee, _Payee())
        reserved = entry.book.reserve(limit, self._clock())
        if reserved is None:
            reserved = await self._reserve_in_new_hold(payee, entry, limit)
        return self._payment(reserved).SerializeToString()

    async def _reserve_in_new_hold(self, payee: PeerId, entry: _Payee, limit: int) -> OpenHold:
        entry.waiting += limit
        try:
            async with entry.asking:
                # Somebody who asked before us may have asked for all of us.
                reserved = entry.book.reserve(limit, self._clock())
                if reserved is None:
                    await self._open_hold(payee, entry, needed=entry.waiting, limit=limit)
                    reserved = entry.book.reserve(limit, self._clock())
        finally:
            entry.waiting -= limit
        if reserved is None:
            raise VoucherError(
                f"the bootstrap {self._bootstrap} made a hold that is too small or ends too soon",
                hint="Check that the clocks of this machine and the bootstrap agree.",
            )
        return reserved

    async def _open_hold(self, payee: PeerId, entry: _Payee, *, needed: int, limit: int) -> OpenHold:
        if entry.unanswered is None or entry.unanswered.amount < limit:
            available = await self._available()
            # Where not everybody who waits can be served, this one piece of work still may.
            wanted = needed if needed <= available else limit
            amount = hold_amount(wanted, limit, available)
            entry.unanswered = credits_pb2.HoldRequest(hold_id=secrets.token_hex(16), payee=payee, amount=amount)
        request = entry.unanswered
        try:
            answer = await self._ask(credits_pb2.CreditsRequest(hold=request))
        except CreditError:
            entry.unanswered = None
            raise
        entry.unanswered = None
        hold = open_hold(answer.hold, self._bootstrap)
        if (hold.hold_id, hold.payer, hold.payee) != (request.hold_id, self._identity.peer_id, payee):
            raise VoucherError(f"the bootstrap {self._bootstrap} made another hold than it was asked for")
        self._holds += 1
        _events.debug("hold_opened", payee=payee, amount=hold.amount)
        return entry.book.add(hold, answer.hold)

    async def _available(self) -> int:
        answer = await self._ask(credits_pb2.CreditsRequest(balance=credits_pb2.BalanceRequest()))
        return answer.balance.available

    async def _ask(self, request: credits_pb2.CreditsRequest) -> credits_pb2.CreditsAnswer:
        return await ask(self._network, self._bootstrap, CREDITS_PROTOCOL, request, credits_pb2.CreditsAnswer)

    def release(self, payee: PeerId, limit: Credits) -> None:
        """Says that work which was authorised will not be billed: it failed, was refused, or was given up."""
        if (entry := self._payees.get(payee)) is not None and limit > 0:
            entry.book.release(limit, self._clock())

    async def pay(
        self, payee: PeerId, receipt: bytes, *, work_id: str, limit: Credits, most: Credits | None = None
    ) -> tuple[Credits, bytes]:
        """Checks a receipt and pays it: one payment for each `authorise`.

        Args:
            payee: Who sent it.
            receipt: The bill.
            work_id: What it has to be for.
            limit: What was authorised.
            most: The most that is paid, where that is less.

        Returns:
            What it cost, and the payment (countersigned receipt and a voucher that covers it).

        Raises:
            VoucherError: The receipt is forged, is for other work, is above the limit, or is paid already.
        """
        signed = read_signed(receipt)
        bill = open_receipt(signed)
        allowed = limit if most is None else min(limit, most)
        check_bill(bill, payer=self._identity.peer_id, worker=payee, work_id=work_id, limit=allowed)
        if (payee, bill.receipt_id) in self._receipts:
            raise VoucherError(f"{payee} sent the receipt {bill.receipt_id!r} a second time")
        self._remember(bill)
        payment = credits_pb2.Payment()
        if limit > 0:
            payment = self._payment(await self._promise(payee, bill.amount, limit))
        payment.receipt.CopyFrom(countersign(self._identity, signed))
        self._payments += 1
        self._paid += bill.amount
        return Credits(bill.amount), payment.SerializeToString()

    async def _promise(self, payee: PeerId, amount: int, limit: int) -> OpenHold:
        entry = self._payees.setdefault(payee, _Payee())
        reservation = entry.book.claim(limit)
        promised = entry.book.promise(reservation, amount, self._clock())
        if promised is not None:
            return promised
        # The work took so long that its hold ended, or that others used its room.
        async with entry.asking:
            await self._open_hold(payee, entry, needed=amount, limit=limit)
            promised = entry.book.promise(reservation, amount, self._clock())
        if promised is None:
            raise VoucherError(f"the hold for {payee} was used up before its bill of {amount} was paid")
        return promised

    async def close(self) -> None:
        """Tells every payee that no more work comes, so that what is set aside comes back now and not in an hour.

        A payee that is gone or slow is left: its hold ends by itself. Never raises.
        """
        async with trio.open_nursery() as nursery:
            for payee, entry in list(self._payees.items()):
                if entry.book.holds:
                    nursery.start_soon(self._sign_off, payee)

    async def _sign_off(self, payee: PeerId) -> None:
        try:
            with trio.fail_after(SIGN_OFF_DEADLINE):
                channel = await self._network.open(payee, PAYMENTS_PROTOCOL, deadline=SIGN_OFF_DEADLINE)
                try:
                    await channel.send(credits_pb2.SignOff())
                    await channel.receive(credits_pb2.SignedOff)
                finally:
                    await channel.aclose()
        except (HivemindError, trio.TooSlowError) as error:
            _events.warning("not_signed_off", payee=payee, reason=str(error))
            return
        self._payees.pop(payee, None)

    def _remember(self, bill: Receipt) -> None:
        self._receipts[bill.worker, bill.receipt_id] = None
        if len(self._receipts) > RECEIPTS_REMEMBERED:
            self._receipts.popitem(last=False)

    def _payment(self, open_hold_: OpenHold) -> credits_pb2.Payment:
        voucher = seal_voucher(self._identity, open_hold_.voucher)
        return credits_pb2.Payment(hold=open_hold_.certificate, voucher=voucher)

    def statistics(self) -> PurseStatistics:
        """Counts since the start."""
        return PurseStatistics(self._holds, self._payments, self._paid)
