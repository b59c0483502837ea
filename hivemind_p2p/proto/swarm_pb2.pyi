from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Message(_message.Message):
    __slots__ = ("hello", "manifest", "holding", "have", "request", "piece", "refusal", "interest", "choking", "cancel", "members")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    HOLDING_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    INTEREST_FIELD_NUMBER: _ClassVar[int]
    CHOKING_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    manifest: ManifestFollows
    holding: Holding
    have: Have
    request: Request
    piece: Piece
    refusal: Refusal
    interest: Interest
    choking: Choking
    cancel: Cancel
    members: Members
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., manifest: _Optional[_Union[ManifestFollows, _Mapping]] = ..., holding: _Optional[_Union[Holding, _Mapping]] = ..., have: _Optional[_Union[Have, _Mapping]] = ..., request: _Optional[_Union[Request, _Mapping]] = ..., piece: _Optional[_Union[Piece, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., interest: _Optional[_Union[Interest, _Mapping]] = ..., choking: _Optional[_Union[Choking, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., members: _Optional[_Union[Members, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("infohash", "want_manifest")
    INFOHASH_FIELD_NUMBER: _ClassVar[int]
    WANT_MANIFEST_FIELD_NUMBER: _ClassVar[int]
    infohash: bytes
    want_manifest: bool
    def __init__(self, infohash: _Optional[bytes] = ..., want_manifest: _Optional[bool] = ...) -> None: ...

class ManifestFollows(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Holding(_message.Message):
    __slots__ = ("complete", "pieces", "addresses")
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    complete: bool
    pieces: bytes
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, complete: _Optional[bool] = ..., pieces: _Optional[bytes] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class Have(_message.Message):
    __slots__ = ("pieces",)
    PIECES_FIELD_NUMBER: _ClassVar[int]
    pieces: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, pieces: _Optional[_Iterable[int]] = ...) -> None: ...

class Interest(_message.Message):
    __slots__ = ("interested", "everything", "pieces", "in_order")
    INTERESTED_FIELD_NUMBER: _ClassVar[int]
    EVERYTHING_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    IN_ORDER_FIELD_NUMBER: _ClassVar[int]
    interested: bool
    everything: bool
    pieces: bytes
    in_order: bool
    def __init__(self, interested: _Optional[bool] = ..., everything: _Optional[bool] = ..., pieces: _Optional[bytes] = ..., in_order: _Optional[bool] = ...) -> None: ...

class Choking(_message.Message):
    __slots__ = ("choking",)
    CHOKING_FIELD_NUMBER: _ClassVar[int]
    choking: bool
    def __init__(self, choking: _Optional[bool] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: _containers.RepeatedCompositeFieldContainer[Block]
    def __init__(self, blocks: _Optional[_Iterable[_Union[Block, _Mapping]]] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: _containers.RepeatedCompositeFieldContainer[Block]
    def __init__(self, blocks: _Optional[_Iterable[_Union[Block, _Mapping]]] = ...) -> None: ...

class Block(_message.Message):
    __slots__ = ("piece", "begin", "length")
    PIECE_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    piece: int
    begin: int
    length: int
    def __init__(self, piece: _Optional[int] = ..., begin: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: _containers.RepeatedCompositeFieldContainer[Block]
    def __init__(self, blocks: _Optional[_Iterable[_Union[Block, _Mapping]]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("block",)
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    block: Block
    def __init__(self, block: _Optional[_Union[Block, _Mapping]] = ...) -> None: ...

class Members(_message.Message):
    __slots__ = ("members",)
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("peer_id", "addresses")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, peer_id: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class SourceRecord(_message.Message):
    __slots__ = ("complete", "serves")
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    SERVES_FIELD_NUMBER: _ClassVar[int]
    complete: bool
    serves: bool
    def __init__(self, complete: _Optional[bool] = ..., serves: _Optional[bool] = ...) -> None: ...
