"""Which kernel is the fastest for a matrix on this processor: found out by trying, once for each shape.

No layout is the best everywhere. oneDNN's blocked layout is twice as fast as any other on processors with AVX-512;
without it, transposed weights are faster for wide outputs and one row, and plain ones for narrow outputs. So the
candidates are timed on the matrix itself, out of the cache, for one row (a generation alone) and for some (a step of
several).

Importing this module loads torch: load it lazily.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from hivemind_p2p.sharding.kernels import Kernel, Packed, Plain, Transposed, has_packed

ROWS = (1, 4)
"""Rows of the products that are timed. What counts is the sum of the times a row: both are met every day."""

TRIES = 3
"""Of each product; the shortest time counts."""

SMALLEST_BYTES = 2**21
"""Smaller matrices live in the cache; whatever kernel they get, a step is not made of them."""

CACHE_BYTES = 2**26
"""Read between two tries, so that the weights come from memory as they do in a step."""

_found: dict[tuple[torch.Size, torch.dtype, int], type[Kernel]] = {}


def fastest(weight: Tensor, bias: Tensor | None, outputs: tuple[int, ...]) -> Kernel:
    """The kernel for a matrix of a CPU."""
    candidates = _candidates(weight.dtype)
    if len(candidates) == 1 or weight.nbytes < SMALLEST_BYTES:
        return candidates[0](weight, bias, outputs)
    key = (weight.shape, weight.dtype, torch.get_num_threads())
    if key not in _found:
        _found[key] = _choose(candidates, weight, bias, outputs)
    return _found[key](weight, bias, outputs)


def _candidates(dtype: torch.dtype) -> list[type[Kernel]]:
    found: list[type[Kernel]] = []
    if dtype in (torch.float32, torch.bfloat16) and has_packed(dtype):
        found.append(Packed)
    return [*found, Transposed, Plain] if dtype == torch.float32 else [*found, Plain]


@torch.inference_mode()
def _choose(
    candidates: Sequence[type[Kernel]], weight: Tensor, bias: Tensor | None, outputs: tuple[int, ...]
) -> type[Kernel]:
    scratch = torch.zeros(CACHE_BYTES // 4)
    inputs = [torch.ones((rows, weight.shape[1]), dtype=weight.dtype) for rows in ROWS]
    times = {}
    for kind in candidates:
        kernel = kind(weight, bias, outputs)
        times[kind] = sum(_seconds(kernel, x, scratch) / len(x) for x in inputs)
        del kernel
    return min(times, key=lambda kind: times[kind])


def _seconds(kernel: Kernel, x: Tensor, scratch: Tensor) -> float:
    found = []
    for _ in range(TRIES):
        scratch.sum()
        began = time.thread_time()
        kernel(x)
        found.append(time.thread_time() - began)
    return min(found)


__all__ = ["fastest"]
