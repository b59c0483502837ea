"""The header of a safetensors file: which tensor lies where, without reading a single weight.

A file is eight bytes (the header's length, little endian), the header as JSON, then the tensors' bytes. Each entry
is ``name: {"dtype", "shape", "data_offsets": [start, stop]}``, offsets counted from the end of the header. Source:
https://huggingface.co/docs/safetensors (format). A header may come from a stranger's link, so it is bounded and
checked before anything is believed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hivemind_p2p.errors import CheckpointError
from hivemind_p2p.types import ByteRange

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 32 * 2**20
"""Real headers take about 100 bytes a tensor; the largest published models have some 100,000 tensors."""
MAX_TENSORS = 500_000
MAX_DIMENSIONS = 8
LONGEST_NAME = 512

DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "F64": 8,
    "I64": 8,
    "U64": 8,
}
"""Bytes an element takes."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file.

    Attributes:
        dtype: As in the header, for example ``BF16``.
        shape: Its dimensions.
        where: Its bytes, counted from the start of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    where: ByteRange


def header_stop(start_of_file: bytes, file_bytes: int) -> int:
    """Where the header ends, from the first eight bytes of a file.

    Raises:
        CheckpointError: The file is too short, or the header cannot be that long.
    """
    if len(start_of_file) < LENGTH_BYTES or file_bytes < LENGTH_BYTES:
        raise CheckpointError("a safetensors file ends before its header")
    length = int.from_bytes(start_of_file[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(f"a safetensors header says it takes {length} bytes; at most {MAX_HEADER_BYTES} are read")
    if LENGTH_BYTES + length > file_bytes:
        raise CheckpointError(f"a safetensors file of {file_bytes} bytes ends inside its header")
    return LENGTH_BYTES + length


def parse_header(start_of_file: bytes, file_bytes: int) -> Mapping[str, TensorEntry]:
    """The tensors of a file by name.

    Args:
        start_of_file: At least the bytes up to `header_stop`.
        file_bytes: The length of the whole file.

    Raises:
        CheckpointError: The header is malformed, or points outside the file.
    """
    stop = header_stop(start_of_file, file_bytes)
    if len(start_of_file) < stop:
        raise CheckpointError("a safetensors header is incomplete")
    try:
        content = json.loads(start_of_file[LENGTH_BYTES:stop])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"a safetensors header is no JSON: {error}") from error
    if not isinstance(content, dict) or len(content) > MAX_TENSORS:
        raise CheckpointError("a safetensors header is no table of tensors")
    room = file_bytes - stop
    return {name: _entry(name, value, stop, room) for name, value in content.items() if name != "__metadata__"}


def _entry(name: str, value: Any, offset: int, room: int) -> TensorEntry:
    wrong = CheckpointError(f"the safetensors header's entry for {name[:LONGEST_NAME]!r} is malformed")
    if len(name) > LONGEST_NAME or not isinstance(value, dict):
        raise wrong
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise CheckpointError(f"tensor {name!r} has the unknown dtype {str(dtype)[:32]!r}")
    sizes, bounds = _sizes(shape, MAX_DIMENSIONS), _sizes(offsets, 2)
    if sizes is None or bounds is None or len(bounds) != 2:
        raise wrong
    start, stop = bounds
    if not start <= stop <= room or math.prod(sizes) * DTYPE_BYTES[dtype] != stop - start:
        raise CheckpointError(f"tensor {name!r} does not lie inside its file as its shape says")
    return TensorEntry(dtype, sizes, ByteRange(offset + start, offset + stop))


def _sizes(value: Any, most: int) -> tuple[int, ...] | None:
    """A short list of natural numbers (JSON's true and 1.0 are none), or None."""
    if not isinstance(value, list) or len(value) > most:
        return None
    if any(type(size) is not int or size < 0 for size in value):
        return None
    return tuple(value)
