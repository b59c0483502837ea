"""Memory in huge pages for weights, where the system has them (Linux).

A decode step reads every weight once, in order. With pages of 4 KiB the processor looks up an address every 1024
numbers, and in a virtual machine each look-up costs twice; with pages of 2 MiB reading went 10 to 25 % faster. The
system gives them only to memory that asks for them, which torch's own does not.

Importing this module loads torch: load it lazily.
"""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

PAGE_BYTES = 2 * 2**20
"""Of a huge page on x86 and most others; a smaller matrix gains nothing."""


def in_huge_pages(matrix: Tensor) -> Tensor:
    """The same numbers in memory that asks for huge pages; the tensor itself where that cannot be."""
    if matrix.device.type != "cpu" or matrix.nbytes < PAGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return matrix
    try:
        memory = mmap.mmap(-1, matrix.nbytes + PAGE_BYTES)
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        return matrix
    raw = torch.frombuffer(memory, dtype=torch.uint8)
    start = -raw.data_ptr() % PAGE_BYTES
    made = raw[start : start + matrix.nbytes].view(matrix.dtype).view(matrix.shape)
    made.copy_(matrix)
    return made


__all__ = ["in_huge_pages"]
