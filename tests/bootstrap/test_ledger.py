"""The ledger under any sequence of operations: what must always hold, against a simple model and a real file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from hivemind_bootstrap import ledger, reports, settlement
from hivemind_bootstrap.database import Database
from hivemind_bootstrap.ledger import WELCOME, Entry, Kind, Transfer
from hivemind_bootstrap.settlement import HoldState
from hivemind_p2p.credits.vouchers import HOLD_GRACE, HOLD_LIFETIME, Hold, Voucher
from hivemind_p2p.errors import CreditError, InsufficientCreditsError, VoucherError
from hivemind_p2p.types import PeerId

AMOUNT = st.integers(1, 1_000)
WELCOME_AMOUNT = 1_000
PEERS = [PeerId(f"peer-{number}") for number in range(3)]


class LedgerMachine(RuleBasedStateMachine):
    """Three accounts that hold, promise, settle, close and let time pass."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.database = Database(Path(self._folder.name) / "ledger.sqlite3")
        self.now = 1_000.0
        self.paid_out: dict[str, int] = {}
        self.given_back: set[str] = set()

    def teardown(self) -> None:
        self.database.close()
        self._folder.cleanup()

    @initialize()
    def register(self) -> None:
        for peer in PEERS:
            self.database.register(peer, "hash", peer, WELCOME_AMOUNT, self.now)

    @rule(target=holds, payer=st.sampled_from(PEERS), payee=st.sampled_from(PEERS), amount=AMOUNT)
    def hold(self, payer: PeerId, payee: PeerId, amount: int) -> Hold:
        made = Hold(f"{len(self.paid_out):032x}", payer, payee, amount, self.now + HOLD_LIFETIME)
        available = reports.balance(self.database, PEERS.index(payer) + 1).available
        self.paid_out[made.hold_id] = 0
        try:
            self.database.make_hold(made, self.now)
        except InsufficientCreditsError:
            assert amount > available
            self.given_back.add(made.hold_id)
        return made

    @rule(hold=holds, promised=AMOUNT)
    def settle(self, hold: Hold, promised: int) -> None:
        voucher = Voucher(hold.hold_id, hold.payer, hold.payee, promised)
        before = self.paid_out[hold.hold_id]
        try:
            settled = self.database.settle(voucher, [], self.now)
        except VoucherError:
            ended = hold.hold_id in self.given_back or self.now >= hold.expires_at + HOLD_GRACE
            assert promised > hold.amount or ended
            return
        assert settled == max(before, promised) <= hold.amount
        self.paid_out[hold.hold_id] = settled
        assert self.database.settle(voucher, [], self.now) == settled

    @rule(hold=holds)
    def close(self, hold: Hold) -> None:
        try:
            self.database.close_hold(hold.hold_id, hold.payee, self.now)
        except VoucherError:
            assert hold.hold_id in self.given_back
        self.given_back.add(hold.hold_id)

    @rule(seconds=st.sampled_from([1.0, HOLD_GRACE, HOLD_LIFETIME]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.database.release_ended(self.now)

    @invariant()
    def all_rows_sum_to_zero(self) -> None:
        found = reports.overview(self.database)
        assert found.sum == 0
        assert sum(total.available + total.held for total in found.totals) == 0
        assert reports.mismatches(self.database) == []

    @invariant()
    def nobody_owes(self) -> None:
        for total in reports.overview(self.database).totals:
            assert total.name == "hive" or (total.available >= 0 and total.held >= 0)

    @invariant()
    def statements_explain_what_was_earned_and_spent(self) -> None:
        for number in range(1, 1 + len(reports.overview(self.database).totals[1:])):
            balance = reports.balance(self.database, number)
            rows = reports.statement(self.database, number, 1_000)
            assert sum(row.amount for row in rows) == balance.available + balance.held


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


@given(st.lists(st.integers(-(10**6), 10**6), max_size=5))
def test_only_what_balances_is_a_transfer(amounts):
    entries = tuple(Entry(f"account:{number}", amount) for number, amount in enumerate(amounts))
    if len(amounts) >= 2 and sum(amounts) == 0:
        Transfer(Kind.HOLD, "", entries)
        return
    with pytest.raises(ValueError, match="does not balance"):
        Transfer(Kind.HOLD, "", entries)


@given(st.integers(0, 2_000), st.integers(-5, 2_000))
def test_a_hold_needs_the_credits(available, amount):
    if 0 < amount <= available:
        after = ledger.apply({"account:1": available}, ledger.hold(1, "h", amount, available))
        assert after == {"account:1": available - amount, "held:h": amount}
        return
    with pytest.raises(CreditError):
        ledger.hold(1, "h", amount, available)


def test_only_the_welcome_account_goes_below_zero():
    assert ledger.apply({}, ledger.welcome(1, 5)) == {WELCOME: -5, "account:1": 5}
    with pytest.raises(InsufficientCreditsError):
        ledger.apply({"held:h": 4}, ledger.settle("h", 1, 5, "work"))


@given(st.integers(0, 100), st.integers(0, 100), st.booleans(), st.floats(0, 10_000))
def test_what_a_voucher_is_worth(settled, promised, closed, now):
    hold = Hold("ab" * 16, PEERS[0], PEERS[1], 80, 5_000.0)
    state = HoldState(hold, 1, min(settled, 80), closed)
    voucher = Voucher(hold.hold_id, hold.payer, hold.payee, promised)
    owed = max(0, promised - state.settled)
    if promised <= 80 and (owed == 0 or (not closed and now < 5_000 + HOLD_GRACE)):
        assert settlement.due(state, voucher, now) == owed
        return
    with pytest.raises(VoucherError):
        settlement.due(state, voucher, now)


def test_a_hold_is_settled_or_released_but_never_both():
    hold = Hold("ab" * 16, PEERS[0], PEERS[1], 80, 5_000.0)
    voucher = Voucher(hold.hold_id, hold.payer, hold.payee, 1)
    for now in (4_999.0, 5_000.0, 5_000.0 + HOLD_GRACE - 1e-6, 5_000.0 + HOLD_GRACE, 9_999.0):
        state = HoldState(hold, 1)
        try:
            settlement.due(state, voucher, now)
        except VoucherError:
            assert settlement.can_release(state, now)
        else:
            assert not settlement.can_release(state, now)
