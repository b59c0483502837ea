"""Activations on the wire in fewer bytes: float32, bfloat16, or 8 bit by block.

`ENCODINGS` says what each costs and how far off it may be:

- ``float32``: exact, 4 bytes a value.
- ``bfloat16``: 2 bytes; each value is off by at most 1/256 of itself.
- ``int8``: 1 byte, and 4 for each block of 64 values of one row: the block's scale. Each value is off by at most
  1/254 of the largest in its block (plus float32's own rounding). Blocks are short since activations have a few
  channels that are far larger than the rest: these spoil the precision of their own block alone.

Layout of int8: all rows' bytes first, row by row, then all scales as little-endian float32, row by row. The last block
of a row may be shorter. A payload comes off the wire: its length is checked before anything is made of it, and scales
that are not finite or are negative are refused.

Importing this module does not load torch; encoding and decoding does.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from hivemind_p2p.errors import ProtocolError

if TYPE_CHECKING:
    import torch

ENCODINGS = ("float32", "bfloat16", "int8")
"""How activations can be sent."""

BLOCK = 64
"""Values that share a scale: 6 % more bytes for an error that is that of 64 neighbours, not of the whole row."""

SCALE_BYTES = 4

BFLOAT16_ERROR = 2.0**-8
"""The largest error of bfloat16, as a part of the value itself."""

INT8_ERROR = 0.5 / 127 * (1 + 1e-4)
"""The largest error of int8, as a part of the largest value in the block."""


def encoded_bytes(rows: int, width: int, encoding: str) -> int:
    """The length of a payload in bytes.

    Raises:
        ProtocolError: The encoding is unknown.
    """
    if encoding == "int8":
        return rows * (width + -(-width // BLOCK) * SCALE_BYTES)
    return rows * width * {"float32": 4, "bfloat16": 2}[_known(encoding)]


def encode(hidden: torch.Tensor, encoding: str) -> memoryview:
    """The payload for activations.

    Args:
        hidden: Shape (rows, width), any floating dtype; finite for int8 (a stage checks before it sends).
        encoding: One of `ENCODINGS`.
    """
    import torch

    if _known(encoding) != "int8":
        return _bytes(hidden.detach().to("cpu", getattr(torch, encoding)))
    rows, width = hidden.shape
    blocks = torch.nn.functional.pad(hidden.detach().to("cpu", torch.float32), (0, -width % BLOCK))
    blocks = blocks.view(rows, -1, BLOCK)
    scales = blocks.abs().amax(dim=-1, keepdim=True) / 127
    divisors = torch.where(scales > 0, scales, 1)
    values = (blocks / divisors).round_().clamp_(-127, 127).to(torch.int8).view(rows, -1)[:, :width]
    return memoryview(bytes(_bytes(values)) + bytes(_bytes(scales)))


def decode(payload: memoryview, rows: int, width: int, encoding: str, dtype: str) -> torch.Tensor:
    """Activations of shape (rows, width) in the dtype that the stage computes in.

    Raises:
        ProtocolError: The length is not that of these rows, or a scale is no scale.
    """
    import torch

    if len(payload) != (expected := encoded_bytes(rows, width, encoding)):
        raise ProtocolError(f"{rows} rows of {width} in {encoding} take {expected} bytes, not {len(payload)}")
    wanted: torch.dtype = getattr(torch, dtype)
    if rows == 0:
        return torch.empty((0, width), dtype=wanted)
    copy = bytearray(payload)  # torch needs memory of its own that can be written to
    if encoding != "int8":
        return torch.frombuffer(copy, dtype=getattr(torch, encoding)).view(rows, width).to(wanted)
    values = torch.frombuffer(copy, dtype=torch.int8, count=rows * width).view(rows, width)
    # The scales need not lie at a multiple of four bytes.
    scales = torch.frombuffer(copy[rows * width :], dtype=torch.float32).view(rows, -1)
    if not bool(torch.isfinite(scales).all()) or bool((scales < 0).any()):
        raise ProtocolError("activations came with a scale that is no finite, positive number")
    blocks = torch.nn.functional.pad(values, (0, -width % BLOCK)).view(rows, -1, BLOCK)
    return (blocks * scales.unsqueeze(-1)).view(rows, -1)[:, :width].to(wanted)


def _known(encoding: str) -> str:
    if encoding not in ENCODINGS:
        raise ProtocolError(f"activations are sent as one of {', '.join(ENCODINGS)}, not as {encoding[:40]}")
    return encoding


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    if sys.byteorder != "little":
        raise ProtocolError("activations are little-endian, and this machine is not")
    array: Any = tensor.contiguous().view(torch.uint8).numpy()
    return memoryview(array).cast("B")


__all__ = ["BFLOAT16_ERROR", "BLOCK", "ENCODINGS", "INT8_ERROR", "decode", "encode", "encoded_bytes"]
