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


class Half:
    """One half of a Llama, cut by hand: the library's own model with the other half's layers taken out."""

    def __init__(self, folder: Path, rank: int) -> None:
        import torch
        import transformers

        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        base, half = model.model, len(model.model.layers) // 2
        self.width = int(model.config.hidden_size)
        self._model, self._given = (base, "input_ids") if rank == 0 else (model, "inputs_embeds")
        base.layers = base.layers[:half] if rank == 0 else base.layers[half:]
        base.config.num_hidden_layers = len(base.layers)
        for number, layer in enumerate(base.layers):
            layer.self_attn.layer_idx = number
        if rank == 0:
            base.norm = torch.nn.Identity()

    def run(self, inputs: Any, cache: Any) -> Any:
        """Hidden states from the first half, the last row's logits from the second."""
        import torch

        given = {self._given: inputs, "past_key_values": cache, "use_cache": True}
        with torch.inference_mode():
            if self._given == "input_ids":
                return self._model(**given).last_hidden_state
            return self._model(**given, logits_to_keep=1).logits


def main() -> None:
    """Runs one rank."""
    import torch
    import transformers
    from torch import distributed

    rank, folder, rendezvous = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    prompt, count, in_flight = json.loads(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6])
    torch.set_num_threads(1)
    stage = Half(folder, rank)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    for _ in range(2):  # the first round warms up
        caches = [transformers.DynamicCache() for _ in range(in_flight)]
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
            hidden = stage.run(token.unsqueeze(0), cache)
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
            hidden = torch.empty((1, length if step == 0 else 1, stage.width))
            distributed.recv(hidden, src=0)
            token = stage.run(hidden, cache)[0, -1].argmax().view(1)
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
