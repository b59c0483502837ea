from hivemind_p2p.proto import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Peer(_message.Message):
    __slots__ = ("peer_id", "addresses")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, peer_id: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class RecordBody(_message.Message):
    __slots__ = ("key", "signer", "value", "sequence", "expires_at")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    key: str
    signer: str
    value: bytes
    sequence: int
    expires_at: int
    def __init__(self, key: _Optional[str] = ..., signer: _Optional[str] = ..., value: _Optional[bytes] = ..., sequence: _Optional[int] = ..., expires_at: _Optional[int] = ...) -> None: ...

class FindPeers(_message.Message):
    __slots__ = ("target",)
    TARGET_FIELD_NUMBER: _ClassVar[int]
    target: bytes
    def __init__(self, target: _Optional[bytes] = ...) -> None: ...

class Store(_message.Message):
    __slots__ = ("records", "target", "copy_seconds")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    COPY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[_common_pb2.Signed]
    target: bytes
    copy_seconds: int
    def __init__(self, records: _Optional[_Iterable[_Union[_common_pb2.Signed, _Mapping]]] = ..., target: _Optional[bytes] = ..., copy_seconds: _Optional[int] = ...) -> None: ...

class FindRecords(_message.Message):
    __slots__ = ("key", "after", "known")
    KEY_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    key: str
    after: str
    known: bytes
    def __init__(self, key: _Optional[str] = ..., after: _Optional[str] = ..., known: _Optional[bytes] = ...) -> None: ...

class ReadMany(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, keys: _Optional[_Iterable[str]] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("sender", "find_peers", "store", "find_records", "read_many")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    FIND_PEERS_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    FIND_RECORDS_FIELD_NUMBER: _ClassVar[int]
    READ_MANY_FIELD_NUMBER: _ClassVar[int]
    sender: bytes
    find_peers: FindPeers
    store: Store
    find_records: FindRecords
    read_many: ReadMany
    def __init__(self, sender: _Optional[bytes] = ..., find_peers: _Optional[_Union[FindPeers, _Mapping]] = ..., store: _Optional[_Union[Store, _Mapping]] = ..., find_records: _Optional[_Union[FindRecords, _Mapping]] = ..., read_many: _Optional[_Union[ReadMany, _Mapping]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("index", "reason")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    index: int
    reason: str
    def __init__(self, index: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("peers", "records", "next", "refusals", "kept")
    PEERS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedScalarFieldContainer[bytes]
    records: _containers.RepeatedCompositeFieldContainer[_common_pb2.Signed]
    next: str
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    kept: int
    def __init__(self, peers: _Optional[_Iterable[bytes]] = ..., records: _Optional[_Iterable[_Union[_common_pb2.Signed, _Mapping]]] = ..., next: _Optional[str] = ..., refusals: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ..., kept: _Optional[int] = ...) -> None: ...
