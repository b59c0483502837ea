"""How fast this machine makes tokens: a decode step reads every weight once, so bytes of weights a second count.

The measure is a product of a vector with matrices that do not fit the processor's caches, as in a decode step.
Blocks for about a quarter of a second; torch is imported.
"""

from __future__ import annotations

import time

_ROWS, _COLUMNS = 1024, 4096
_MATRICES = 4
"""Together 64 MiB of float32: more than most caches hold, little enough to touch on a small machine."""

_ROUNDS = 3


def measure(threads: int = 1) -> int:
    """Bytes of float32 weights that a product with one token runs through in a second; the best of a few rounds."""
    import torch

    torch.set_num_threads(threads)
    matrices = [torch.full((_ROWS, _COLUMNS), 0.5) for _ in range(_MATRICES)]
    token = torch.ones(1, _ROWS)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            for matrix in matrices:
                torch.mm(token, matrix)
            best = min(best, time.perf_counter() - started)
    return int(_MATRICES * _ROWS * _COLUMNS * 4 / max(best, 1e-9))


__all__ = ["measure"]
