"""The models that the benchmarks of inference run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from _harness import ROOT, fresh_python

TINY = ROOT / "notebooks" / "models" / "tiny-python"
PROMPT = list(range(300, 364))

ONE_PROCESS = """
import json, sys, time
import torch, transformers
torch.set_num_threads(1)
folder, prompt, count, rounds = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
class Watch(transformers.generation.streamers.BaseStreamer):
    def put(self, ids): self.times.append(time.perf_counter())
    def end(self): pass
watch, found = Watch(), []
options = dict(max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)
for _ in range(rounds + 1):
    watch.times, started = [], time.perf_counter()
    ids = model.generate(torch.tensor([prompt]), streamer=watch, **options)[0].tolist()
    times = watch.times[1:]  # the first thing that is put is the prompt
    found.append([times[0] - started, (len(times) - 1) / (times[-1] - times[0])])
print(json.dumps({"ids": ids[len(prompt):], "rounds": found[1:]}))
"""


def random_llama(folder: Path) -> Path:
    """A checkpoint of random weights; float32, half a gigabyte."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        vocab_size=32_000,
        max_position_embeddings=2048,
        eos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):  # a checkpoint has one; ids are all that is used here
        shutil.copy(TINY / name, folder)
    return folder


def token_ids(text: str) -> list[int]:
    """A text in the small model's tokens."""
    import transformers

    found: list[int] = transformers.AutoTokenizer.from_pretrained(TINY)(text).input_ids
    return found


def one_process(checkpoint: Path, prompt: list[int], count: int, rounds: int = 1) -> dict[str, Any]:
    """The model library's own `generate` with one thread: ``ids``, ``first`` (seconds), ``rate`` (tokens/s)."""
    found = json.loads(fresh_python(ONE_PROCESS, str(checkpoint), json.dumps(prompt), str(count), str(rounds)))
    firsts, rates = zip(*found["rounds"], strict=True)
    return {"ids": found["ids"], "first": min(firsts), "rate": max(rates)}
