"""Every reader of bytes from peers: anything may come in, only `VoucherError` may come out."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.credits.pricing import hold_amount
from hivemind_p2p.credits.receipts import Receipt, describe
from hivemind_p2p.credits.vouchers import MOST_CREDITS, Hold, Voucher, check_voucher
from hivemind_p2p.credits.wire import (
    LARGEST_PAYMENT,
    MOST_RECEIPTS,
    countersign,
    open_countersigned,
    open_hold,
    open_receipt,
    open_voucher,
    read_payment,
    read_signed,
    seal_hold,
    seal_receipt,
    seal_voucher,
)
from hivemind_p2p.errors import VoucherError
from hivemind_p2p.identity import Identity
from hivemind_p2p.proto import common_pb2, credits_pb2

PAYER, WORKER, BOOTSTRAP = (Identity(bytes([number]) * 32) for number in range(3))
IDS = st.text("0123456789abcdef", min_size=32, max_size=32)
AMOUNTS = st.integers(0, MOST_CREDITS)
SHORT = st.text(max_size=200)


@given(IDS, AMOUNTS, st.floats(allow_nan=False, allow_infinity=False))
def test_a_hold_comes_back_as_it_was(hold_id, amount, expires_at):
    hold = Hold(hold_id, PAYER.peer_id, WORKER.peer_id, amount, expires_at)
    assert open_hold(seal_hold(BOOTSTRAP, hold), BOOTSTRAP.peer_id) == hold


@given(IDS, AMOUNTS)
def test_a_voucher_comes_back_as_it_was(hold_id, amount):
    voucher = Voucher(hold_id, PAYER.peer_id, WORKER.peer_id, amount)
    assert open_voucher(seal_voucher(PAYER, voucher)) == voucher


@given(SHORT.filter(bool), SHORT, AMOUNTS, SHORT)
def test_a_countersigned_receipt_comes_back_as_it_was(receipt_id, work_id, amount, what):
    receipt = Receipt(receipt_id, work_id, WORKER.peer_id, PAYER.peer_id, amount, what, 7.5)
    signed = read_signed(seal_receipt(WORKER, receipt))
    assert open_receipt(signed) == receipt
    assert open_countersigned(countersign(PAYER, signed)) == receipt


@given(st.binary(max_size=400))
def test_garbage_is_refused_with_an_error_of_ours(data):
    signed = common_pb2.Signed(body=data, signature=data[:64])
    for reader in (
        lambda: open_hold(signed, BOOTSTRAP.peer_id),
        lambda: open_voucher(signed),
        lambda: open_receipt(signed),
        lambda: open_countersigned(credits_pb2.CountersignedReceipt(receipt=signed)),
    ):
        with pytest.raises(VoucherError):
            reader()
    for reader in (read_payment, read_signed):
        with suppress(VoucherError):
            reader(data)


@given(st.data())
def test_one_flipped_bit_is_noticed(data):
    signed = seal_voucher(PAYER, Voucher("ab" * 16, PAYER.peer_id, WORKER.peer_id, 1_000))
    raw = bytearray(signed.SerializeToString())
    position = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[position // 8] ^= 1 << position % 8
    changed = common_pb2.Signed()
    try:
        changed.ParseFromString(bytes(raw))
    except Exception:
        return
    if (changed.body, changed.signature) == (signed.body, signed.signature):
        return
    with pytest.raises(VoucherError):
        open_voucher(changed)


def test_what_is_larger_than_anything_real_is_not_even_read():
    with pytest.raises(VoucherError, match="larger"):
        read_payment(b"\x00" * (LARGEST_PAYMENT + 1))


def test_a_full_settlement_fits_into_one_header():
    long = "\N{HONEYBEE}" * 200
    receipt = Receipt(long, long, WORKER.peer_id, PAYER.peer_id, MOST_CREDITS, long, 1.0)
    size = countersign(PAYER, read_signed(seal_receipt(WORKER, receipt))).ByteSize()
    normal = Receipt("r" * 24, "w" * 36, WORKER.peer_id, PAYER.peer_id, 10**6, "function", 1.0)
    assert size < LARGEST_PAYMENT
    assert countersign(PAYER, read_signed(seal_receipt(WORKER, normal))).ByteSize() * MOST_RECEIPTS < 2**20


@given(AMOUNTS, AMOUNTS)
def test_a_voucher_is_good_for_its_hold_at_most(amount, promised):
    hold = Hold("ab" * 16, PAYER.peer_id, WORKER.peer_id, amount, 1.0)
    voucher = Voucher(hold.hold_id, hold.payer, hold.payee, promised)
    if promised <= amount:
        check_voucher(hold, voucher)
        return
    with pytest.raises(VoucherError):
        check_voucher(hold, voucher)


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.integers(0, 10**12))
def test_a_hold_covers_what_waits_and_never_takes_more_than_a_tenth_for_later(needed, limit, available):
    amount = hold_amount(needed, limit, available)
    assert amount >= needed
    assert amount == needed or amount <= available // 10


def test_many_receipts_make_one_line():
    assert describe(["f"]) == "f"
    assert describe(["f"] * 12 + ["g"]) == "12 x f, g"
    assert describe(["a", "b", "c", "d", "e"]) == "a, b, c, 2 more"
