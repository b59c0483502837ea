from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Prices(_message.Message):
    __slots__ = ("per_task", "per_cpu_second", "per_layer_token")
    PER_TASK_FIELD_NUMBER: _ClassVar[int]
    PER_CPU_SECOND_FIELD_NUMBER: _ClassVar[int]
    PER_LAYER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    per_task: int
    per_cpu_second: int
    per_layer_token: int
    def __init__(self, per_task: _Optional[int] = ..., per_cpu_second: _Optional[int] = ..., per_layer_token: _Optional[int] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("link", "start", "stop", "ready")
    LINK_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    link: str
    start: int
    stop: int
    ready: bool
    def __init__(self, link: _Optional[str] = ..., start: _Optional[int] = ..., stop: _Optional[int] = ..., ready: _Optional[bool] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("addresses", "name", "cpus", "memory_bytes", "task_types", "prices", "serves_models", "stages", "weight_bytes_free", "weight_bytes_per_second", "relays", "gpus", "gpu_memory_bytes", "disk_bytes", "location", "software", "network", "served_links")
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    TASK_TYPES_FIELD_NUMBER: _ClassVar[int]
    PRICES_FIELD_NUMBER: _ClassVar[int]
    SERVES_MODELS_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FREE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    RELAYS_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    GPU_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    SERVED_LINKS_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    name: str
    cpus: float
    memory_bytes: int
    task_types: _containers.RepeatedScalarFieldContainer[str]
    prices: Prices
    serves_models: bool
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    weight_bytes_free: int
    weight_bytes_per_second: int
    relays: bool
    gpus: int
    gpu_memory_bytes: int
    disk_bytes: int
    location: str
    software: _containers.RepeatedScalarFieldContainer[str]
    network: bool
    served_links: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, addresses: _Optional[_Iterable[str]] = ..., name: _Optional[str] = ..., cpus: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., task_types: _Optional[_Iterable[str]] = ..., prices: _Optional[_Union[Prices, _Mapping]] = ..., serves_models: _Optional[bool] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ..., weight_bytes_free: _Optional[int] = ..., weight_bytes_per_second: _Optional[int] = ..., relays: _Optional[bool] = ..., gpus: _Optional[int] = ..., gpu_memory_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., location: _Optional[str] = ..., software: _Optional[_Iterable[str]] = ..., network: _Optional[bool] = ..., served_links: _Optional[_Iterable[str]] = ...) -> None: ...
