from hivemind_p2p.proto import tasks_pb2 as _tasks_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(_message.Message):
    __slots__ = ("kind", "task_type", "needs", "max_cost", "at_most_once", "stream_output", "priority", "deadline", "judged", "keep", "takes_links")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TASK_TYPE_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_FIELD_NUMBER: _ClassVar[int]
    AT_MOST_ONCE_FIELD_NUMBER: _ClassVar[int]
    STREAM_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    JUDGED_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    TAKES_LINKS_FIELD_NUMBER: _ClassVar[int]
    kind: int
    task_type: str
    needs: _tasks_pb2.Needs
    max_cost: int
    at_most_once: bool
    stream_output: bool
    priority: int
    deadline: float
    judged: bool
    keep: bool
    takes_links: bool
    def __init__(self, kind: _Optional[int] = ..., task_type: _Optional[str] = ..., needs: _Optional[_Union[_tasks_pb2.Needs, _Mapping]] = ..., max_cost: _Optional[int] = ..., at_most_once: _Optional[bool] = ..., stream_output: _Optional[bool] = ..., priority: _Optional[int] = ..., deadline: _Optional[float] = ..., judged: _Optional[bool] = ..., keep: _Optional[bool] = ..., takes_links: _Optional[bool] = ...) -> None: ...

class Linked(_message.Message):
    __slots__ = ("number", "link", "bytes")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    number: int
    link: str
    bytes: int
    def __init__(self, number: _Optional[int] = ..., link: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("kinds", "shared", "shared_sizes", "numbers", "task_ids", "task_kinds", "task_shared", "task_sizes", "inputs", "again")
    KINDS_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    SHARED_SIZES_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    TASK_IDS_FIELD_NUMBER: _ClassVar[int]
    TASK_KINDS_FIELD_NUMBER: _ClassVar[int]
    TASK_SHARED_FIELD_NUMBER: _ClassVar[int]
    TASK_SIZES_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    kinds: _containers.RepeatedCompositeFieldContainer[Kind]
    shared: _containers.RepeatedScalarFieldContainer[int]
    shared_sizes: _containers.RepeatedScalarFieldContainer[int]
    numbers: _containers.RepeatedScalarFieldContainer[int]
    task_ids: _containers.RepeatedScalarFieldContainer[str]
    task_kinds: _containers.RepeatedScalarFieldContainer[int]
    task_shared: _containers.RepeatedScalarFieldContainer[int]
    task_sizes: _containers.RepeatedScalarFieldContainer[int]
    inputs: _containers.RepeatedCompositeFieldContainer[Linked]
    again: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, kinds: _Optional[_Iterable[_Union[Kind, _Mapping]]] = ..., shared: _Optional[_Iterable[int]] = ..., shared_sizes: _Optional[_Iterable[int]] = ..., numbers: _Optional[_Iterable[int]] = ..., task_ids: _Optional[_Iterable[str]] = ..., task_kinds: _Optional[_Iterable[int]] = ..., task_shared: _Optional[_Iterable[int]] = ..., task_sizes: _Optional[_Iterable[int]] = ..., inputs: _Optional[_Iterable[_Union[Linked, _Mapping]]] = ..., again: _Optional[_Iterable[int]] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("number", "of_shared")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OF_SHARED_FIELD_NUMBER: _ClassVar[int]
    number: int
    of_shared: bool
    def __init__(self, number: _Optional[int] = ..., of_shared: _Optional[bool] = ...) -> None: ...

class Allowance(_message.Message):
    __slots__ = ("limit", "payment")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    payment: bytes
    def __init__(self, limit: _Optional[int] = ..., payment: _Optional[bytes] = ...) -> None: ...

class Settled(_message.Message):
    __slots__ = ("bill", "payment")
    BILL_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_FIELD_NUMBER: _ClassVar[int]
    bill: int
    payment: bytes
    def __init__(self, bill: _Optional[int] = ..., payment: _Optional[bytes] = ...) -> None: ...

class FromCaller(_message.Message):
    __slots__ = ("allowances", "submit", "cancelled", "settled", "piece", "take_back", "leaving", "accepted", "rejected", "wanted_back")
    ALLOWANCES_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    TAKE_BACK_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    WANTED_BACK_FIELD_NUMBER: _ClassVar[int]
    allowances: _containers.RepeatedCompositeFieldContainer[Allowance]
    submit: Submit
    cancelled: _containers.RepeatedScalarFieldContainer[int]
    settled: Settled
    piece: Piece
    take_back: bool
    leaving: bool
    accepted: _containers.RepeatedScalarFieldContainer[int]
    rejected: _containers.RepeatedScalarFieldContainer[int]
    wanted_back: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, allowances: _Optional[_Iterable[_Union[Allowance, _Mapping]]] = ..., submit: _Optional[_Union[Submit, _Mapping]] = ..., cancelled: _Optional[_Iterable[int]] = ..., settled: _Optional[_Union[Settled, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ..., take_back: _Optional[bool] = ..., leaving: _Optional[bool] = ..., accepted: _Optional[_Iterable[int]] = ..., rejected: _Optional[_Iterable[int]] = ..., wanted_back: _Optional[_Iterable[int]] = ...) -> None: ...

class Results(_message.Message):
    __slots__ = ("numbers", "sizes", "wall_seconds", "cpu_seconds", "peak_memory_bytes", "costs", "report_rows", "reports", "outputs")
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    WALL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PEAK_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    COSTS_FIELD_NUMBER: _ClassVar[int]
    REPORT_ROWS_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    numbers: _containers.RepeatedScalarFieldContainer[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    wall_seconds: _containers.RepeatedScalarFieldContainer[float]
    cpu_seconds: _containers.RepeatedScalarFieldContainer[float]
    peak_memory_bytes: _containers.RepeatedScalarFieldContainer[int]
    costs: _containers.RepeatedScalarFieldContainer[int]
    report_rows: _containers.RepeatedScalarFieldContainer[int]
    reports: _containers.RepeatedCompositeFieldContainer[_tasks_pb2.Report]
    outputs: _containers.RepeatedCompositeFieldContainer[Linked]
    def __init__(self, numbers: _Optional[_Iterable[int]] = ..., sizes: _Optional[_Iterable[int]] = ..., wall_seconds: _Optional[_Iterable[float]] = ..., cpu_seconds: _Optional[_Iterable[float]] = ..., peak_memory_bytes: _Optional[_Iterable[int]] = ..., costs: _Optional[_Iterable[int]] = ..., report_rows: _Optional[_Iterable[int]] = ..., reports: _Optional[_Iterable[_Union[_tasks_pb2.Report, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Linked, _Mapping]]] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("numbers", "code", "message", "hint")
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    numbers: _containers.RepeatedScalarFieldContainer[int]
    code: str
    message: str
    hint: str
    def __init__(self, numbers: _Optional[_Iterable[int]] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class Bill(_message.Message):
    __slots__ = ("bill", "limit", "receipt")
    BILL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    bill: int
    limit: int
    receipt: bytes
    def __init__(self, bill: _Optional[int] = ..., limit: _Optional[int] = ..., receipt: _Optional[bytes] = ...) -> None: ...

class Printed(_message.Message):
    __slots__ = ("numbers", "sizes")
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    numbers: _containers.RepeatedScalarFieldContainer[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, numbers: _Optional[_Iterable[int]] = ..., sizes: _Optional[_Iterable[int]] = ...) -> None: ...

class FromWorker(_message.Message):
    __slots__ = ("results", "started", "wanted_shared", "refused", "bill", "piece", "printed", "allowance_needed")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    WANTED_SHARED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    BILL_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    PRINTED_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCE_NEEDED_FIELD_NUMBER: _ClassVar[int]
    results: Results
    started: _containers.RepeatedScalarFieldContainer[int]
    wanted_shared: _containers.RepeatedScalarFieldContainer[int]
    refused: _containers.RepeatedCompositeFieldContainer[Refused]
    bill: Bill
    piece: Piece
    printed: Printed
    allowance_needed: bool
    def __init__(self, results: _Optional[_Union[Results, _Mapping]] = ..., started: _Optional[_Iterable[int]] = ..., wanted_shared: _Optional[_Iterable[int]] = ..., refused: _Optional[_Iterable[_Union[Refused, _Mapping]]] = ..., bill: _Optional[_Union[Bill, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ..., printed: _Optional[_Union[Printed, _Mapping]] = ..., allowance_needed: _Optional[bool] = ...) -> None: ...
