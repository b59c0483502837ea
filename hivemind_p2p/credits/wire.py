"""Signed holds, vouchers and receipts: records to protobuf and back, each signature checked on the way in.

Everything here reads bytes from peers that may lie: what comes out of an `open_*` function carries a valid signature,
has bounded texts and amounts, and finite times.
"""

from __future__ import annotations

import math
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from hivemind_p2p.credits.receipts import LONGEST_TEXT, Receipt
from hivemind_p2p.credits.vouchers import MOST_CREDITS, Hold, Voucher, is_hold_id
from hivemind_p2p.errors import VoucherError
from hivemind_p2p.identity import Identity, verify
from hivemind_p2p.proto import common_pb2, credits_pb2
from hivemind_p2p.types import PeerId

ACCOUNTS_PROTOCOL = "/hivemind/accounts/1"
PAYMENTS_PROTOCOL = "/hivemind/payments/1"
CREDITS_PROTOCOL = "/hivemind/credits/1"

LARGEST_PAYMENT = 16 * 1024
"""Bytes of a payment or receipt: three signed bodies of a few hundred bytes each, with room to grow."""

MOST_CLAIMS = 64
MOST_RECEIPTS = 512
"""Claims in one settlement, and receipts in all of them together: about 300 KiB."""

_Parsed = TypeVar("_Parsed", bound=Message)
_Body = TypeVar("_Body", credits_pb2.HoldBody, credits_pb2.VoucherBody, credits_pb2.ReceiptBody)


def _parse(kind: type[_Parsed], data: bytes, name: str) -> _Parsed:
    if len(data) > LARGEST_PAYMENT:
        raise VoucherError(f"a {name} of {len(data)} bytes is larger than any real one")
    try:
        message = kind()
        message.ParseFromString(data)
    except DecodeError as error:
        raise VoucherError(f"a {name} cannot be read: {error}") from error
    return message


def _checked(kind: type[_Body], signed: common_pb2.Signed, domain: str) -> _Body:
    body = _parse(kind, signed.body, domain)
    if body.amount > MOST_CREDITS:
        raise VoucherError(f"a {domain} names an amount beyond all credits there are")
    if not isinstance(body, credits_pb2.ReceiptBody) and not is_hold_id(body.hold_id):
        raise VoucherError(f"a {domain} names a malformed hold")
    return body


def _require_signature(signer: str, domain: str, signed: common_pb2.Signed) -> None:
    if not verify(PeerId(signer), domain, signed.body, signed.signature):
        raise VoucherError(f"a {domain} does not carry a valid signature of {signer[:64]}")


def _sealed(identity: Identity, domain: str, body: Message) -> common_pb2.Signed:
    data = body.SerializeToString(deterministic=True)
    return common_pb2.Signed(body=data, signature=identity.sign(domain, data))


def seal_hold(identity: Identity, hold: Hold) -> common_pb2.Signed:
    """The certificate of a hold, signed by the bootstrap."""
    body = credits_pb2.HoldBody(
        hold_id=hold.hold_id, payer=hold.payer, payee=hold.payee, amount=hold.amount, expires_at=hold.expires_at
    )
    return _sealed(identity, "hold", body)


def open_hold(signed: common_pb2.Signed, bootstrap: PeerId) -> Hold:
    """The hold that a certificate of this bootstrap certifies.

    Raises:
        VoucherError: Malformed, or not signed by this bootstrap.
    """
    body = _checked(credits_pb2.HoldBody, signed, "hold")
    _require_signature(bootstrap, "hold", signed)
    if not math.isfinite(body.expires_at):
        raise VoucherError("a hold has no end")
    return Hold(body.hold_id, PeerId(body.payer), PeerId(body.payee), body.amount, body.expires_at)


def seal_voucher(identity: Identity, voucher: Voucher) -> common_pb2.Signed:
    """A voucher, signed by its payer."""
    body = credits_pb2.VoucherBody(
        hold_id=voucher.hold_id, payer=voucher.payer, payee=voucher.payee, amount=voucher.amount
    )
    return _sealed(identity, "voucher", body)


def open_voucher(signed: common_pb2.Signed) -> Voucher:
    """A voucher that the payer it names has signed.

    Raises:
        VoucherError: Malformed or forged.
    """
    body = _checked(credits_pb2.VoucherBody, signed, "voucher")
    _require_signature(body.payer, "voucher", signed)
    return Voucher(body.hold_id, PeerId(body.payer), PeerId(body.payee), body.amount)


def seal_receipt(identity: Identity, receipt: Receipt) -> bytes:
    """A receipt, signed by its worker, as bytes."""
    body = credits_pb2.ReceiptBody(
        receipt_id=receipt.receipt_id,
        work_id=receipt.work_id,
        worker=receipt.worker,
        payer=receipt.payer,
        amount=receipt.amount,
        what=receipt.what,
        finished_at=receipt.finished_at,
    )
    return _sealed(identity, "receipt", body).SerializeToString()


def open_receipt(signed: common_pb2.Signed) -> Receipt:
    """A receipt that the worker it names has signed.

    Raises:
        VoucherError: Malformed or forged.
    """
    body = _checked(credits_pb2.ReceiptBody, signed, "receipt")
    _require_signature(body.worker, "receipt", signed)
    if max(len(body.receipt_id), len(body.work_id), len(body.what)) > LONGEST_TEXT or not body.receipt_id:
        raise VoucherError(f"a receipt of {body.worker} has a text that is empty or too long")
    if not math.isfinite(body.finished_at):
        raise VoucherError(f"a receipt of {body.worker} has no time")
    return Receipt(
        receipt_id=body.receipt_id,
        work_id=body.work_id,
        worker=PeerId(body.worker),
        payer=PeerId(body.payer),
        amount=body.amount,
        what=body.what,
        finished_at=body.finished_at,
    )


def read_signed(data: bytes) -> common_pb2.Signed:
    """The outer message of a signed receipt in bytes.

    Raises:
        VoucherError: It cannot be read.
    """
    return _parse(common_pb2.Signed, data, "receipt")


def countersign(identity: Identity, signed: common_pb2.Signed) -> credits_pb2.CountersignedReceipt:
    """The payer's word on a receipt: it agrees."""
    signature = identity.sign("countersign", signed.body)
    return credits_pb2.CountersignedReceipt(receipt=signed, countersignature=signature)


def open_countersigned(message: credits_pb2.CountersignedReceipt) -> Receipt:
    """A receipt that both sides have signed.

    Raises:
        VoucherError: Malformed, or one of the signatures is forged.
    """
    receipt = open_receipt(message.receipt)
    if not verify(receipt.payer, "countersign", message.receipt.body, message.countersignature):
        raise VoucherError(f"a receipt of {receipt.worker} is not countersigned by {receipt.payer[:64]}")
    return receipt


def read_payment(data: bytes) -> credits_pb2.Payment:
    """The parts of a payment; none of them is checked yet.

    Raises:
        VoucherError: It cannot be read.
    """
    return _parse(credits_pb2.Payment, data, "payment")
