"""Safe values: what a task may give back, as bytes that are only ever data.

A result comes from a machine that the caller does not trust, so it is never unpickled. What travels: None, booleans,
integers of any size, floats, complex numbers, strings, bytes, lists, tuples, dicts, sets, frozensets, dataclass
instances (as dicts), numpy arrays and scalars, and torch tensors. A subclass of these arrives as the plain type.
Everything else is refused where it is made, with the place where it stands.

Layout, all integers big-endian unless said otherwise:

    offset  bytes  what
    0       4      length S of the structure
    4       S      `hivemind.tasks.Structure`: the shape of the value, column by column
    4 + S   ...    the bytes that the structure speaks of, in order: UTF-8 text, bytes, large integers (signed,
                   little-endian), and arrays' elements (little-endian, C order, as in safetensors), each array
                   starting at a multiple of 64 bytes

Every count and length is checked against what is there before memory is taken for it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from hivemind_p2p.errors import UnsafeValueError
from hivemind_p2p.proto.tasks_pb2 import Structure
from hivemind_p2p.tasks import elements

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hivemind_p2p.interfaces import Buffer

MAX_VALUE_BYTES: Final = 64 << 20
"""Bytes of one encoded value: what fits a stream and a notebook's memory. Larger results travel through the swarm."""

MAX_STRUCTURE_BYTES: Final = 16 << 20
"""Bytes of the structure: a packed number may take one byte there and eight once parsed."""

MAX_NODES: Final = 1_000_000
"""Parts of one value. More numbers than that belong in an array, which is one node."""

MAX_DEPTH: Final = 100
"""Containers inside each other: far above what data needs, far below Python's recursion limit."""

MAX_INTEGER_BYTES: Final = 1 << 20
"""Bytes of one integer: some 2.5 million digits."""

ALIGNMENT: Final = 64
"""Bytes, so that an array's elements can be read in place with any vector instruction."""

NONE, TRUE, FALSE, INTEGER, LARGE, FLOAT, COMPLEX = b"NTFIBDC"
TEXT, BYTES, LIST, TUPLE, DICT, SET, FROZENSET, ARRAY, TENSOR = b"SYLUMEZAG"

_INT64: Final = 1 << 63


def encode(value: object, *, name: str = "result", max_bytes: int = MAX_VALUE_BYTES) -> bytes:
    """A value as bytes.

    Args:
        value: What to encode.
        name: What the value is called in errors.
        max_bytes: The longest encoding that is allowed.

    Raises:
        UnsafeValueError: Something in it is no safe value, or it is too large, too deep, or contains itself; the
            message says where.
    """
    return b"".join(encode_parts(value, name=name, max_bytes=max_bytes))


def encode_parts(value: object, *, name: str = "result", max_bytes: int = MAX_VALUE_BYTES) -> list[Buffer]:
    """The same in parts that belong one behind the other: large ones are not copied. Raises what `encode` does."""
    encoder = _Encoder(name, max_bytes)
    encoder.add(value)
    return encoder.finish()


class _Key:
    """Marks a step of the path into a dict's key instead of its value."""

    def __init__(self, key: object) -> None:
        self.key = key


class _Field(str):
    """Marks a step of the path into a dataclass's field."""

    __slots__ = ()


class _Encoder:
    def __init__(self, name: str, max_bytes: int) -> None:
        self._name = name
        self._max_bytes = max_bytes
        self._kinds = bytearray()
        self._structure = Structure()
        self._integers: list[int] = []
        self._floats: list[float] = []
        self._sizes: list[int] = []
        self._element_types: list[int] = []
        self._buffers: list[Buffer] = []
        self._length = 0
        self._path: list[object] = []
        self._open: set[int] = set()

    def add(self, value: object) -> None:
        if len(self._kinds) >= MAX_NODES:
            raise self._unsafe(f"has more than {MAX_NODES:,} parts; put numbers into an array")
        if value is None:
            self._kinds.append(NONE)
        elif value is True or value is False:
            self._kinds.append(TRUE if value else FALSE)
        elif isinstance(value, int):
            self._add_integer(int(value))
        elif isinstance(value, float):
            self._kinds.append(FLOAT)
            self._floats.append(value)
        elif isinstance(value, str):
            self._add_buffer(TEXT, str.encode(value, "utf-8", "surrogatepass"))
        else:
            self._add_large(value)

    def _add_large(self, value: object) -> None:
        if isinstance(value, (list, tuple, dict, set, frozenset)):
            self._add_container(value)
        elif isinstance(value, (bytes, bytearray)):
            self._add_buffer(BYTES, value)
        elif isinstance(value, complex):
            self._kinds.append(COMPLEX)
            self._floats += (value.real, value.imag)
        elif elements.is_array(value):
            self._add_elements(ARRAY, value, elements.array_bytes(value))  # type: ignore[arg-type]
        elif elements.is_tensor(value):
            self._add_elements(TENSOR, value, elements.tensor_bytes(value))
        elif elements.is_scalar(value):
            self._add_scalar(value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            self._add_dataclass(value)
        else:
            raise self._unsafe(f"is a {_type_name(value)}, which is no safe value")

    def _add_integer(self, value: int) -> None:
        if -_INT64 <= value < _INT64:
            self._kinds.append(INTEGER)
            self._integers.append(value)
            return
        length = value.bit_length() // 8 + 1
        if length > MAX_INTEGER_BYTES:
            raise self._unsafe(f"is an integer of {length:,} bytes, more than {MAX_INTEGER_BYTES:,}")
        self._add_buffer(LARGE, value.to_bytes(length, "little", signed=True))

    def _add_scalar(self, scalar: Any) -> None:
        plain = scalar.item()
        if isinstance(plain, (bool, int, float, complex, str, bytes)):
            self.add(plain)
            return
        raise self._unsafe(f"is a {_type_name(scalar)}, which is no safe value")

    def _add_buffer(self, kind: int, data: Buffer) -> None:
        self._kinds.append(kind)
        self._sizes.append(len(data))
        self._append(data)

    def _append(self, data: Buffer) -> None:
        self._length += memoryview(data).nbytes
        if self._length > self._max_bytes:
            raise self._unsafe(f"makes the value larger than {self._max_bytes:,} bytes; share it as a file instead")
        self._buffers.append(data)

    def _add_elements(self, kind: int, value: Any, encoded: tuple[int, memoryview] | None) -> None:
        if encoded is None:
            raise self._unsafe(f"is a {_type_name(value)} of {value.dtype}, whose elements are no plain numbers")
        element, data = encoded
        self._kinds.append(kind)
        self._element_types.append(element)
        self._sizes += (len(value.shape), *value.shape)
        padding = -self._length % ALIGNMENT
        self._append(bytes(padding))
        self._append(data)

    def _enter(self, value: object) -> None:
        if id(value) in self._open:
            raise self._unsafe("contains itself")
        if len(self._open) >= MAX_DEPTH:
            raise self._unsafe(f"is nested deeper than {MAX_DEPTH} levels")
        self._open.add(id(value))

    def _add_container(self, value: Any) -> None:
        self._enter(value)
        if isinstance(value, dict):
            self._add_dict(value)
        else:
            self._kinds.append(_container_kind(value))
            self._sizes.append(len(value))
            self._add_children(enumerate(value))
        self._open.discard(id(value))

    def _add_dict(self, value: dict[Any, Any]) -> None:
        self._kinds.append(DICT)
        self._sizes.append(len(value))
        for key, child in value.items():
            self._add_children(((_Key(key), key), (key, child)))

    def _add_children(self, children: Iterable[tuple[object, object]]) -> None:
        for step, child in children:
            self._path.append(step)
            self.add(child)
            self._path.pop()

    def _add_dataclass(self, value: Any) -> None:
        self._enter(value)
        fields = dataclasses.fields(value)
        self._kinds.append(DICT)
        self._sizes.append(len(fields))
        for field in fields:
            self.add(field.name)
            self._add_children(((_Field(field.name), getattr(value, field.name)),))
        self._open.discard(id(value))

    def finish(self) -> list[Buffer]:
        structure = Structure(
            kinds=bytes(self._kinds),
            integers=self._integers,
            floats=self._floats,
            sizes=self._sizes,
            element_types=self._element_types,  # type: ignore[arg-type]
        ).SerializeToString()
        start = data_offset(len(structure))
        if len(structure) > MAX_STRUCTURE_BYTES or start + self._length > self._max_bytes:
            raise self._unsafe(f"is larger than {self._max_bytes:,} bytes; share it as a file instead")
        head = len(structure).to_bytes(4, "big") + structure
        return [head, bytes(start - len(head)), *self._buffers]

    def _unsafe(self, what: str) -> UnsafeValueError:
        import reprlib

        place = self._name
        for step in self._path:
            if isinstance(step, _Key):
                place = f"the key {reprlib.repr(step.key)} of {place}"
            else:
                place += f".{step}" if isinstance(step, _Field) else f"[{reprlib.repr(step)}]"
        return UnsafeValueError(f"{place} {what}")


def _container_kind(value: object) -> int:
    for python_type, kind in ((list, LIST), (tuple, TUPLE), (set, SET)):
        if isinstance(value, python_type):
            return kind
    return FROZENSET


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def data_offset(structure_length: int) -> int:
    """Where the bytes behind the structure begin: at a multiple of the alignment."""
    return -(-(4 + structure_length) // ALIGNMENT) * ALIGNMENT


ENCODED_NONE: Final = encode(None)
"""What most functions that are called for their effect return."""
