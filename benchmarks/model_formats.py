"""What does each number format cost and gain: tokens/s and perplexity in float32, bfloat16, and with int8 weights?

One process and one thread. Perplexity is the committed tiny model's on Python source of the standard library that is
the same in every run; tokens/s are a random Llama's of 134 M parameters, large enough to be bound by memory, beside
the model library's own forward pass. Times are the thread's own, so that neighbours on the machine count less.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

from _harness import Figures, Options, run
from _llama import TINY, random_llama

FORMATS = (("float32", None), ("bfloat16", None), ("float32", "int8"), ("bfloat16", "int8"))
TEXTS = ("textwrap.py", "fnmatch.py", "heapq.py")
WINDOW = 256
"""Tokens that are looked at together."""


def measure(options: Options) -> Figures:
    """Each format after the library's own float32."""
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        large = TINY if options.quick else random_llama(Path(folder))
        plain = _tokens_per_second(_load(large, "float32"), options)
        figures.row("float32, the library's own: decoding", plain, "tokens/s")
        reference = _perplexity(_load(TINY, "float32"), options)
        figures.row("float32, the library's own: perplexity", reference)
        for dtype, quantise in FORMATS:
            name = f"{dtype}, int8 weights" if quantise else dtype
            rate = _tokens_per_second(_fast(large, dtype, quantise), options)
            perplexity = _perplexity(_fast(TINY, dtype, quantise), options)
            figures.row(f"{name}: decoding", rate, "tokens/s")
            figures.row(f"{name}: perplexity", perplexity)
            figures.claim(f"{name}: tokens/s to the library's float32", rate / plain, "times")
            figures.claim(f"{name}: perplexity to the library's float32", perplexity / reference, "times", at_most=1.05)
    return figures


def _load(folder: Path, dtype: str) -> Any:
    import torch
    import transformers

    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def _fast(folder: Path, dtype: str, quantise: str | None) -> Any:
    from hivemind_p2p.sharding.weights import optimise

    model = _load(folder, dtype)
    optimise(model, dtype=dtype, quantise=quantise)
    return model


def _tokens_per_second(model: Any, options: Options) -> float:
    """The best of some runs of decoding after a prompt of 64."""
    import torch
    from transformers import DynamicCache

    cache, count, best = DynamicCache(config=model.config), options.pick(full=30, quick=10), math.inf
    with torch.inference_mode():
        model(torch.arange(64).unsqueeze(0), past_key_values=cache, use_cache=True, logits_to_keep=1)
        for _ in range(options.pick(full=4, quick=2)):
            started = time.thread_time()
            for token in range(count):
                model(torch.tensor([[token]]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            best = min(best, (time.thread_time() - started) / count)
    return 1 / best


def _perplexity(model: Any, options: Options) -> float:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY)
    library = Path(tempfile.__file__).parent
    losses = []
    for name in TEXTS[: options.pick(full=len(TEXTS), quick=1)]:
        ids = tokenizer((library / name).read_text(encoding="utf-8"), return_tensors="pt").input_ids[0]
        for start in range(0, min(len(ids), 4096) - WINDOW, WINDOW):
            window = ids[start : start + WINDOW]
            with torch.inference_mode():
                logits = model(window.unsqueeze(0), use_cache=False).logits[0].float()
            losses.append(float(torch.nn.functional.cross_entropy(logits[:-1], window[1:])))
    return math.exp(sum(losses) / len(losses))


if __name__ == "__main__":
    run(__doc__, measure)
