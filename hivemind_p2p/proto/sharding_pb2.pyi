from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOKENS: _ClassVar[Mode]
    LOGITS: _ClassVar[Mode]
    HIDDEN: _ClassVar[Mode]
    EMBED: _ClassVar[Mode]
    STATES: _ClassVar[Mode]
TOKENS: Mode
LOGITS: Mode
HIDDEN: Mode
EMBED: Mode
STATES: Mode

class Models(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("link", "name", "layer_count", "stages_wanted", "architecture", "layer_bytes", "embedding_bytes", "by_hand", "head_bytes")
    LINK_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LAYER_COUNT_FIELD_NUMBER: _ClassVar[int]
    STAGES_WANTED_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    LAYER_BYTES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_BYTES_FIELD_NUMBER: _ClassVar[int]
    BY_HAND_FIELD_NUMBER: _ClassVar[int]
    HEAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    link: str
    name: str
    layer_count: int
    stages_wanted: int
    architecture: str
    layer_bytes: int
    embedding_bytes: int
    by_hand: bool
    head_bytes: int
    def __init__(self, link: _Optional[str] = ..., name: _Optional[str] = ..., layer_count: _Optional[int] = ..., stages_wanted: _Optional[int] = ..., architecture: _Optional[str] = ..., layer_bytes: _Optional[int] = ..., embedding_bytes: _Optional[int] = ..., by_hand: _Optional[bool] = ..., head_bytes: _Optional[int] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("start", "stop")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    start: int
    stop: int
    def __init__(self, start: _Optional[int] = ..., stop: _Optional[int] = ...) -> None: ...

class ToStage(_message.Message):
    __slots__ = ("host", "open", "feed", "ping", "close", "payment")
    HOST_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    FEED_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_FIELD_NUMBER: _ClassVar[int]
    host: Host
    open: Open
    feed: Feed
    ping: Ping
    close: Close
    payment: Payment
    def __init__(self, host: _Optional[_Union[Host, _Mapping]] = ..., open: _Optional[_Union[Open, _Mapping]] = ..., feed: _Optional[_Union[Feed, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., payment: _Optional[_Union[Payment, _Mapping]] = ...) -> None: ...

class Host(_message.Message):
    __slots__ = ("link", "lost", "span")
    LINK_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    link: str
    lost: _containers.RepeatedScalarFieldContainer[str]
    span: Span
    def __init__(self, link: _Optional[str] = ..., lost: _Optional[_Iterable[str]] = ..., span: _Optional[_Union[Span, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("generation_id", "link", "span", "index", "stages", "previous_peer", "next_peer", "room", "sampling", "ends", "payment", "mode", "activations", "speculation", "budget")
    GENERATION_ID_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_PEER_FIELD_NUMBER: _ClassVar[int]
    NEXT_PEER_FIELD_NUMBER: _ClassVar[int]
    ROOM_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    generation_id: bytes
    link: str
    span: Span
    index: int
    stages: int
    previous_peer: str
    next_peer: str
    room: int
    sampling: Sampling
    ends: _containers.RepeatedScalarFieldContainer[int]
    payment: bytes
    mode: Mode
    activations: str
    speculation: Speculation
    budget: int
    def __init__(self, generation_id: _Optional[bytes] = ..., link: _Optional[str] = ..., span: _Optional[_Union[Span, _Mapping]] = ..., index: _Optional[int] = ..., stages: _Optional[int] = ..., previous_peer: _Optional[str] = ..., next_peer: _Optional[str] = ..., room: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., ends: _Optional[_Iterable[int]] = ..., payment: _Optional[bytes] = ..., mode: _Optional[_Union[Mode, str]] = ..., activations: _Optional[str] = ..., speculation: _Optional[_Union[Speculation, _Mapping]] = ..., budget: _Optional[int] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "seed", "min_p", "repetition_penalty", "log_probabilities")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    seed: int
    min_p: float
    repetition_penalty: float
    log_probabilities: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., log_probabilities: _Optional[int] = ...) -> None: ...

class Speculation(_message.Message):
    __slots__ = ("most", "draft_model")
    MOST_FIELD_NUMBER: _ClassVar[int]
    DRAFT_MODEL_FIELD_NUMBER: _ClassVar[int]
    most: int
    draft_model: str
    def __init__(self, most: _Optional[int] = ..., draft_model: _Optional[str] = ...) -> None: ...

class Feed(_message.Message):
    __slots__ = ("tokens", "last", "position", "rows")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    last: bool
    position: int
    rows: int
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., last: _Optional[bool] = ..., position: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Close(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Payment(_message.Message):
    __slots__ = ("payment",)
    PAYMENT_FIELD_NUMBER: _ClassVar[int]
    payment: bytes
    def __init__(self, payment: _Optional[bytes] = ...) -> None: ...

class FromStage(_message.Message):
    __slots__ = ("hosting", "opened", "token", "pong", "lost", "receipt", "rows")
    HOSTING_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    hosting: Hosting
    opened: Opened
    token: Token
    pong: Pong
    lost: Lost
    receipt: Receipt
    rows: Rows
    def __init__(self, hosting: _Optional[_Union[Hosting, _Mapping]] = ..., opened: _Optional[_Union[Opened, _Mapping]] = ..., token: _Optional[_Union[Token, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., lost: _Optional[_Union[Lost, _Mapping]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ..., rows: _Optional[_Union[Rows, _Mapping]] = ...) -> None: ...

class Hosting(_message.Message):
    __slots__ = ("state", "span", "done_bytes", "wanted_bytes")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NOTHING_TO_DO: _ClassVar[Hosting.State]
        CLAIMED: _ClassVar[Hosting.State]
        FETCHING: _ClassVar[Hosting.State]
        LOADING: _ClassVar[Hosting.State]
        READY: _ClassVar[Hosting.State]
    NOTHING_TO_DO: Hosting.State
    CLAIMED: Hosting.State
    FETCHING: Hosting.State
    LOADING: Hosting.State
    READY: Hosting.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    DONE_BYTES_FIELD_NUMBER: _ClassVar[int]
    WANTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    state: Hosting.State
    span: Span
    done_bytes: int
    wanted_bytes: int
    def __init__(self, state: _Optional[_Union[Hosting.State, str]] = ..., span: _Optional[_Union[Span, _Mapping]] = ..., done_bytes: _Optional[int] = ..., wanted_bytes: _Optional[int] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("reusable",)
    REUSABLE_FIELD_NUMBER: _ClassVar[int]
    reusable: int
    def __init__(self, reusable: _Optional[int] = ...) -> None: ...

class Rows(_message.Message):
    __slots__ = ("position", "count", "width", "layer")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    position: int
    count: int
    width: int
    layer: int
    def __init__(self, position: _Optional[int] = ..., count: _Optional[int] = ..., width: _Optional[int] = ..., layer: _Optional[int] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("position", "tokens", "finished", "log_probabilities", "likeliest", "drafted")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    LIKELIEST_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_FIELD_NUMBER: _ClassVar[int]
    position: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    finished: bool
    log_probabilities: _containers.RepeatedScalarFieldContainer[float]
    likeliest: _containers.RepeatedCompositeFieldContainer[Likeliest]
    drafted: int
    def __init__(self, position: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., finished: _Optional[bool] = ..., log_probabilities: _Optional[_Iterable[float]] = ..., likeliest: _Optional[_Iterable[_Union[Likeliest, _Mapping]]] = ..., drafted: _Optional[int] = ...) -> None: ...

class Likeliest(_message.Message):
    __slots__ = ("tokens", "log_probabilities")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    log_probabilities: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., log_probabilities: _Optional[_Iterable[float]] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("received", "done", "busy")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    received: int
    done: int
    busy: float
    def __init__(self, received: _Optional[int] = ..., done: _Optional[int] = ..., busy: _Optional[float] = ...) -> None: ...

class Lost(_message.Message):
    __slots__ = ("peer", "code", "message")
    PEER_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    peer: str
    code: str
    message: str
    def __init__(self, peer: _Optional[str] = ..., code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: bytes
    def __init__(self, receipt: _Optional[bytes] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("generation_id", "index", "activations", "token", "taken", "payload")
    GENERATION_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    generation_id: bytes
    index: int
    activations: Activations
    token: Token
    taken: Taken
    payload: int
    def __init__(self, generation_id: _Optional[bytes] = ..., index: _Optional[int] = ..., activations: _Optional[_Union[Activations, _Mapping]] = ..., token: _Optional[_Union[Token, _Mapping]] = ..., taken: _Optional[_Union[Taken, _Mapping]] = ..., payload: _Optional[int] = ...) -> None: ...

class Taken(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    def __init__(self, rows: _Optional[int] = ...) -> None: ...

class Activations(_message.Message):
    __slots__ = ("position", "tokens", "dtype", "last", "drafts", "rows")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    position: int
    tokens: int
    dtype: str
    last: bool
    drafts: _containers.RepeatedScalarFieldContainer[int]
    rows: int
    def __init__(self, position: _Optional[int] = ..., tokens: _Optional[int] = ..., dtype: _Optional[str] = ..., last: _Optional[bool] = ..., drafts: _Optional[_Iterable[int]] = ..., rows: _Optional[int] = ...) -> None: ...
