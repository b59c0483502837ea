"""Reads the bytes that `values.encode` makes, as they come from a machine that may lie."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError

from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.interfaces import Buffer
from hivemind_p2p.proto.tasks_pb2 import Structure
from hivemind_p2p.tasks import elements, values

MAX_DIMENSIONS: Final = 32
"""Dimensions of one array: what every version of numpy takes."""

MAX_DIMENSION: Final = 1 << 48
"""The largest dimension: an array without elements may name any, and its library must still be able to count."""

MAX_EQUAL_HASHES: Final = 1_000
"""Keys of one dict or set whose hashes fall together: each costs a comparison with all before it."""

_Column = TypeVar("_Column")


def decode(data: Buffer, *, max_bytes: int = values.MAX_VALUE_BYTES) -> Any:
    """The value of some bytes. Runs no code of theirs; arrays are copied out once, so `data` may be dropped.

    Args:
        data: What `values.encode` made, or what somebody pretends it made.
        max_bytes: The longest encoding that is accepted.

    Raises:
        ProtocolError: The bytes are no encoded value, or a larger or deeper one than allowed.
    """
    view = memoryview(data).cast("B")
    if len(view) > max_bytes or len(view) < 4:
        raise _malformed(f"{len(view):,} bytes long")
    length = int.from_bytes(view[:4], "big")
    start = values.data_offset(length)
    if length > values.MAX_STRUCTURE_BYTES or start > len(view):
        raise _malformed(f"its structure claims {length:,} bytes")
    try:
        structure = Structure.FromString(bytes(view[4 : 4 + length]))
    except DecodeError as error:
        raise _malformed("its structure is no protobuf message") from error
    if len(structure.kinds) > values.MAX_NODES:
        raise _malformed(f"it has {len(structure.kinds):,} parts")
    decoder = _Decoder(structure, view[start:])
    value = decoder.next(0)
    decoder.check_end()
    return value


def _malformed(what: str) -> ProtocolError:
    return ProtocolError(f"a peer sent a value that is malformed or too large: {what}")


class _Decoder:
    def __init__(self, structure: Structure, data: memoryview) -> None:
        self._left = len(structure.kinds)
        self._kinds = iter(structure.kinds)
        self._integers = iter(structure.integers)
        self._floats = iter(structure.floats)
        self._sizes = iter(structure.sizes)
        self._element_types: Iterator[int] = iter(structure.element_types)
        self._data = data
        self._offset = 0

    def next(self, depth: int) -> Any:
        self._left -= 1
        kind = _take(self._kinds)
        if kind == values.INTEGER:
            return _take(self._integers)
        if kind == values.FLOAT:
            return _take(self._floats)
        if kind == values.TEXT:
            return self._text()
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if kind in _CONTAINERS:
            return self._container(kind, depth)
        return self._rare(kind)

    def _rare(self, kind: int) -> Any:
        if kind == values.BYTES:
            return bytes(self._bytes(_take(self._sizes)))
        if kind == values.COMPLEX:
            return complex(_take(self._floats), _take(self._floats))
        if kind == values.LARGE:
            return self._large_integer()
        if kind in (values.ARRAY, values.TENSOR):
            return self._elements(kind)
        raise _malformed(f"it holds a part of unknown kind {kind}")

    def _text(self) -> str:
        try:
            return str(self._bytes(_take(self._sizes)), "utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise _malformed("a string is not UTF-8") from error

    def _large_integer(self) -> int:
        size = _take(self._sizes)
        if size > values.MAX_INTEGER_BYTES:
            raise _malformed(f"an integer of {size:,} bytes")
        return int.from_bytes(self._bytes(size), "little", signed=True)

    def _container(self, kind: int, depth: int) -> Any:
        if depth >= values.MAX_DEPTH:
            raise _malformed(f"it is nested deeper than {values.MAX_DEPTH} levels")
        count = _take(self._sizes)
        if count * (2 if kind == values.DICT else 1) > self._left:
            raise _malformed(f"a container claims {count:,} parts")
        if kind == values.DICT:
            return self._dict(count, depth + 1)
        children = [self.next(depth + 1) for _ in range(count)]
        if kind == values.LIST:
            return children
        if kind == values.TUPLE:
            return tuple(children)
        _check_keys(children)
        return set(children) if kind == values.SET else frozenset(children)

    def _dict(self, count: int, depth: int) -> dict[Any, Any]:
        pairs = [(self.next(depth), self.next(depth)) for _ in range(count)]
        _check_keys([key for key, _ in pairs])
        return dict(pairs)

    def _elements(self, kind: int) -> Any:
        element = _take(self._element_types)
        item_bytes = elements.ITEM_BYTES.get(element)
        dimensions = _take(self._sizes)
        if item_bytes is None or dimensions > MAX_DIMENSIONS:
            raise _malformed(f"an array of element type {element} with {dimensions} dimensions")
        shape = [_take(self._sizes) for _ in range(dimensions)]
        self._offset += -self._offset % values.ALIGNMENT
        data = self._bytes(math.prod(shape) * item_bytes)
        if max(shape, default=0) > MAX_DIMENSION:
            raise _malformed(f"an array of shape {shape}")
        read = elements.read_array if kind == values.ARRAY else elements.read_tensor
        try:
            return read(element, shape, data)
        except (ValueError, OverflowError, RuntimeError) as error:
            raise _malformed(str(error)) from error

    def _bytes(self, size: int) -> memoryview:
        stop = self._offset + size
        if stop > len(self._data):
            raise _malformed(f"{size:,} bytes are missing")
        data = self._data[self._offset : stop]
        self._offset = stop
        return data

    def check_end(self) -> None:
        if self._left or self._offset != len(self._data):
            raise _malformed("bytes are left over")


_CONSTANTS: Final = {values.NONE: None, values.TRUE: True, values.FALSE: False}
_CONTAINERS: Final = frozenset((values.LIST, values.TUPLE, values.DICT, values.SET, values.FROZENSET))
_MISSING: Final = object()


def _take(column: Iterator[_Column]) -> _Column:
    item = next(column, _MISSING)
    if item is _MISSING:
        raise _malformed("a column ends too early")
    return item  # type: ignore[return-value]


def _check_keys(keys: list[Any]) -> None:
    try:
        hashes = {hash(key) for key in keys}
    except TypeError as error:
        raise _malformed("a key or a set's member cannot be one") from error
    if len(keys) - len(hashes) > MAX_EQUAL_HASHES:
        raise _malformed("its keys are made to collide")
