"""Purse and till against each other: what honest peers do, and what dishonest ones try."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from hivemind_p2p.credits.client import Till
from hivemind_p2p.credits.earner_book import ADMISSION_LIFETIME
from hivemind_p2p.credits.payer_book import RELEASE_AFTER, RESERVATION_LIFETIME
from hivemind_p2p.credits.purse import SIGN_OFF_DEADLINE
from hivemind_p2p.credits.receipts import Receipt
from hivemind_p2p.credits.vouchers import HOLD_GRACE, HOLD_LIFETIME, Hold, Voucher
from hivemind_p2p.credits.wire import (
    countersign,
    open_hold,
    open_receipt,
    open_voucher,
    read_payment,
    read_signed,
    seal_hold,
    seal_receipt,
    seal_voucher,
)
from hivemind_p2p.errors import (
    BootstrapUnreachableError,
    InsufficientCreditsError,
    NetworkError,
    PaymentRequiredError,
    VoucherError,
)
from hivemind_p2p.identity import Identity
from hivemind_p2p.proto import credits_pb2

LIMIT = 300_000


async def test_work_is_paid_and_settled_about_a_second_later(open_market, autojump_clock):
    async with open_market() as market, trio.open_nursery() as nursery:
        await nursery.start(market.till.run)
        for number in range(5):
            assert await market.work(f"task-{number}", limit=LIMIT, amount=1_000) == 1_000
        assert sum(market.bootstrap.settled.values()) == 0
        await trio.sleep(1.5)
        assert sum(market.bootstrap.settled.values()) == 5_000
        assert market.bootstrap.receipts == 5
        assert market.bootstrap.settle_requests == 1
        assert market.till.statistics().unsettled == 0
        nursery.cancel_scope.cancel()


async def test_one_hold_serves_many_and_only_one_request_is_made_at_a_time(open_market, autojump_clock):
    async with open_market() as market:
        market.bootstrap.delay = 0.5
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(market.purse.authorise, market.worker.peer_id, LIMIT)
        assert market.bootstrap.hold_requests == 1


async def test_three_workers_with_many_tasks_leave_credits_to_spare(open_market, autojump_clock):
    async with open_market() as market:
        for worker in range(3):
            payee = Identity(bytes([worker]) * 32).peer_id
            for _ in range(40):
                await market.purse.authorise(payee, LIMIT)
        assert market.bootstrap.balance >= 100_000_000 - 3 * 40 * LIMIT * 2


async def test_a_used_up_hold_is_topped_up_with_a_new_one(open_market, autojump_clock):
    async with open_market(balance=10_000_000) as market:
        for number in range(20):
            await market.work(f"task-{number}", limit=LIMIT, amount=LIMIT)
        assert len(market.bootstrap.holds) > 1
        await market.till.drain()
        assert sum(market.bootstrap.settled.values()) == 20 * LIMIT


async def test_the_last_credits_can_be_spent(open_market, autojump_clock):
    async with open_market(balance=2 * LIMIT) as market:
        await market.work("first", limit=LIMIT, amount=LIMIT)
        await market.work("second", limit=LIMIT, amount=LIMIT)
        with pytest.raises(InsufficientCreditsError):
            await market.purse.authorise(market.worker.peer_id, LIMIT)


async def test_a_lost_answer_does_not_set_credits_aside_twice(open_market, autojump_clock):
    async with open_market() as market:
        # The balance is answered, the hold's answer gets lost.
        market.bootstrap.lose_answers = 0
        await market.purse.authorise(market.worker.peer_id, LIMIT)
        held = 100_000_000 - market.bootstrap.balance
        other = Identity(b"o" * 32).peer_id
        original = market.bootstrap._hold

        def losing(peer, request):
            market.bootstrap.lose_answers = 1
            market.bootstrap._hold = original
            return original(peer, request)

        market.bootstrap._hold = losing
        with pytest.raises(NetworkError):
            await market.purse.authorise(other, LIMIT)
        await market.purse.authorise(other, LIMIT)
        assert len(market.bootstrap.holds) == 2
        assert 100_000_000 - market.bootstrap.balance == pytest.approx(2 * held, rel=0.2)


async def test_free_work_needs_no_hold(open_market, autojump_clock):
    async with open_market() as market:
        assert await market.work("free", limit=0, amount=0) == 0
        assert market.bootstrap.hold_requests == 0


async def test_failed_work_frees_its_reservation_in_time_and_both_sides_agree(open_market, autojump_clock):
    async with open_market(balance=LIMIT * 10) as market:
        for _ in range(10):
            payment = await market.purse.authorise(market.worker.peer_id, LIMIT)
            await market.till.admit(market.payer.peer_id, payment, limit=LIMIT)
        with pytest.raises(InsufficientCreditsError):
            await market.purse.authorise(market.worker.peer_id, LIMIT)
        assert RESERVATION_LIFETIME > ADMISSION_LIFETIME
        await trio.sleep(RESERVATION_LIFETIME + 1)
        await market.work("after", limit=LIMIT, amount=5)


async def test_released_and_dismissed_work_makes_room_soon(open_market, autojump_clock):
    async with open_market(balance=LIMIT) as market:
        for _ in range(5):
            payment = await market.purse.authorise(market.worker.peer_id, LIMIT)
            await market.till.admit(market.payer.peer_id, payment, limit=LIMIT)
            market.purse.release(market.worker.peer_id, LIMIT)
            market.till.dismiss(market.payer.peer_id, limit=LIMIT)
            await trio.sleep(RELEASE_AFTER + 1)
        await market.work("after", limit=LIMIT, amount=5)


async def test_work_that_outlives_its_hold_is_paid_from_a_new_one(open_market, autojump_clock):
    async with open_market() as market:
        payment = await market.purse.authorise(market.worker.peer_id, LIMIT)
        await market.till.admit(market.payer.peer_id, payment, limit=LIMIT)
        await trio.sleep(HOLD_LIFETIME + 1)
        receipt = await market.till.bill(market.payer.peer_id, work_id="long", amount=7, what="long")
        _, payment = await market.purse.pay(market.worker.peer_id, receipt, work_id="long", limit=LIMIT)
        await market.till.collect(market.payer.peer_id, payment)
        await market.till.drain()
        assert sum(market.bootstrap.settled.values()) == 7


async def test_an_unreachable_bootstrap_is_named(open_market, autojump_clock):
    async with open_market() as market:
        market.memory.kill(market.bootstrap.identity.peer_id)
        with pytest.raises(BootstrapUnreachableError, match=market.bootstrap.identity.peer_id):
            await market.purse.authorise(market.worker.peer_id, LIMIT)


# -- settlement survives ---------------------------------------------------------------------------------------------


async def test_vouchers_wait_while_the_bootstrap_is_away(open_market, autojump_clock):
    async with open_market() as market, trio.open_nursery() as nursery:
        await nursery.start(market.till.run)
        payment = await market.purse.authorise(market.worker.peer_id, LIMIT)
        market.memory.partition([{market.bootstrap.identity.peer_id}, {market.payer.peer_id, market.worker.peer_id}])
        await market.till.admit(market.payer.peer_id, payment, limit=LIMIT)
        receipt = await market.till.bill(market.payer.peer_id, work_id="w", amount=9, what="function")
        _, payment = await market.purse.pay(market.worker.peer_id, receipt, work_id="w", limit=LIMIT)
        await market.till.collect(market.payer.peer_id, payment)
        await trio.sleep(120)
        assert market.till.statistics().unsettled == 9
        market.memory.heal()
        await trio.sleep(180)
        assert sum(market.bootstrap.settled.values()) == 9
        nursery.cancel_scope.cancel()


async def test_a_restarted_till_settles_what_it_had_taken(open_market, autojump_clock, tmp_path):
    async with open_market(folder=tmp_path) as market:
        await market.work("one", limit=LIMIT, amount=11)
        await market.work("two", limit=LIMIT, amount=22)
        worker = market.networks["worker"]
        reborn = Till(worker, market.worker, market.bootstrap.identity.peer_id, market.till._clock, folder=tmp_path)
        assert reborn.statistics().unsettled == 33
        async with trio.open_nursery() as nursery:
            await nursery.start(reborn.run)
            await trio.sleep(1.5)
            nursery.cancel_scope.cancel()
        assert sum(market.bootstrap.settled.values()) == 33
        assert market.bootstrap.receipts == 2
        third = Till(worker, market.worker, market.bootstrap.identity.peer_id, market.till._clock, folder=tmp_path)
        assert third.statistics().unsettled == 0


async def test_the_payer_goes_on_with_a_restarted_till(open_market, autojump_clock, tmp_path):
    async with open_market(folder=tmp_path) as market:
        await market.work("one", limit=LIMIT, amount=11)
        await market.till.drain()
        worker = market.networks["worker"]
        market.till = Till(worker, market.worker, market.bootstrap.identity.peer_id, market.till._clock)
        await market.work("two", limit=LIMIT, amount=22)
        await market.till.drain()
        assert sum(market.bootstrap.settled.values()) == 33


async def test_a_refused_voucher_is_not_handed_in_again(open_market, autojump_clock):
    async with open_market() as market, trio.open_nursery() as nursery:
        market.bootstrap.refuse_with = VoucherError.code()
        await nursery.start(market.till.run)
        await market.work("w", limit=LIMIT, amount=9)
        await trio.sleep(300)
        assert market.bootstrap.settle_requests == 1
        payment = await market.purse.authorise(market.worker.peer_id, LIMIT)
        with pytest.raises(PaymentRequiredError):
            await market.till.admit(market.payer.peer_id, payment, limit=LIMIT)
        nursery.cancel_scope.cancel()


async def test_a_worker_without_an_account_keeps_its_vouchers(open_market, autojump_clock):
    async with open_market() as market, trio.open_nursery() as nursery:
        market.bootstrap.refuse_with = "account_required"
        await nursery.start(market.till.run)
        await market.work("w", limit=LIMIT, amount=9)
        await trio.sleep(30)
        market.bootstrap.refuse_with = ""
        await trio.sleep(120)
        assert sum(market.bootstrap.settled.values()) == 9
        nursery.cancel_scope.cancel()


async def test_payments_may_arrive_in_any_order(open_market, autojump_clock):
    async with open_market() as market:
        payments = []
        for number in range(4):
            payment = await market.purse.authorise(market.worker.peer_id, LIMIT)
            await market.till.admit(market.payer.peer_id, payment, limit=LIMIT)
            receipt = await market.till.bill(market.payer.peer_id, work_id=f"{number}", amount=100, what="f")
            payments.append(
                (await market.purse.pay(market.worker.peer_id, receipt, work_id=f"{number}", limit=LIMIT))[1]
            )
        for payment in reversed(payments):
            await market.till.collect(market.payer.peer_id, payment)
        await market.till.drain()
        assert sum(market.bootstrap.settled.values()) == 400


# -- attacks on the till ---------------------------------------------------------------------------------------------


def _payment(market, *, issuer=None, signer=None, **changes):
    """A payment for a fresh hold, with some of it wrong."""
    voucher_amount = changes.pop("promised", 0)
    end = changes.pop("expires_at", market.till._clock() + HOLD_LIFETIME)
    fields = {"hold_id": "ab" * 16, "payer": market.payer.peer_id, "payee": market.worker.peer_id, "amount": LIMIT}
    hold = Hold(**(fields | changes), expires_at=end)
    voucher = Voucher(hold.hold_id, hold.payer, hold.payee, voucher_amount)
    return credits_pb2.Payment(
        hold=seal_hold(issuer or market.bootstrap.identity, hold),
        voucher=seal_voucher(signer or market.payer, voucher),
    )


async def test_only_a_payment_that_is_right_is_admitted(open_market, autojump_clock):
    async with open_market() as market:
        await market.till.admit(market.payer.peer_id, _payment(market).SerializeToString(), limit=LIMIT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": Identity(b"x" * 32)},
        {"signer": Identity(b"x" * 32)},
        {"payee": Identity(b"x" * 32).peer_id},
        {"payer": Identity(b"x" * 32).peer_id},
        {"payer": Identity(b"x" * 32).peer_id, "signer": Identity(b"x" * 32)},
        {"expires_at": 0.0},
        {"expires_at": float("nan")},
        {"expires_at": float("inf")},
        {"promised": LIMIT + 1},
        {"hold_id": "../../etc"},
    ],
    ids=str,
)
async def test_a_wrong_hold_or_voucher_is_refused(open_market, autojump_clock, wrong):
    async with open_market() as market:
        payment = _payment(market, **wrong).SerializeToString()
        with pytest.raises(VoucherError):
            await market.till.admit(market.payer.peer_id, payment, limit=LIMIT)


async def test_a_voucher_for_another_hold_is_refused(open_market, autojump_clock):
    async with open_market() as market:
        payment = _payment(market)
        payment.voucher.CopyFrom(_payment(market, hold_id="cd" * 16).voucher)
        with pytest.raises(VoucherError):
            await market.till.admit(market.payer.peer_id, payment.SerializeToString(), limit=LIMIT)


async def test_work_beyond_the_hold_is_refused(open_market, autojump_clock):
    async with open_market() as market:
        payment = _payment(market).SerializeToString()
        with pytest.raises(PaymentRequiredError):
            await market.till.admit(market.payer.peer_id, payment, limit=LIMIT + 1)
        await market.till.admit(market.payer.peer_id, payment, limit=LIMIT)
        with pytest.raises(PaymentRequiredError):
            await market.till.admit(market.payer.peer_id, payment, limit=1)


async def test_whoever_does_not_pay_is_not_served_again(open_market, autojump_clock):
    async with open_market() as market:
        payment = _payment(market).SerializeToString()
        await market.till.admit(market.payer.peer_id, payment, limit=LIMIT)
        await market.till.bill(market.payer.peer_id, work_id="w", amount=LIMIT, what="f")
        with pytest.raises(PaymentRequiredError):
            await market.till.admit(market.payer.peer_id, payment, limit=LIMIT)


async def test_no_payment_and_garbage_are_refused(open_market, autojump_clock):
    async with open_market() as market:
        with pytest.raises(PaymentRequiredError):
            await market.till.admit(market.payer.peer_id, b"", limit=LIMIT)
        for garbage in (b"\xff" * 40, b"x" * 100_000, credits_pb2.Payment().SerializeToString() or b"\x0a\x00"):
            with pytest.raises(VoucherError):
                await market.till.admit(market.payer.peer_id, garbage, limit=LIMIT)
            with pytest.raises(VoucherError):
                await market.till.collect(market.payer.peer_id, garbage)


async def test_a_payment_below_the_bill_is_refused_but_its_voucher_is_kept(open_market, autojump_clock):
    async with open_market() as market:
        payment = _payment(market, promised=3)
        await market.till.admit(market.payer.peer_id, _payment(market).SerializeToString(), limit=LIMIT)
        receipt = await market.till.bill(market.payer.peer_id, work_id="w", amount=10, what="f")
        payment.receipt.CopyFrom(countersign(market.payer, read_signed(receipt)))
        with pytest.raises(VoucherError, match="of a bill of"):
            await market.till.collect(market.payer.peer_id, payment.SerializeToString())
        assert market.till.statistics().unsettled == 3


async def test_a_forged_countersignature_is_refused_but_the_voucher_is_kept(open_market, autojump_clock):
    async with open_market() as market:
        payment = await market.purse.authorise(market.worker.peer_id, LIMIT)
        await market.till.admit(market.payer.peer_id, payment, limit=LIMIT)
        receipt = await market.till.bill(market.payer.peer_id, work_id="w", amount=10, what="f")
        _, paid = await market.purse.pay(market.worker.peer_id, receipt, work_id="w", limit=LIMIT)
        forged = read_payment(paid)
        forged.receipt.CopyFrom(countersign(Identity(b"x" * 32), read_signed(receipt)))
        with pytest.raises(VoucherError):
            await market.till.collect(market.payer.peer_id, forged.SerializeToString())
        assert market.till.statistics().unsettled == 10


# -- attacks on the purse --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": LIMIT + 1},
        {"work_id": "another"},
        {"worker": Identity(b"x" * 32).peer_id},
        {"payer": Identity(b"x" * 32).peer_id},
        {"what": "w" * 500},
        {"receipt_id": ""},
        {"finished_at": float("nan")},
    ],
    ids=str,
)
async def test_a_wrong_receipt_is_not_paid(open_market, autojump_clock, wrong):
    async with open_market() as market:
        await market.purse.authorise(market.worker.peer_id, LIMIT)
        good = Receipt("r", "w", market.worker.peer_id, market.payer.peer_id, 10, "f", 1.0)
        bad = seal_receipt(market.worker, replace(good, **wrong))
        with pytest.raises(VoucherError):
            await market.purse.pay(market.worker.peer_id, bad, work_id="w", limit=LIMIT)
        cost, _ = await market.purse.pay(
            market.worker.peer_id, seal_receipt(market.worker, good), work_id="w", limit=LIMIT
        )
        assert cost == 10


async def test_a_receipt_signed_by_somebody_else_is_not_paid(open_market, autojump_clock):
    async with open_market() as market:
        await market.purse.authorise(market.worker.peer_id, LIMIT)
        receipt = Receipt("r", "w", market.worker.peer_id, market.payer.peer_id, 10, "f", 1.0)
        with pytest.raises(VoucherError, match="signature"):
            await market.purse.pay(
                market.worker.peer_id, seal_receipt(Identity(b"x" * 32), receipt), work_id="w", limit=LIMIT
            )


async def test_nothing_is_paid_twice(open_market, autojump_clock):
    async with open_market() as market:
        for _ in range(2):
            await market.purse.authorise(market.worker.peer_id, LIMIT)
        receipt = seal_receipt(
            market.worker, Receipt("r", "w", market.worker.peer_id, market.payer.peer_id, 10, "f", 1.0)
        )
        await market.purse.pay(market.worker.peer_id, receipt, work_id="w", limit=LIMIT)
        with pytest.raises(VoucherError, match="second time"):
            await market.purse.pay(market.worker.peer_id, receipt, work_id="w", limit=LIMIT)


async def test_one_permission_pays_one_receipt(open_market, autojump_clock):
    async with open_market() as market:
        await market.purse.authorise(market.worker.peer_id, LIMIT)
        for number, allowed in ((1, True), (2, False)):
            receipt = seal_receipt(
                market.worker, Receipt(f"r{number}", "w", market.worker.peer_id, market.payer.peer_id, 10, "f", 1.0)
            )
            if allowed:
                await market.purse.pay(market.worker.peer_id, receipt, work_id="w", limit=LIMIT)
                continue
            with pytest.raises(VoucherError, match="not authorised"):
                await market.purse.pay(market.worker.peer_id, receipt, work_id="w", limit=LIMIT)


async def test_signatures_of_one_kind_never_pass_for_another(open_market, autojump_clock):
    async with open_market() as market:
        hold = Hold("ab" * 16, market.payer.peer_id, market.worker.peer_id, 5, 1.0)
        certificate = seal_hold(market.payer, hold)
        with pytest.raises(VoucherError):
            open_voucher(certificate)
        voucher = seal_voucher(market.bootstrap.identity, Voucher(hold.hold_id, hold.payer, hold.payee, 5))
        with pytest.raises(VoucherError):
            open_hold(voucher, market.bootstrap.identity.peer_id)
        with pytest.raises(VoucherError):
            open_receipt(voucher)


async def test_a_hold_that_ended_long_ago_is_forgotten(open_market, autojump_clock):
    async with open_market() as market:
        await market.work("w", limit=LIMIT, amount=9)
        market.memory.kill(market.bootstrap.identity.peer_id)
        await trio.sleep(HOLD_LIFETIME + HOLD_GRACE + 1)
        await market.till.drain()
        assert market.till.statistics().unsettled == 0


async def test_a_payer_leaves_without_waiting_for_a_worker_that_is_gone(open_market, autojump_clock):
    async with open_market() as market:
        await market.work("w", limit=LIMIT, amount=9)
        market.memory.kill(market.worker.peer_id)
        with trio.fail_after(SIGN_OFF_DEADLINE + 1):
            await market.purse.close()


async def test_a_worker_that_signs_off_closes_its_holds(open_market, autojump_clock):
    async with open_market() as market:
        await market.work("w", limit=LIMIT, amount=9)
        await market.till.sign_off()
        assert sum(market.bootstrap.settled.values()) == 9
        payment = await market.purse.authorise(market.worker.peer_id, LIMIT)
        with pytest.raises(PaymentRequiredError):
            await market.till.admit(market.payer.peer_id, payment, limit=LIMIT)
