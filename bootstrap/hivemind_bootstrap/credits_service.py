"""Credits over the network: "/hivemind/credits/1".

Participants: payers that need holds, payees that hand in vouchers, and this bootstrap, which alone moves credits.

Messages: `CreditsRequest` (hold, settle, close, balance, statement, overview), answered by `CreditsAnswer` or a
failure; one each a channel. The claims of one settlement succeed or fail one by one.

Goals: whatever was answered is on the disk; asking twice does once; nothing is paid without the payer's signature,
nothing above a hold; a hold that has ended goes back to its payer.

Non-goals: prices, quality of work, disputes. What both sides signed is what happens.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from hivemind_bootstrap import reports
from hivemind_bootstrap.database import Database
from hivemind_bootstrap.rows import SignedReceipt
from hivemind_bootstrap.store import Store
from hivemind_p2p import telemetry
from hivemind_p2p.credits.accounts import LedgerOverview
from hivemind_p2p.credits.vouchers import HOLD_LIFETIME, MOST_CREDITS, Hold, is_hold_id
from hivemind_p2p.credits.wire import (
    CREDITS_PROTOCOL,
    MOST_CLAIMS,
    MOST_RECEIPTS,
    open_countersigned,
    open_voucher,
    seal_hold,
)
from hivemind_p2p.defaults import REQUEST_DEADLINE
from hivemind_p2p.errors import CreditError, IdentityError, ProtocolError, VoucherError
from hivemind_p2p.identity import Identity, public_key_of
from hivemind_p2p.interfaces import Channel, Clock, Network, TaskStatus
from hivemind_p2p.proto import credits_pb2
from hivemind_p2p.types import PeerId

RELEASE_EVERY = 60.0
"""Seconds between looks for holds that have ended: they end by the hour, a minute more hurts nobody."""

_events = telemetry.source("credits")


@dataclass(frozen=True, slots=True)
class CreditsStatistics:
    """Counts since the start."""

    holds: int
    settled: int
    refused: int


class CreditsService:
    """Makes holds, settles vouchers, answers questions.

    Args:
        network: Where it is registered.
        identity: Signs the holds; the key that the hive trusts.
        store: The ledger.
        clock: Seconds since the epoch.
        open_ledger: Whether every account sees the totals of all; otherwise each sees its own.
    """

    def __init__(
        self, network: Network, identity: Identity, store: Store, *, clock: Clock, open_ledger: bool = False
    ) -> None:
        self._open_ledger = open_ledger
        self._identity = identity
        self._store = store
        self._clock = clock
        self._holds = self._settled = self._refused = 0
        network.serve(CREDITS_PROTOCOL, self._serve)

    def statistics(self) -> CreditsStatistics:
        """Counts since the start."""
        return CreditsStatistics(self._holds, self._settled, self._refused)

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Gives back the rest of holds that have ended, until cancelled."""
        task_status.started()
        while True:
            await self._release_ended()
            await trio.sleep(RELEASE_EVERY)

    async def _release_ended(self) -> None:
        now = self._clock()
        released = await self._store.write(lambda db: db.release_ended(now))
        if released:
            _events.info("holds_released", count=released)

    async def _serve(self, channel: Channel) -> None:
        with trio.fail_after(REQUEST_DEADLINE):
            request, _ = await channel.receive(credits_pb2.CreditsRequest)
        answer = await self._answer(channel.remote, request)
        with trio.fail_after(REQUEST_DEADLINE):
            await channel.send(answer)

    async def _answer(self, peer: PeerId, request: credits_pb2.CreditsRequest) -> credits_pb2.CreditsAnswer:
        match request.WhichOneof("request"):
            case "hold":
                return await self._hold(peer, request.hold)
            case "settle":
                return credits_pb2.CreditsAnswer(settle=await self._settle(peer, request.settle))
            case "close":
                return await self._close(peer, request.close)
            case "balance":
                return await self._balance(peer)
            case "statement":
                return await self._statement(peer, request.statement)
            case "overview":
                return await self._overview(peer)
            case _:
                raise ProtocolError(f"peer {peer} sent an empty request on {CREDITS_PROTOCOL}")

    async def _hold(self, peer: PeerId, request: credits_pb2.HoldRequest) -> credits_pb2.CreditsAnswer:
        if not is_hold_id(request.hold_id) or not 0 < request.amount <= MOST_CREDITS:
            raise VoucherError(f"peer {peer} asked for a hold with a malformed id or amount")
        try:
            public_key_of(PeerId(request.payee))
        except IdentityError as error:
            raise VoucherError(f"peer {peer} asked for a hold for nobody: {error.message}") from error
        now = self._clock()
        wanted = Hold(request.hold_id, peer, PeerId(request.payee), request.amount, now + HOLD_LIFETIME)
        made = await self._store.write(lambda db: db.make_hold(wanted, now))
        self._holds += 1
        return credits_pb2.CreditsAnswer(hold=seal_hold(self._identity, made))

    async def _settle(self, peer: PeerId, request: credits_pb2.SettleRequest) -> credits_pb2.SettleAnswer:
        receipts = sum(len(claim.receipts) for claim in request.claims)
        if len(request.claims) > MOST_CLAIMS or receipts > MOST_RECEIPTS:
            raise ProtocolError(f"peer {peer} handed in {len(request.claims)} vouchers and {receipts} receipts at once")
        return credits_pb2.SettleAnswer(outcomes=[await self._settle_one(peer, claim) for claim in request.claims])

    async def _settle_one(self, peer: PeerId, claim: credits_pb2.Claim) -> credits_pb2.ClaimOutcome:
        hold_id = ""
        try:
            voucher = open_voucher(claim.voucher)
            hold_id = voucher.hold_id
            proofs = await trio.to_thread.run_sync(_proofs, claim)
            now = self._clock()
            settled = await self._store.write(lambda db: db.settle(voucher, proofs, now))
        except CreditError as error:
            self._refused += 1
            _events.warning("claim_refused", peer=peer, hold=hold_id, reason=error.message)
            return credits_pb2.ClaimOutcome(hold_id=hold_id, error_code=error.code(), error_message=error.message)
        self._settled += 1
        return credits_pb2.ClaimOutcome(hold_id=hold_id, settled=settled)

    async def _close(self, peer: PeerId, request: credits_pb2.CloseRequest) -> credits_pb2.CreditsAnswer:
        now = self._clock()
        released = await self._store.write(lambda db: db.close_hold(request.hold_id, peer, now))
        return credits_pb2.CreditsAnswer(close=credits_pb2.CloseAnswer(released=released))

    async def _balance(self, peer: PeerId) -> credits_pb2.CreditsAnswer:
        def read(database: Database) -> credits_pb2.BalanceAnswer:
            account = database.account_of(peer)
            found = reports.balance(database, account.account_id)
            return credits_pb2.BalanceAnswer(username=account.username, available=found.available, held=found.held)

        return credits_pb2.CreditsAnswer(balance=await self._store.read(read))

    async def _statement(self, peer: PeerId, request: credits_pb2.StatementRequest) -> credits_pb2.CreditsAnswer:
        def read(database: Database) -> credits_pb2.StatementAnswer:
            rows = reports.statement(database, database.account_of(peer).account_id, request.limit)
            return credits_pb2.StatementAnswer(
                rows=[
                    credits_pb2.StatementRow(
                        time=row.time, what=row.what, amount=row.amount, counterparty=row.counterparty
                    )
                    for row in rows
                ]
            )

        return credits_pb2.CreditsAnswer(statement=await self._store.read(read))

    async def _overview(self, peer: PeerId) -> credits_pb2.CreditsAnswer:
        def read(database: Database) -> LedgerOverview:
            asker = database.account_of(peer).account_id
            return reports.overview(database, only=None if self._open_ledger else asker)

        found = await self._store.read(read)
        totals = [
            credits_pb2.Total(
                name=total.name,
                available=total.available,
                held=total.held,
                welcome=total.welcome,
                earned=total.earned,
                paid=total.paid,
            )
            for total in found.totals
        ]
        answer = credits_pb2.OverviewAnswer(totals=totals, sum=found.sum, transfers=found.transfers)
        return credits_pb2.CreditsAnswer(overview=answer)


def _proofs(claim: credits_pb2.Claim) -> list[SignedReceipt]:
    """The receipts of a claim that both sides have signed.

    A bad one is left out: it proves nothing, but the voucher beside it is money all the same.
    """
    found = []
    for message in claim.receipts:
        try:
            found.append(SignedReceipt(open_countersigned(message), message.SerializeToString()))
        except VoucherError as error:
            _events.warning("bad_receipt", reason=error.message)
    return found
