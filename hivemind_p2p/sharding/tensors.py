"""Reads a span's tensors from a checkpoint's files, each straight into memory of its own.

The files are not mapped: mapped pages count as this process's memory beside the copies that are made of them, so that
loading would take twice what the span takes. What is read is converted at once, one tensor at a time.

Importing this module loads torch: load it lazily.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import torch

from hivemind_p2p.errors import CheckpointError
from hivemind_p2p.sharding.checkpoint import Checkpoint
from hivemind_p2p.sharding.headers import TensorEntry
from hivemind_p2p.types import LayerSpan

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""The safetensors format's names. Others (8-bit floats) belong to quantised checkpoints, which need their own code."""


def read_tensors(folder: Path, checkpoint: Checkpoint, span: LayerSpan, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The span's tensors by name, layers numbered from zero; floating ones in `dtype`.

    Raises:
        CheckpointError: A file cannot be read, or ends too early; the message names it.
    """
    found: dict[str, torch.Tensor] = {}
    names = checkpoint.names(span)
    for file in sorted({checkpoint.tensors[name].file for name in names}):
        path = folder / file
        try:
            with path.open("rb", buffering=0) as stream:
                for name in names:
                    placed = checkpoint.tensors[name]
                    if placed.file == file:
                        found[renumbered(checkpoint, name, span)] = _read(stream, name, placed.entry, dtype)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error
    return found


def renumbered(checkpoint: Checkpoint, name: str, span: LayerSpan) -> str:
    """The name that a tensor has in a model of the span's layers alone."""
    layer = checkpoint.layer_of(name)
    if layer is None:
        return name
    prefix = checkpoint.layer_prefix
    return f"{prefix}{layer - span.start}{name[len(prefix) + len(str(layer)) :]}"


def _read(stream: BinaryIO, name: str, entry: TensorEntry, dtype: torch.dtype) -> torch.Tensor:
    stored = DTYPES.get(entry.dtype)
    if stored is None:
        raise CheckpointError(
            f"tensor {name!r} is stored as {entry.dtype}, which stages cannot compute with",
            hint="Convert the checkpoint to bfloat16, float16 or float32.",
        )
    tensor = torch.empty(entry.shape, dtype=stored)
    _fill(stream, entry.where.start, _bytes_of(tensor), name)
    return tensor.to(dtype) if stored.is_floating_point else tensor


def _fill(stream: BinaryIO, start: int, target: memoryview, name: str) -> None:
    stream.seek(start)
    while target:
        count: int = stream.readinto(target)  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError(f"{stream.name} ends within the tensor {name!r}: the file is cut short")
        target = target[count:]


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    if not tensor.numel():
        return memoryview(b"")
    array: Any = tensor.view(-1).view(torch.uint8).numpy()
    return memoryview(array).cast("B")


__all__ = ["read_tensors", "renumbered"]
