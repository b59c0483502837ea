"""How fast are two processes of plain torch.distributed, beside one process of the model library?

The usual way to cut a model in two by hand: `isend` and `recv` over gloo, the library's own layers, one thread a
process, no encryption, no failover, nobody joins or leaves. What `benchmarks/inference.py` is compared with.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _harness import Figures, Options, environment, median, run
from _llama import PROMPT, TINY, one_process, random_llama

STAGE = Path(__file__).with_name("_gloo_stage.py")


def measure(options: Options) -> Figures:
    """One process and gloo in turn."""
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        checkpoint = TINY if options.quick else random_llama(Path(folder))
        count, alone, found = 64, [], {1: [], 2: []}  # type: ignore[var-annotated]
        for _ in range(options.pick(full=3, quick=1)):
            alone.append(one_process(checkpoint, PROMPT, count)["rate"])
            for in_flight, rates in found.items():
                rates.append(gloo(checkpoint, PROMPT, count, in_flight)["rate"])
        figures.row("one process", median(alone), "tokens/s")
        for in_flight, rates in found.items():
            figures.row(f"gloo, {in_flight} in flight", median(rates), "tokens/s")
            figures.claim(f"gloo, {in_flight} in flight : one process", median(rates) / median(alone), "times")
    return figures


def gloo(checkpoint: Path, prompt: list[int], count: int, in_flight: int) -> dict[str, Any]:
    """``ids`` of each generation, seconds to the ``first`` token, and the ``rate`` of all in tokens/s."""
    with tempfile.TemporaryDirectory(prefix="gloo-") as folder:
        rest = [str(checkpoint), f"{folder}/rendezvous", json.dumps(prompt), str(count), str(in_flight)]
        first, second = (
            subprocess.Popen(
                [sys.executable, str(STAGE), str(rank), *rest], env=environment(), stdout=subprocess.PIPE, text=True
            )
            for rank in (0, 1)
        )
        try:
            output, _ = second.communicate(timeout=300)
            first.wait(60)
        finally:
            for process in (first, second):
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        return found


if __name__ == "__main__":
    run(__doc__, measure)
