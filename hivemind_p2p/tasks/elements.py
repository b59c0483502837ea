"""Arrays and tensors as bytes: which element types travel, under which of safetensors' names, and how they are read.

Neither numpy nor torch is imported unless a value needs it: to encode, the library that made the value is loaded
already; to decode, it is loaded when the first array or tensor stands in the bytes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from hivemind_p2p.proto import tasks_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy

ITEM_BYTES: Final[dict[int, int]] = {
    tasks_pb2.BOOL: 1,
    tasks_pb2.U8: 1,
    tasks_pb2.I8: 1,
    tasks_pb2.U16: 2,
    tasks_pb2.I16: 2,
    tasks_pb2.U32: 4,
    tasks_pb2.I32: 4,
    tasks_pb2.U64: 8,
    tasks_pb2.I64: 8,
    tasks_pb2.F16: 2,
    tasks_pb2.BF16: 2,
    tasks_pb2.F32: 4,
    tasks_pb2.F64: 8,
    tasks_pb2.C64: 8,
    tasks_pb2.C128: 16,
    tasks_pb2.F8_E4M3: 1,
    tasks_pb2.F8_E5M2: 1,
}
"""Bytes of one element, by element type."""

_NUMPY_NAMES: Final[dict[int, str]] = {
    tasks_pb2.BOOL: "bool",
    tasks_pb2.U8: "uint8",
    tasks_pb2.I8: "int8",
    tasks_pb2.U16: "uint16",
    tasks_pb2.I16: "int16",
    tasks_pb2.U32: "uint32",
    tasks_pb2.I32: "int32",
    tasks_pb2.U64: "uint64",
    tasks_pb2.I64: "int64",
    tasks_pb2.F16: "float16",
    tasks_pb2.F32: "float32",
    tasks_pb2.F64: "float64",
    tasks_pb2.C64: "complex64",
    tasks_pb2.C128: "complex128",
}
_TORCH_NAMES: Final[dict[int, str]] = _NUMPY_NAMES | {
    tasks_pb2.BF16: "bfloat16",
    tasks_pb2.F8_E4M3: "float8_e4m3fn",
    tasks_pb2.F8_E5M2: "float8_e5m2",
}
_FROM_NUMPY: Final = {name: element for element, name in _NUMPY_NAMES.items()}
_FROM_TORCH: Final = {f"torch.{name}": element for element, name in _TORCH_NAMES.items()}


def is_array(value: object) -> bool:
    """Whether it is a plain numpy array (a subclass such as a masked array holds more than its elements)."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(value) in (numpy.ndarray, numpy.memmap)


def is_scalar(value: object) -> bool:
    """Whether it is a numpy scalar."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic)


def is_tensor(value: object) -> bool:
    """Whether it is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and hasattr(torch, "Tensor") and isinstance(value, torch.Tensor)


def array_bytes(array: numpy.ndarray[Any, Any]) -> tuple[int, memoryview] | None:
    """The element type and the little-endian bytes in C order; None if such elements do not travel."""
    import numpy

    element = _FROM_NUMPY.get(array.dtype.name)
    if element is None:
        return None
    plain = numpy.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return element, plain.reshape(-1).view(numpy.uint8).data


def tensor_bytes(tensor: Any) -> tuple[int, memoryview] | None:
    """The element type and the bytes in C order; None if such a tensor does not travel (sparse, quantised, ...)."""
    import torch

    element = _FROM_TORCH.get(str(tensor.dtype))
    if element is None or tensor.layout is not torch.strided or tensor.is_meta:
        return None
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return element, memoryview(plain.reshape(-1).view(torch.uint8).numpy())


def read_array(element: int, shape: Sequence[int], data: memoryview) -> Any:
    """A new array over a copy of the bytes.

    Raises:
        ValueError: numpy has no such element type, or no array of this shape.
    """
    import numpy

    name = _NUMPY_NAMES.get(element)
    if name is None:
        raise ValueError(f"numpy has no element type {element}")
    if element == tasks_pb2.BOOL:  # other bytes than 0 and 1 would be undefined
        return (numpy.frombuffer(data, dtype=numpy.uint8) != 0).reshape(shape)
    return numpy.frombuffer(data, dtype=numpy.dtype(name).newbyteorder("<")).astype(name).reshape(shape)


def read_tensor(element: int, shape: Sequence[int], data: memoryview) -> Any:
    """A new tensor over a copy of the bytes.

    Raises:
        ValueError: torch is not installed here, or has no such element type or shape.
    """
    try:
        import torch
    except ImportError as error:
        raise ValueError("it holds a torch tensor, and torch is not installed here") from error
    name = _TORCH_NAMES.get(element)
    if name is None or not hasattr(torch, name):
        raise ValueError(f"torch has no element type {element}")
    if not data.nbytes:
        return torch.empty(tuple(shape), dtype=getattr(torch, name))
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if element == tasks_pb2.BOOL:
        return (flat != 0).reshape(tuple(shape))
    return flat.view(getattr(torch, name)).reshape(tuple(shape))
