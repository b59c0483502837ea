from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Models(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("link", "name", "layer_count", "stages_wanted", "architecture")
    LINK_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LAYER_COUNT_FIELD_NUMBER: _ClassVar[int]
    STAGES_WANTED_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    link: str
    name: str
    layer_count: int
    stages_wanted: int
    architecture: str
    def __init__(self, link: _Optional[str] = ..., name: _Optional[str] = ..., layer_count: _Optional[int] = ..., stages_wanted: _Optional[int] = ..., architecture: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("link", "lost")
    LINK_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    link: str
    lost: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, link: _Optional[str] = ..., lost: _Optional[_Iterable[str]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("generation_id", "link", "span", "index", "stages", "previous_peer", "next_peer", "room", "sampling", "ends", "payment")
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
    def __init__(self, generation_id: _Optional[bytes] = ..., link: _Optional[str] = ..., span: _Optional[_Union[Span, _Mapping]] = ..., index: _Optional[int] = ..., stages: _Optional[int] = ..., previous_peer: _Optional[str] = ..., next_peer: _Optional[str] = ..., room: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., ends: _Optional[_Iterable[int]] = ..., payment: _Optional[bytes] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "seed")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class Feed(_message.Message):
    __slots__ = ("tokens", "last")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    last: bool
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., last: _Optional[bool] = ...) -> None: ...

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
    __slots__ = ("hosting", "opened", "token", "pong", "lost", "receipt")
    HOSTING_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    hosting: Hosting
    opened: Opened
    token: Token
    pong: Pong
    lost: Lost
    receipt: Receipt
    def __init__(self, hosting: _Optional[_Union[Hosting, _Mapping]] = ..., opened: _Optional[_Union[Opened, _Mapping]] = ..., token: _Optional[_Union[Token, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., lost: _Optional[_Union[Lost, _Mapping]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

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
    __slots__ = ()
    def __init__(self) -> None: ...

class Token(_message.Message):
    __slots__ = ("position", "token", "finished")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    position: int
    token: int
    finished: bool
    def __init__(self, position: _Optional[int] = ..., token: _Optional[int] = ..., finished: _Optional[bool] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("received", "done")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    received: int
    done: int
    def __init__(self, received: _Optional[int] = ..., done: _Optional[int] = ...) -> None: ...

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

class ToNext(_message.Message):
    __slots__ = ("attach", "activations", "token")
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    attach: Attach
    activations: Activations
    token: Token
    def __init__(self, attach: _Optional[_Union[Attach, _Mapping]] = ..., activations: _Optional[_Union[Activations, _Mapping]] = ..., token: _Optional[_Union[Token, _Mapping]] = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("generation_id", "index")
    GENERATION_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    generation_id: bytes
    index: int
    def __init__(self, generation_id: _Optional[bytes] = ..., index: _Optional[int] = ...) -> None: ...

class Attached(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Activations(_message.Message):
    __slots__ = ("position", "tokens", "dtype", "last")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    position: int
    tokens: int
    dtype: str
    last: bool
    def __init__(self, position: _Optional[int] = ..., tokens: _Optional[int] = ..., dtype: _Optional[str] = ..., last: _Optional[bool] = ...) -> None: ...
