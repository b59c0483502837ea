from hivemind_p2p.proto import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HoldBody(_message.Message):
    __slots__ = ("hold_id", "payer", "payee", "amount", "expires_at")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    PAYER_FIELD_NUMBER: _ClassVar[int]
    PAYEE_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    payer: str
    payee: str
    amount: int
    expires_at: float
    def __init__(self, hold_id: _Optional[str] = ..., payer: _Optional[str] = ..., payee: _Optional[str] = ..., amount: _Optional[int] = ..., expires_at: _Optional[float] = ...) -> None: ...

class VoucherBody(_message.Message):
    __slots__ = ("hold_id", "payer", "payee", "amount")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    PAYER_FIELD_NUMBER: _ClassVar[int]
    PAYEE_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    payer: str
    payee: str
    amount: int
    def __init__(self, hold_id: _Optional[str] = ..., payer: _Optional[str] = ..., payee: _Optional[str] = ..., amount: _Optional[int] = ...) -> None: ...

class ReceiptBody(_message.Message):
    __slots__ = ("receipt_id", "work_id", "worker", "payer", "amount", "what", "finished_at")
    RECEIPT_ID_FIELD_NUMBER: _ClassVar[int]
    WORK_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    PAYER_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    receipt_id: str
    work_id: str
    worker: str
    payer: str
    amount: int
    what: str
    finished_at: float
    def __init__(self, receipt_id: _Optional[str] = ..., work_id: _Optional[str] = ..., worker: _Optional[str] = ..., payer: _Optional[str] = ..., amount: _Optional[int] = ..., what: _Optional[str] = ..., finished_at: _Optional[float] = ...) -> None: ...

class CountersignedReceipt(_message.Message):
    __slots__ = ("receipt", "countersignature")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    COUNTERSIGNATURE_FIELD_NUMBER: _ClassVar[int]
    receipt: _common_pb2.Signed
    countersignature: bytes
    def __init__(self, receipt: _Optional[_Union[_common_pb2.Signed, _Mapping]] = ..., countersignature: _Optional[bytes] = ...) -> None: ...

class Payment(_message.Message):
    __slots__ = ("hold", "voucher", "receipt")
    HOLD_FIELD_NUMBER: _ClassVar[int]
    VOUCHER_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    hold: _common_pb2.Signed
    voucher: _common_pb2.Signed
    receipt: CountersignedReceipt
    def __init__(self, hold: _Optional[_Union[_common_pb2.Signed, _Mapping]] = ..., voucher: _Optional[_Union[_common_pb2.Signed, _Mapping]] = ..., receipt: _Optional[_Union[CountersignedReceipt, _Mapping]] = ...) -> None: ...

class SignOff(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SignedOff(_message.Message):
    __slots__ = ("holds",)
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    holds: int
    def __init__(self, holds: _Optional[int] = ...) -> None: ...

class HoldRequest(_message.Message):
    __slots__ = ("hold_id", "payee", "amount")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    PAYEE_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    payee: str
    amount: int
    def __init__(self, hold_id: _Optional[str] = ..., payee: _Optional[str] = ..., amount: _Optional[int] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("voucher", "receipts")
    VOUCHER_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    voucher: _common_pb2.Signed
    receipts: _containers.RepeatedCompositeFieldContainer[CountersignedReceipt]
    def __init__(self, voucher: _Optional[_Union[_common_pb2.Signed, _Mapping]] = ..., receipts: _Optional[_Iterable[_Union[CountersignedReceipt, _Mapping]]] = ...) -> None: ...

class SettleRequest(_message.Message):
    __slots__ = ("claims",)
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    claims: _containers.RepeatedCompositeFieldContainer[Claim]
    def __init__(self, claims: _Optional[_Iterable[_Union[Claim, _Mapping]]] = ...) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("hold_id",)
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    def __init__(self, hold_id: _Optional[str] = ...) -> None: ...

class BalanceRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatementRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class OverviewRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CreditsRequest(_message.Message):
    __slots__ = ("hold", "settle", "close", "balance", "statement", "overview")
    HOLD_FIELD_NUMBER: _ClassVar[int]
    SETTLE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    OVERVIEW_FIELD_NUMBER: _ClassVar[int]
    hold: HoldRequest
    settle: SettleRequest
    close: CloseRequest
    balance: BalanceRequest
    statement: StatementRequest
    overview: OverviewRequest
    def __init__(self, hold: _Optional[_Union[HoldRequest, _Mapping]] = ..., settle: _Optional[_Union[SettleRequest, _Mapping]] = ..., close: _Optional[_Union[CloseRequest, _Mapping]] = ..., balance: _Optional[_Union[BalanceRequest, _Mapping]] = ..., statement: _Optional[_Union[StatementRequest, _Mapping]] = ..., overview: _Optional[_Union[OverviewRequest, _Mapping]] = ...) -> None: ...

class ClaimOutcome(_message.Message):
    __slots__ = ("hold_id", "settled", "error_code", "error_message")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    settled: int
    error_code: str
    error_message: str
    def __init__(self, hold_id: _Optional[str] = ..., settled: _Optional[int] = ..., error_code: _Optional[str] = ..., error_message: _Optional[str] = ...) -> None: ...

class SettleAnswer(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[ClaimOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[ClaimOutcome, _Mapping]]] = ...) -> None: ...

class BalanceAnswer(_message.Message):
    __slots__ = ("username", "available", "held")
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    username: str
    available: int
    held: int
    def __init__(self, username: _Optional[str] = ..., available: _Optional[int] = ..., held: _Optional[int] = ...) -> None: ...

class StatementRow(_message.Message):
    __slots__ = ("time", "what", "amount", "counterparty")
    TIME_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    COUNTERPARTY_FIELD_NUMBER: _ClassVar[int]
    time: float
    what: str
    amount: int
    counterparty: str
    def __init__(self, time: _Optional[float] = ..., what: _Optional[str] = ..., amount: _Optional[int] = ..., counterparty: _Optional[str] = ...) -> None: ...

class StatementAnswer(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[StatementRow]
    def __init__(self, rows: _Optional[_Iterable[_Union[StatementRow, _Mapping]]] = ...) -> None: ...

class Total(_message.Message):
    __slots__ = ("name", "available", "held", "welcome", "earned", "paid")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    EARNED_FIELD_NUMBER: _ClassVar[int]
    PAID_FIELD_NUMBER: _ClassVar[int]
    name: str
    available: int
    held: int
    welcome: int
    earned: int
    paid: int
    def __init__(self, name: _Optional[str] = ..., available: _Optional[int] = ..., held: _Optional[int] = ..., welcome: _Optional[int] = ..., earned: _Optional[int] = ..., paid: _Optional[int] = ...) -> None: ...

class OverviewAnswer(_message.Message):
    __slots__ = ("totals", "sum", "transfers")
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    totals: _containers.RepeatedCompositeFieldContainer[Total]
    sum: int
    transfers: int
    def __init__(self, totals: _Optional[_Iterable[_Union[Total, _Mapping]]] = ..., sum: _Optional[int] = ..., transfers: _Optional[int] = ...) -> None: ...

class CloseAnswer(_message.Message):
    __slots__ = ("released",)
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    released: int
    def __init__(self, released: _Optional[int] = ...) -> None: ...

class CreditsAnswer(_message.Message):
    __slots__ = ("hold", "settle", "close", "balance", "statement", "overview")
    HOLD_FIELD_NUMBER: _ClassVar[int]
    SETTLE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    OVERVIEW_FIELD_NUMBER: _ClassVar[int]
    hold: _common_pb2.Signed
    settle: SettleAnswer
    close: CloseAnswer
    balance: BalanceAnswer
    statement: StatementAnswer
    overview: OverviewAnswer
    def __init__(self, hold: _Optional[_Union[_common_pb2.Signed, _Mapping]] = ..., settle: _Optional[_Union[SettleAnswer, _Mapping]] = ..., close: _Optional[_Union[CloseAnswer, _Mapping]] = ..., balance: _Optional[_Union[BalanceAnswer, _Mapping]] = ..., statement: _Optional[_Union[StatementAnswer, _Mapping]] = ..., overview: _Optional[_Union[OverviewAnswer, _Mapping]] = ...) -> None: ...
