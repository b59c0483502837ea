from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ElementType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ELEMENT_TYPE_UNSPECIFIED: _ClassVar[ElementType]
    BOOL: _ClassVar[ElementType]
    U8: _ClassVar[ElementType]
    I8: _ClassVar[ElementType]
    U16: _ClassVar[ElementType]
    I16: _ClassVar[ElementType]
    U32: _ClassVar[ElementType]
    I32: _ClassVar[ElementType]
    U64: _ClassVar[ElementType]
    I64: _ClassVar[ElementType]
    F16: _ClassVar[ElementType]
    BF16: _ClassVar[ElementType]
    F32: _ClassVar[ElementType]
    F64: _ClassVar[ElementType]
    C64: _ClassVar[ElementType]
    C128: _ClassVar[ElementType]
    F8_E4M3: _ClassVar[ElementType]
    F8_E5M2: _ClassVar[ElementType]
ELEMENT_TYPE_UNSPECIFIED: ElementType
BOOL: ElementType
U8: ElementType
I8: ElementType
U16: ElementType
I16: ElementType
U32: ElementType
I32: ElementType
U64: ElementType
I64: ElementType
F16: ElementType
BF16: ElementType
F32: ElementType
F64: ElementType
C64: ElementType
C128: ElementType
F8_E4M3: ElementType
F8_E5M2: ElementType

class Needs(_message.Message):
    __slots__ = ("cpus", "memory_bytes", "seconds", "gpus", "gpu_memory_bytes", "disk_bytes", "network")
    CPUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    GPU_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    cpus: float
    memory_bytes: int
    seconds: float
    gpus: int
    gpu_memory_bytes: int
    disk_bytes: int
    network: bool
    def __init__(self, cpus: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., seconds: _Optional[float] = ..., gpus: _Optional[int] = ..., gpu_memory_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., network: _Optional[bool] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("error_code", "error_message", "remote_traceback", "output", "exception")
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMOTE_TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    EXCEPTION_FIELD_NUMBER: _ClassVar[int]
    error_code: str
    error_message: str
    remote_traceback: str
    output: str
    exception: str
    def __init__(self, error_code: _Optional[str] = ..., error_message: _Optional[str] = ..., remote_traceback: _Optional[str] = ..., output: _Optional[str] = ..., exception: _Optional[str] = ...) -> None: ...

class Structure(_message.Message):
    __slots__ = ("kinds", "integers", "floats", "sizes", "element_types")
    KINDS_FIELD_NUMBER: _ClassVar[int]
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    FLOATS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_TYPES_FIELD_NUMBER: _ClassVar[int]
    kinds: bytes
    integers: _containers.RepeatedScalarFieldContainer[int]
    floats: _containers.RepeatedScalarFieldContainer[float]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    element_types: _containers.RepeatedScalarFieldContainer[ElementType]
    def __init__(self, kinds: _Optional[bytes] = ..., integers: _Optional[_Iterable[int]] = ..., floats: _Optional[_Iterable[float]] = ..., sizes: _Optional[_Iterable[int]] = ..., element_types: _Optional[_Iterable[_Union[ElementType, str]]] = ...) -> None: ...
