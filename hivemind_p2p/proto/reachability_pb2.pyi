from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RelayStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RELAY_STATUS_UNUSED: _ClassVar[RelayStatus]
    OK: _ClassVar[RelayStatus]
    RESERVATION_REFUSED: _ClassVar[RelayStatus]
    RESOURCE_LIMIT_EXCEEDED: _ClassVar[RelayStatus]
    PERMISSION_DENIED: _ClassVar[RelayStatus]
    CONNECTION_FAILED: _ClassVar[RelayStatus]
    NO_RESERVATION: _ClassVar[RelayStatus]
    MALFORMED_MESSAGE: _ClassVar[RelayStatus]
    UNEXPECTED_MESSAGE: _ClassVar[RelayStatus]
RELAY_STATUS_UNUSED: RelayStatus
OK: RelayStatus
RESERVATION_REFUSED: RelayStatus
RESOURCE_LIMIT_EXCEEDED: RelayStatus
PERMISSION_DENIED: RelayStatus
CONNECTION_FAILED: RelayStatus
NO_RESERVATION: RelayStatus
MALFORMED_MESSAGE: RelayStatus
UNEXPECTED_MESSAGE: RelayStatus

class RelayPeer(_message.Message):
    __slots__ = ("id", "addrs")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRS_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    addrs: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, id: _Optional[bytes] = ..., addrs: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Reservation(_message.Message):
    __slots__ = ("expire", "addrs", "voucher")
    EXPIRE_FIELD_NUMBER: _ClassVar[int]
    ADDRS_FIELD_NUMBER: _ClassVar[int]
    VOUCHER_FIELD_NUMBER: _ClassVar[int]
    expire: int
    addrs: _containers.RepeatedScalarFieldContainer[bytes]
    voucher: bytes
    def __init__(self, expire: _Optional[int] = ..., addrs: _Optional[_Iterable[bytes]] = ..., voucher: _Optional[bytes] = ...) -> None: ...

class Limit(_message.Message):
    __slots__ = ("duration", "data")
    DURATION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    duration: int
    data: int
    def __init__(self, duration: _Optional[int] = ..., data: _Optional[int] = ...) -> None: ...

class HopMessage(_message.Message):
    __slots__ = ("type", "peer", "reservation", "limit", "status")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        RESERVE: _ClassVar[HopMessage.Type]
        CONNECT: _ClassVar[HopMessage.Type]
        STATUS: _ClassVar[HopMessage.Type]
    RESERVE: HopMessage.Type
    CONNECT: HopMessage.Type
    STATUS: HopMessage.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    type: HopMessage.Type
    peer: RelayPeer
    reservation: Reservation
    limit: Limit
    status: RelayStatus
    def __init__(self, type: _Optional[_Union[HopMessage.Type, str]] = ..., peer: _Optional[_Union[RelayPeer, _Mapping]] = ..., reservation: _Optional[_Union[Reservation, _Mapping]] = ..., limit: _Optional[_Union[Limit, _Mapping]] = ..., status: _Optional[_Union[RelayStatus, str]] = ...) -> None: ...

class StopMessage(_message.Message):
    __slots__ = ("type", "peer", "limit", "status")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CONNECT: _ClassVar[StopMessage.Type]
        STATUS: _ClassVar[StopMessage.Type]
    CONNECT: StopMessage.Type
    STATUS: StopMessage.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    type: StopMessage.Type
    peer: RelayPeer
    limit: Limit
    status: RelayStatus
    def __init__(self, type: _Optional[_Union[StopMessage.Type, str]] = ..., peer: _Optional[_Union[RelayPeer, _Mapping]] = ..., limit: _Optional[_Union[Limit, _Mapping]] = ..., status: _Optional[_Union[RelayStatus, str]] = ...) -> None: ...

class HolePunch(_message.Message):
    __slots__ = ("type", "obs_addrs")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNUSED: _ClassVar[HolePunch.Type]
        CONNECT: _ClassVar[HolePunch.Type]
        SYNC: _ClassVar[HolePunch.Type]
    UNUSED: HolePunch.Type
    CONNECT: HolePunch.Type
    SYNC: HolePunch.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    OBS_ADDRS_FIELD_NUMBER: _ClassVar[int]
    type: HolePunch.Type
    obs_addrs: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, type: _Optional[_Union[HolePunch.Type, str]] = ..., obs_addrs: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AutoNat(_message.Message):
    __slots__ = ("type", "dial", "dial_response")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DIAL: _ClassVar[AutoNat.Type]
        DIAL_RESPONSE: _ClassVar[AutoNat.Type]
    DIAL: AutoNat.Type
    DIAL_RESPONSE: AutoNat.Type
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REACHED: _ClassVar[AutoNat.Status]
        E_DIAL_ERROR: _ClassVar[AutoNat.Status]
        E_DIAL_REFUSED: _ClassVar[AutoNat.Status]
        E_BAD_REQUEST: _ClassVar[AutoNat.Status]
        E_INTERNAL_ERROR: _ClassVar[AutoNat.Status]
    REACHED: AutoNat.Status
    E_DIAL_ERROR: AutoNat.Status
    E_DIAL_REFUSED: AutoNat.Status
    E_BAD_REQUEST: AutoNat.Status
    E_INTERNAL_ERROR: AutoNat.Status
    class Dial(_message.Message):
        __slots__ = ("peer",)
        PEER_FIELD_NUMBER: _ClassVar[int]
        peer: RelayPeer
        def __init__(self, peer: _Optional[_Union[RelayPeer, _Mapping]] = ...) -> None: ...
    class DialResponse(_message.Message):
        __slots__ = ("status", "status_text", "addr")
        STATUS_FIELD_NUMBER: _ClassVar[int]
        STATUS_TEXT_FIELD_NUMBER: _ClassVar[int]
        ADDR_FIELD_NUMBER: _ClassVar[int]
        status: AutoNat.Status
        status_text: str
        addr: bytes
        def __init__(self, status: _Optional[_Union[AutoNat.Status, str]] = ..., status_text: _Optional[str] = ..., addr: _Optional[bytes] = ...) -> None: ...
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DIAL_FIELD_NUMBER: _ClassVar[int]
    DIAL_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    type: AutoNat.Type
    dial: AutoNat.Dial
    dial_response: AutoNat.DialResponse
    def __init__(self, type: _Optional[_Union[AutoNat.Type, str]] = ..., dial: _Optional[_Union[AutoNat.Dial, _Mapping]] = ..., dial_response: _Optional[_Union[AutoNat.DialResponse, _Mapping]] = ...) -> None: ...

class Identify(_message.Message):
    __slots__ = ("listen_addrs", "protocols", "observed_addr")
    LISTEN_ADDRS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOLS_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_ADDR_FIELD_NUMBER: _ClassVar[int]
    listen_addrs: _containers.RepeatedScalarFieldContainer[bytes]
    protocols: _containers.RepeatedScalarFieldContainer[str]
    observed_addr: bytes
    def __init__(self, listen_addrs: _Optional[_Iterable[bytes]] = ..., protocols: _Optional[_Iterable[str]] = ..., observed_addr: _Optional[bytes] = ...) -> None: ...
