"""Payer's and worker's books against each other, in any order of events: an honest payer is never refused, a worker
never loses a promise, and what a payer can owe is bounded by its holds."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hivemind_p2p.credits import earner_book, payer_book
from hivemind_p2p.credits.earner_book import EarnerBook
from hivemind_p2p.credits.payer_book import RELEASE_AFTER, PayerBook
from hivemind_p2p.credits.receipts import Receipt
from hivemind_p2p.credits.vouchers import HOLD_LIFETIME, Hold, Voucher
from hivemind_p2p.errors import BusyError, PaymentRequiredError, VoucherError
from hivemind_p2p.proto import common_pb2, credits_pb2
from hivemind_p2p.types import PeerId

PAYER, WORKER = PeerId("payer"), PeerId("worker")
SIGNED = common_pb2.Signed()
LIMITS = st.sampled_from([10, 10, 10, 35])


def _receipt(number: int, amount: int) -> Receipt:
    return Receipt(f"r{number}", f"w{number}", WORKER, PAYER, amount, "f", 0.0)


class MarketMachine(RuleBasedStateMachine):
    """Work is authorised, admitted, billed, paid and collected; some is cancelled, and messages overtake each other."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.payer, self.worker = PayerBook(), EarnerBook()
        self.counter = 0
        self.running: list[tuple[int, int]] = []
        self.billed: list[tuple[int, Receipt]] = []
        self.paid: list[tuple[Hold, Voucher, Receipt]] = []
        self.collected = 0
        self.given_up: list[tuple[float, int]] = []

    def _next(self) -> int:
        self.counter += 1
        return self.counter

    def _open_hold(self, amount: int) -> None:
        hold = Hold(f"{self._next():032x}", PAYER, WORKER, amount, self.now + HOLD_LIFETIME)
        self.payer.add(hold, SIGNED)

    @rule(limit=LIMITS)
    def authorise_and_admit(self, limit: int) -> None:
        reserved = self.payer.reserve(limit, self.now)
        if reserved is None:
            self._open_hold(40)
            reserved = self.payer.reserve(limit, self.now)
        assert reserved is not None
        self.worker.take(reserved.hold, SIGNED, reserved.voucher, SIGNED)
        self.worker.admit(PAYER, limit, self.now)  # an honest payer is never refused
        self.running.append((self._next(), limit))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data) -> None:
        number, limit = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        receipt = _receipt(number, data.draw(st.integers(0, limit)))
        self.worker.bill(receipt, self.now, limit if data.draw(st.booleans()) else None)
        self.billed.append((limit, receipt))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def vanish(self, data) -> None:
        self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def give_up(self, data) -> None:
        _, limit = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.payer.release(limit, self.now)
        self.given_up.append((self.now, limit))

    @precondition(lambda self: self.given_up)
    @rule()
    def notice(self) -> None:
        self.worker.dismiss(PAYER, self.given_up.pop(0)[1])

    @precondition(lambda self: self.billed)
    @rule(data=st.data())
    def pay(self, data) -> None:
        limit, receipt = self.billed.pop(data.draw(st.integers(0, len(self.billed) - 1)))
        reservation = self.payer.claim(limit)
        promised = self.payer.promise(reservation, receipt.amount, self.now)
        if promised is None:
            self._open_hold(40)
            promised = self.payer.promise(reservation, receipt.amount, self.now)
        assert promised is not None
        self.paid.append((promised.hold, promised.voucher, receipt))

    @precondition(lambda self: self.paid)
    @rule(data=st.data())
    def collect(self, data) -> None:
        hold, voucher, receipt = self.paid.pop(data.draw(st.integers(0, len(self.paid) - 1)))
        self.worker.take(hold, SIGNED, voucher, SIGNED)
        self.worker.paid(receipt)  # what an honest payer pays covers its bill
        self.collected += receipt.amount

    @precondition(lambda self: not self.running and not self.billed and not self.paid)
    @rule(seconds=st.sampled_from([1.0, 400.0, 1_000.0, 4_000.0]))
    def rest(self, seconds: float) -> None:
        while self.given_up:
            self.notice()
        self.now += seconds

    @rule()
    def wait_a_little(self) -> None:
        self.now += 1.0
        while self.given_up and self.given_up[0][0] < self.now - RELEASE_AFTER + 1:
            self.notice()

    @invariant()
    def promises_stay_within_their_holds(self) -> None:
        for item in self.payer.holds:
            assert item.promised >= 0
            assert item.promised + item.reserved <= item.hold.amount
            assert item.reserved >= 0

    @invariant()
    def the_worker_has_been_promised_what_it_collected(self) -> None:
        holds = [item for account in self.worker._payers.values() for item in account.holds.values()]
        if self.now < HOLD_LIFETIME:
            assert sum(item.best.amount for item in holds) >= self.collected


TestMarket = MarketMachine.TestCase
TestMarket.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def _admitted(amount: int = 100) -> tuple[EarnerBook, Hold]:
    book = EarnerBook()
    hold = Hold("ab" * 16, PAYER, WORKER, amount, 5_000.0)
    book.take(hold, SIGNED, Voucher(hold.hold_id, PAYER, WORKER, 0), SIGNED)
    return book, hold


def test_what_one_payer_may_have_open_is_bounded(monkeypatch):
    monkeypatch.setattr(earner_book, "MOST_OPEN", 3)
    book, _ = _admitted()
    for _ in range(3):
        book.admit(PAYER, 1, 0.0)
    with pytest.raises(BusyError):
        book.admit(PAYER, 1, 0.0)


def test_the_holds_of_one_payer_are_bounded(monkeypatch):
    monkeypatch.setattr(earner_book, "MOST_HOLDS", 1)
    book, _ = _admitted()
    other = Hold("cd" * 16, PAYER, WORKER, 5, 5_000.0)
    with pytest.raises(BusyError):
        book.take(other, SIGNED, Voucher(other.hold_id, PAYER, WORKER, 0), SIGNED)


def test_receipts_are_bounded_and_the_oldest_go_first(monkeypatch):
    monkeypatch.setattr(earner_book, "MOST_RECEIPTS", 3)
    book, _ = _admitted()
    messages = [credits_pb2.CountersignedReceipt(countersignature=bytes([number])) for number in range(5)]
    for number, message in enumerate(messages):
        book.keep_receipt("first" if number < 3 else "second", message)
    assert book.receipts_of("first", 9) == messages[2:3]
    assert book.receipts_of("second", 9) == messages[3:]


def test_a_payer_that_never_pays_gets_one_hold_of_work_at_most():
    book, hold = _admitted(100)
    lent = 0
    for number in range(50):
        try:
            book.admit(PAYER, 10, float(number))
        except PaymentRequiredError:
            break
        book.bill(_receipt(number, 10), float(number))
        lent += 10
    assert lent == hold.amount


def test_a_voucher_is_never_replaced_by_a_smaller_one():
    book, hold = _admitted()
    assert book.take(hold, SIGNED, Voucher(hold.hold_id, PAYER, WORKER, 50), SIGNED)
    assert not book.take(hold, SIGNED, Voucher(hold.hold_id, PAYER, WORKER, 49), SIGNED)
    known = book.known(PAYER, hold.hold_id)
    assert known is not None
    assert known.best.amount == 50


def test_a_reservation_that_was_forgotten_can_still_be_paid():
    book = PayerBook()
    book.add(Hold("ab" * 16, PAYER, WORKER, 10, HOLD_LIFETIME), SIGNED)
    assert book.reserve(10, 0.0) is not None
    late = payer_book.RESERVATION_LIFETIME + 1
    assert book.reserve(11, late) is None
    assert book.promise(book.claim(10), 10, late) is not None
    with pytest.raises(VoucherError):
        book.claim(10)


def test_work_that_was_given_up_makes_room_again():
    payer = PayerBook()
    payer.add(Hold("ab" * 16, PAYER, WORKER, 10, HOLD_LIFETIME), SIGNED)
    assert payer.reserve(10, 0.0) is not None
    payer.release(10, 1.0)
    assert payer.reserve(10, 2.0) is None
    assert payer.reserve(10, 2.0 + RELEASE_AFTER) is not None
    with pytest.raises(VoucherError):
        [payer.claim(10) for _ in range(2)]
    worker, _ = _admitted(10)
    worker.admit(PAYER, 10, 0.0)
    worker.dismiss(PAYER, 10)
    worker.admit(PAYER, 10, 0.0)


@pytest.mark.parametrize("told", [True, False])
def test_nothing_is_left_of_work_that_was_billed_in_any_order(told):
    """Two generations of different lengths: the small one ends first, with a bill that fits into both admissions."""
    worker, hold = _admitted(200)
    worker.admit(PAYER, 100, 0.0)
    worker.admit(PAYER, 50, 0.0)
    for number, (amount, limit) in enumerate([(49, 50), (99, 100)], start=1):
        receipt = _receipt(number, amount)
        worker.bill(receipt, 0.0, limit if told else None)
        promised = Voucher(hold.hold_id, PAYER, WORKER, 49 if number == 1 else 148)
        worker.take(hold, SIGNED, promised, SIGNED)
        assert worker.paid(receipt)
    worker.admit(PAYER, hold.amount - 148, 0.0)
