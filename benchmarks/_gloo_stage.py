"""One of two processes of the gloo reference: plain `torch.distributed`, plain layers of the model library.

Usage: _gloo_stage.py RANK FOLDER RENDEZVOUS PROMPT COUNT IN_FLIGHT. The second process prints the figures.

Sends are `isend`: gloo's plain `send` waits for the receiver, and with two generations in flight both sides would
wait for each other.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from _harness import ROOT  # puts the source tree on the path

assert ROOT


def main() -> None:
    """Runs one rank."""
    import torch
    from torch import distributed

    from hivemind_p2p.sharding import checkpoint
    from hivemind_p2p.sharding.stage import Stage
    from hivemind_p2p.types import LayerSpan

    rank, folder, rendezvous = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    prompt, count, in_flight = json.loads(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6])
    opened = checkpoint.open_folder(folder)
    half = opened.layer_count // 2
    span = LayerSpan(0, half) if rank == 0 else LayerSpan(half, opened.layer_count)
    stage = Stage.load(folder, opened, span, fast=False)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    for _ in range(2):  # the first round warms up
        caches = [stage.new_cache() for _ in range(in_flight)]
        if rank == 0:
            _first(stage, caches, prompt, count, torch, distributed)
        else:
            figures = _second(stage, caches, len(prompt), count, torch, distributed)
    if rank == 1:
        print(json.dumps(figures))
    distributed.barrier()
    distributed.destroy_process_group()


def _first(stage: Any, caches: list[Any], prompt: list[int], count: int, torch: Any, distributed: Any) -> None:
    sent: list[Any] = []
    for step in range(count):
        for cache in caches:
            token = torch.empty(1, dtype=torch.int64)
            if step == 0:
                token = torch.tensor(prompt)
            else:
                distributed.recv(token, src=1)
            hidden = stage.run(token, cache)
            sent.append((distributed.isend(hidden, dst=1), hidden))
            if len(sent) > len(caches):
                sent.pop(0)[0].wait()
    for work, _ in sent:
        work.wait()


def _second(stage: Any, caches: list[Any], length: int, count: int, torch: Any, distributed: Any) -> dict[str, Any]:
    sent: list[Any] = []
    ids: list[list[int]] = [[] for _ in caches]
    began = first = time.perf_counter()
    for step in range(count):
        for cache, text in zip(caches, ids, strict=True):
            hidden = torch.empty((length if step == 0 else 1, stage.shape.hidden_size))
            distributed.recv(hidden, src=0)
            token = stage.run(hidden, cache).argmax().view(1)
            text.append(int(token))
            if step + 1 < count:
                sent.append((distributed.isend(token, dst=0), token))
            if len(sent) > len(caches):
                sent.pop(0)[0].wait()
        if step == 0:
            first = time.perf_counter()
    for work, _ in sent:
        work.wait()
    took = time.perf_counter() - first
    return {"ids": ids, "first": first - began, "rate": len(caches) * (count - 1) / took}


if __name__ == "__main__":
    main()
