"""How fast does a model answer when it is spread over peers, beside other ways to run it?

Everything side by side in one run, one torch thread a process, greedy, prompt 64 and 64 new tokens: one process of
the model library, plain `torch.distributed` over gloo, and our stages, each a peer in a process of its own with
encrypted connections. The ids must be those of one process. Models: a Llama of random weights with 134 M parameters
in float32; with --quick the tiny one of the notebooks. Rows with one generation are without drafts.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _harness import Figures, Options, median, run
from _llama import PROMPT, TINY, one_process, random_llama, token_ids
from _slow_links import compare
from inference_gloo import gloo

COUNT = 64
JOINING = 8
LONG_PROMPT = 1000
REPEATING = "x = [" + "0, 1, " * 24
DRAFTS = 16
COPIES_DEADLINE = 90.0


@dataclass(frozen=True)
class Timed:
    """One generation: its ids, and when each came."""

    ids: list[int]
    began: float
    times: list[float]

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.began

    @property
    def rate(self) -> float:
        """Tokens a second after the first."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])


def measure(options: Options) -> Figures:
    """All rows."""
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        checkpoint = TINY if options.quick else random_llama(Path(folder))
        _side_by_side(figures, checkpoint, options)
        _recovery(figures, checkpoint)
    _slow_links(figures)
    return figures


def _side_by_side(figures: Figures, checkpoint: Path, options: Options) -> None:
    """Two stages, in turn with the others, so that a busy minute of the machine hits all of them."""
    alone, plain_gloo, ours = [], {1: [], 2: []}, {1: [], 2: [], JOINING: []}  # type: ignore[var-annotated]
    firsts, differing, long = [], 0, _long_prompt(options)
    with _stages(checkpoint, 2) as (_, model):
        _timed(model, PROMPT, 4)  # warms up
        for number in range(options.pick(full=3, quick=1)):
            reference = one_process(checkpoint, PROMPT, COUNT)
            alone.append((reference["rate"], (COUNT / (reference["first"] + (COUNT - 1) / reference["rate"]))))
            for in_flight, rates in plain_gloo.items():
                rates.append(gloo(checkpoint, PROMPT, COUNT, in_flight)["rate"])
            for many in (1, 2):
                found = _together(model, [0.0] * many)
                ours[many].append(_rate_together(found))
                differing += sum(a != b for each in found for a, b in zip(each.ids, reference["ids"], strict=True))
            starts = [0.0, *sorted(random.Random(number).uniform(0, 1) for _ in range(JOINING - 1))]
            found = _together(model, starts)
            ours[JOINING].append(_rate_with_prompts(found))
            differing += sum(a != b for each in found for a, b in zip(each.ids, reference["ids"], strict=True))
            firsts.append((_timed(model, long, 2).first, one_process(checkpoint, long, 2)["first"]))
    _say(figures, alone, plain_gloo, ours)
    figures.claim("ids that differ from one process", float(differing), "tokens", at_most=0)
    ratio = median([mine / other for mine, other in firsts])
    figures.row(f"first token, prompt of {len(long)}: 2 stages", 1e3 * median([mine for mine, _ in firsts]), "ms")
    figures.row(f"first token, prompt of {len(long)}: one process", 1e3 * median([other for _, other in firsts]), "ms")
    figures.claim(f"first token, prompt of {len(long)}: 2 stages : one process", ratio, "times", at_most=1.15)


def _say(figures: Figures, alone: list[Any], plain_gloo: dict[int, list[float]], ours: dict[int, list[float]]) -> None:
    rate, whole = median([found for found, _ in alone]), median([found for _, found in alone])
    figures.row("one process", rate, "tokens/s")
    for many, rates in plain_gloo.items():
        figures.row(f"gloo, 2 processes, {many} in flight", median(rates), "tokens/s")
        figures.claim(f"gloo, {many} in flight : one process", median(rates) / rate, "times")
    for many, rates in ours.items():
        figures.row(f"2 stages, {many} in flight", median(rates), "tokens/s")
    figures.claim("2 stages, 1 generation : one process", median(ours[1]) / rate, "times", at_least=1.6)
    figures.claim("2 stages, 1 generation : gloo", median(ours[1]) / median(plain_gloo[1]), "times")
    figures.claim("2 stages, 2 in flight : one process", median(ours[2]) / rate, "times", at_least=1.55)
    figures.claim(
        f"2 stages, {JOINING} joining at random : one process, one after another, prompts included",
        median(ours[JOINING]) / whole,
        "times",
        at_least=3.0,
    )


def _recovery(figures: Figures, checkpoint: Path) -> None:
    """SIGKILL of a stage whose layers another peer hosts as well: the longest pause, and the text."""
    with _stages(checkpoint, 2) as (hive, model):
        for peer in [hive.nodes.begin_peer() for _ in range(2)]:
            peer.wait_ready()  # who comes to a model that is served takes what has the fewest hosts
        if not _wait_for_copies(hive):
            figures.row("recovery: not all layers came to have two hosts", "not measured")
            return
        whole = _timed(model, PROMPT, COUNT)
        prefill = whole.first
        for peer in hive.nodes.peers:
            ids, times, began, killed = [], [], time.perf_counter(), False
            for token in model.generate(PROMPT, max_new_tokens=COUNT, stream=True):
                ids.append(_number(token))
                times.append(time.perf_counter())
                if len(ids) == COUNT // 4 and not killed:
                    peer.kill()
                    killed = True
            pause = max(after - before for before, after in zip([began, *times], times, strict=False))
            figures.row("longest pause with a peer killed", 1e3 * pause, "ms")
            different = sum(a != b for a, b in zip(ids, whole.ids, strict=True))
            figures.claim("ids that differ after a kill", float(different), "tokens", at_most=0)
            if pause > 2 * max(b - a for a, b in zip(whole.times, whole.times[1:], strict=False)):
                figures.claim("SIGKILL of a stage: pause less one prefill", pause - prefill, "s", at_most=2.0)
                return  # it was on the route
    figures.row("recovery: no killed peer was noticed", "not measured")


def _wait_for_copies(hive: Any) -> bool:
    """Until two peers host each layer."""
    deadline = time.monotonic() + COPIES_DEADLINE
    while time.monotonic() < deadline:
        hosts: dict[int, int] = {}
        for row in hive.peers():
            for stage in row.stages:
                for layer in range(stage.span.start, stage.span.stop) if stage.ready else ():
                    hosts[layer] = hosts.get(layer, 0) + 1
        if hosts and min(hosts.values()) >= 2:
            return True
        time.sleep(0.5)
    return False


def _slow_links(figures: Figures) -> None:
    """Three stages of the small model on links of 25 ms one way, a text that repeats."""
    plain, guessing = compare(TINY, token_ids(REPEATING), COUNT, DRAFTS)
    figures.row("links of 25 ms, 3 stages, ring", plain.rate, "tokens/s")
    figures.row("links of 25 ms, 3 stages, ring with speculation, text that repeats", guessing.rate, "tokens/s")
    different = sum(a != b for a, b in zip(plain.ids, guessing.ids, strict=True))
    figures.claim("ids that differ with speculation", float(different), "tokens", at_most=0)
    figures.claim("ring with speculation : ring without", guessing.rate / plain.rate, "times", at_least=2.5)
    figures.claim("network loop busy at a stretch, p99.9", 1e3 * guessing.loop_stall, "ms", at_most=20)


@contextmanager
def _stages(checkpoint: Path, stages: int) -> Iterator[tuple[Any, Any]]:
    import hivemind_p2p as hm

    with hm.local_hive(peers=stages) as hive:
        yield hive, hive.load_model(hive.publish_model(checkpoint, stages=stages), progress=False)


def _together(model: Any, starts: list[float]) -> list[Timed]:
    """Generations that begin so many seconds after the first."""
    found: list[Timed | None] = [None] * len(starts)
    began = time.perf_counter()

    def one(index: int) -> None:
        time.sleep(max(0.0, began + starts[index] - time.perf_counter()))
        found[index] = _timed(model, PROMPT, COUNT)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(starts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    missing = sum(each is None for each in found)
    if missing:
        raise SystemExit(f"{missing} of {len(starts)} generations failed")
    return [each for each in found if each is not None]


def _rate_together(found: list[Timed]) -> float:
    """Tokens a second of all, from when all have their first."""
    start = max(each.times[0] for each in found)
    return sum(t > start for each in found for t in each.times) / (max(each.times[-1] for each in found) - start)


def _rate_with_prompts(found: list[Timed]) -> float:
    """Tokens a second of all, prompts included, from the first one's start to the last one's end."""
    took = max(each.times[-1] for each in found) - min(each.began for each in found)
    return sum(len(each.ids) for each in found) / took


def _timed(model: Any, prompt: list[int], count: int) -> Timed:
    began, ids, times = time.perf_counter(), [], []
    for token in model.generate(prompt, max_new_tokens=count, stream=True):
        ids.append(_number(token))
        times.append(time.perf_counter())
    return Timed(ids, began, times)


def _long_prompt(options: Options) -> list[int]:
    return [300 + (7 * position) % 1500 for position in range(options.pick(full=LONG_PROMPT, quick=500))]


def _number(token: Any) -> int:
    return int(token[0] if isinstance(token, (list, tuple)) else token)


if __name__ == "__main__":
    run(__doc__, measure)
