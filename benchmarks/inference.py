"""How fast does a model answer when it is spread over peers, beside the model library in one process?

The same greedy generation, by token ids, over two and three stages and in one process with one thread: one stage
works at a time, so one thread is what a hive has for one generation. The ids must be equal. Models: the tiny one of
the notebooks, and, without --quick, a Llama of random weights that is large enough for its layers to take the time.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from _harness import ROOT, Figures, Options, fresh_python, median, run

TINY = ROOT / "notebooks" / "models" / "tiny-python"
PROMPT = list(range(300, 316))

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


def measure(options: Options) -> Figures:
    """Each model in one process, then over two and three stages."""
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        models = {"tiny-python": TINY}
        if not options.quick:
            models["random Llama, 134 M parameters"] = _random_llama(Path(folder) / "llama")
        for name, checkpoint in models.items():
            _measure_model(figures, name, checkpoint, options)
    return figures


def _measure_model(figures: Figures, name: str, checkpoint: Path, options: Options) -> None:
    count, rounds = options.pick(full=100, quick=60), options.pick(full=3, quick=2)
    arguments = [str(checkpoint), json.dumps(PROMPT), str(count), str(rounds)]
    alone = json.loads(fresh_python(ONE_PROCESS, *arguments))
    first_alone, rate_alone = _medians(alone["rounds"])
    figures.row(f"{name}, one process: first token", 1e3 * first_alone, "ms")
    figures.row(f"{name}, one process", rate_alone, "tokens/s")
    for stages in (2, 3):
        ids, found = _over_stages(checkpoint, stages, count, rounds)
        first, rate = _medians(found)
        figures.row(f"{name}, {stages} stages: first token", 1e3 * first, "ms")
        figures.row(f"{name}, {stages} stages", rate, "tokens/s")
        figures.claim(f"{name}: tokens/s, one process : {stages} stages", rate_alone / rate, "times")
        unequal = sum(ours != theirs for ours, theirs in zip(ids, alone["ids"], strict=True))
        figures.claim(f"{name}: ids that differ, {stages} stages", float(unequal), "tokens", at_most=0)


def _over_stages(checkpoint: Path, stages: int, count: int, rounds: int) -> tuple[list[int], list[tuple[float, float]]]:
    """The ids, and of each round the seconds to the first token and the tokens a second after it."""
    import hivemind_p2p as hm

    found = []
    with hm.local_hive(peers=stages) as hive:
        model = hive.load_model(hive.publish_model(checkpoint, stages=stages), progress=False)
        for _ in range(rounds + 1):
            ids, times, started = [], [], time.perf_counter()
            for token in model.generate(PROMPT, max_new_tokens=count, stream=True):
                ids.append(_number(token))
                times.append(time.perf_counter())
            found.append((times[0] - started, (len(times) - 1) / (times[-1] - times[0])))
    return ids, found[1:]  # the first round warms up


def _number(token: Any) -> int:
    return int(token[0] if isinstance(token, (list, tuple)) else token)


def _medians(rounds: list[Any]) -> tuple[float, float]:
    return median([first for first, _ in rounds]), median([rate for _, rate in rounds])


def _random_llama(folder: Path) -> Path:
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
        max_position_embeddings=512,
        eos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):  # a checkpoint has one; ids are all that is used here
        shutil.copy(TINY / name, folder)
    return folder


if __name__ == "__main__":
    run(__doc__, measure)
