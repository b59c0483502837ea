"""``hivemind-peer demo``: a hive of real processes on this machine, and all that it does, in about half a minute.

Nothing here is staged: the steps below use the public interface that a notebook uses.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from hivemind_p2p.config import keep_torch_files_in
from hivemind_p2p.errors import GenerationError, HivemindError, TaskFailedError
from hivemind_p2p.local import CALLER, LocalHive, local_hive
from hivemind_p2p.types import PeerId
from hivemind_p2p.views import Ledger, PeerRow, stages_text

if TYPE_CHECKING:
    from hivemind_p2p.job import Job
    from hivemind_p2p.mapped_jobs import Jobs
    from hivemind_p2p.sharding.loading import LoadProgress

MODEL = Path(__file__).parent.parent / "notebooks" / "models" / "tiny-python"
"""The checkpoint that lies in the repository."""

NEW_TOKENS = 48
SETTLED_DEADLINE = 15.0
"""Seconds for the peers to hand in their vouchers; they do it about a second after the work."""


class Demo:
    """The steps of the demo, and the table of peers that grows with them."""

    def __init__(self, hive: LocalHive, console: Console) -> None:
        self.hive = hive
        self.console = console
        self.fetched: dict[PeerId, str] = {}
        self.tasks: Counter[PeerId] = Counter()
        self.earned: dict[str, str] = {}
        self.paid = 0

    def others(self) -> list[PeerRow]:
        """The peers besides this program."""
        return [row for row in self.hive.peers() if not row.is_me]

    def table(self, rows: list[PeerRow]) -> Table:
        """The peers as they are now."""
        table = Table("peer", "id", "lends", "model", "fetched", "tasks", "earned", expand=False, header_style="bold")
        for row in rows:
            table.add_row(
                row.name,
                f"…{row.peer_id[-6:]}",
                f"{row.cpus:g} cpu, {row.memory_bytes / 2**30:.0f} GiB",
                stages_text(row.stages) or "-",
                self.fetched.get(row.peer_id, "-"),
                str(self.tasks[row.peer_id] or "-"),
                self.earned.get(row.name, "-"),
            )
        return table

    @contextmanager
    def live(self, *below: RenderableType) -> Iterator[Live]:
        """The table of peers with something below it, redrawn while the block runs."""
        with Live(console=self.console, refresh_per_second=10, transient=True) as live:
            live.update(Group(self.table(self.others()), *below))
            yield live

    def share_and_load(self, folder: Path) -> Any:
        """Publishes a checkpoint and waits for its hosts; each fetches the pieces of its own layers alone."""
        link = self.hive.publish_model(folder)
        self.console.print(Text.assemble("shared as ", (f"{link[:60]}…", "cyan")), soft_wrap=True)
        bars = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TextColumn("{task.fields[state]}")
        )
        names = {row.peer_id: row.name for row in self.others()}
        tasks = {peer: bars.add_task(name, total=None, state="waiting") for peer, name in names.items()}

        states: dict[PeerId, str] = {}

        def show(progress: LoadProgress) -> None:
            for peer, host in progress.hosts.items():
                if peer not in tasks or host.span is None:
                    continue
                bars.update(
                    tasks[peer],
                    completed=host.done_bytes,
                    total=host.wanted_bytes or None,
                    description=f"{names[peer]}  layers {host.span}",
                    state=host.state_name,
                )
                if host.wanted_bytes:
                    self.fetched[peer] = f"{host.done_bytes / 1e6:.1f} MB"
            now = {peer: host.state_name for peer, host in progress.hosts.items()}
            if now != states:
                states.update(now)
                live.update(Group(self.table(self.others()), bars))

        with self.live(bars) as live:
            model = self.hive.load_model(link, progress=show)
        whole = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        self.console.print(self.table(self.others()))
        self.console.print(
            f"each peer fetched only the pieces that hold its own layers; the whole folder is {whole:.1f} MB"
        )
        return model

    def generate(self, model: Any, folder: Path, prompt: str) -> None:
        """Streams a text over the stages and compares its token ids with those of the whole model in one process."""
        text = Text(prompt, style="bold")
        started = time.perf_counter()
        with Live(Panel(text, title="one prompt, every stage, one text"), console=self.console, refresh_per_second=15):
            for piece in model.generate(prompt, max_new_tokens=NEW_TOKENS, stream=True):
                text.append(piece, style="green")
        seconds = time.perf_counter() - started
        if not self.console.is_terminal:
            self.console.print()  # rich ends the last frame without a line break there
        count = len(model.encode(text.plain)) - len(model.encode(prompt))
        self.console.print(f"{count} tokens in {seconds:.2f} s, {count / seconds:.0f} tokens/s")
        with self.console.status("running the whole model in this one process, to compare"):
            prompt_ids = model.encode(prompt)
            keep_torch_files_in(self.hive.nodes.folder / "torch")
            whole = _whole_model(folder, prompt_ids)
            sharded = model.generate(prompt_ids, max_new_tokens=NEW_TOKENS)
        if sharded != whole:
            raise GenerationError(f"the stages gave {sharded}, the whole model {whole}", hint="Please report this.")
        self.console.print(f"[green]✓[/] its {len(whole)} token ids equal those of the whole model in one process")

    def run_tasks(self) -> None:
        """A dozen functions, in sandboxed child processes, and one that raises."""
        jobs: Jobs[Any] = self.hive.map(_count_primes, [20_000 + 5_000 * step for step in range(12)])
        broken = self.hive.submit(_fail, {"a": 1})
        bars = Progress(TextColumn("tasks"), BarColumn(), TextColumn("{task.completed} of {task.total}"))
        task = bars.add_task("tasks", total=len(jobs))
        with self.live(bars) as live:
            for job in jobs:
                job.result(60)
                self._count(job)
                bars.advance(task)
                live.update(Group(self.table(self.others()), bars))
        ran = ", ".join(str(job.result()) for job in jobs)
        self.console.print(f"primes below 20,000, 25,000, …, 75,000: {ran}")
        try:
            broken.result(60)
        except TaskFailedError as error:
            self.console.print(
                Panel(
                    Text(error.remote_traceback.strip().replace(f"{Path.cwd()}/", "")),
                    title="one task raises: its remote traceback",
                    style="red",
                )
            )
        self._count(broken)

    def _count(self, job: Job[Any]) -> None:
        if job.peer is not None:
            self.tasks[job.peer] += 1

    def settle(self) -> None:
        """Waits until the peers have handed in their vouchers, then shows the ledger."""
        with self.console.status("the peers hand in their vouchers"):
            ledger = self._settled_ledger()
        self.earned = {row.name: f"{row.earned:.6f}" for row in ledger}
        self.console.print(self.table(self.others()))
        table = Table("account", "welcome", "earned", "paid", "balance", title="the bootstrap's ledger", expand=False)
        for row in sorted(ledger, key=lambda row: row.name):
            cells = (row.welcome, row.earned, row.paid, row.balance)
            table.add_row(row.name, *(f"{cell:.6f}" for cell in cells))
        self.console.print(table)
        if ledger.sum != 0:
            raise HivemindError(f"the ledger's rows sum to {ledger.sum}", hint="Please report this.")
        self.console.print(f"[green]✓[/] the rows of its {ledger.transfers} transfers sum to zero")

    def _settled_ledger(self) -> Ledger:
        deadline = time.monotonic() + SETTLED_DEADLINE
        while True:
            ledger = self.hive.ledger()
            paid = next((row.paid for row in ledger if row.name == CALLER), None)
            if paid == self.hive.promised:
                return ledger
            if time.monotonic() > deadline:
                raise HivemindError(f"the peers handed in vouchers for {paid} of {self.hive.promised} credits only")
            time.sleep(0.2)


def _count_primes(limit: int) -> int:
    return sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in range(2, limit))


def _fail(settings: dict[str, int]) -> int:
    return settings["missing"]


def _whole_model(folder: Path, prompt: list[int]) -> list[int]:
    """The greedy ids of the whole model in this process, by the model library alone."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = model.generate(
        torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, attention_mask=torch.ones(1, len(prompt))
    )
    return list(ids[0].tolist())


def run_demo(*, peers: int, model: Path | None, prompt: str, save_svg: Path | None = None) -> None:
    """Runs every step, and leaves no process and no folder behind, also after Ctrl-C or an error.

    Args:
        peers: How many peers to start.
        model: A checkpoint folder; by default the one in the repository.
        prompt: What the model goes on with.
        save_svg: A file that takes a picture of the output.
    """
    console = Console(record=True, width=100, force_terminal=False) if save_svg else Console()
    started = time.perf_counter()
    try:
        _steps(console, peers, model or MODEL, prompt)
    except KeyboardInterrupt:
        console.print("stopped; every process has ended and every folder is gone")
        raise
    seconds = time.perf_counter() - started
    console.print(f"done in {seconds:.0f} s; every process has ended and every folder is gone")
    if save_svg is not None:
        console.save_svg(str(save_svg), title="hivemind-peer demo", code_format=_self_contained(CONSOLE_SVG_FORMAT))


def _self_contained(template: str) -> str:
    """Rich's picture without the fonts that it would fetch from elsewhere."""
    return re.sub(r"@font-face \{\{.*?\}\}", "", template, flags=re.DOTALL)


def _steps(console: Console, peers: int, folder: Path, prompt: str) -> None:
    started = time.perf_counter()
    console.print(Rule("1  a hive on this machine", align="left"))
    with console.status(f"starting a bootstrap and {peers} peers, each a process of its own"):
        hive = local_hive(peers=peers)
    with hive:
        steps = Demo(hive, console)
        console.print(f"ready after {time.perf_counter() - started:.1f} s; status page at {hive.nodes.http}")
        console.print(Rule("2  a checkpoint becomes pieces, pieces become stages", align="left"))
        loaded = steps.share_and_load(folder)
        console.print(Rule("3  a prompt goes round the ring", align="left"))
        steps.generate(loaded, folder, prompt)
        console.print(Rule("4  functions run in sandboxes", align="left"))
        steps.run_tasks()
        console.print(Rule("5  work is paid", align="left"))
        steps.settle()
