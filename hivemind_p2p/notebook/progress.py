"""Progress that fits the place: a widget in a notebook, a rich bar in a terminal, nothing where nobody looks.

Every function here runs in the thread that waits, never on the trio thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hivemind_p2p.job import JobList
    from hivemind_p2p.sharding.model import LoadProgress
    from hivemind_p2p.types import FetchProgress


class Bar(Protocol):
    """Something that shows how far a thing is."""

    def show(self, done: float, total: float, text: str) -> None:
        """Draws the present state."""


def in_notebook() -> bool:
    """Whether this code runs in a Jupyter kernel."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return type(get_ipython()).__name__ == "ZMQInteractiveShell"


class _Widget:
    def __init__(self, title: str) -> None:
        import ipywidgets
        from IPython.display import display

        self._bar = ipywidgets.FloatProgress(min=0.0, max=1.0, description=title)
        self._text = ipywidgets.Label()
        show_widget: Callable[..., object] = display
        show_widget(ipywidgets.HBox([self._bar, self._text]))

    def show(self, done: float, total: float, text: str) -> None:
        self._bar.value = done / total if total else 0.0
        self._text.value = text

    def finish(self, *, well: bool) -> None:
        self._bar.bar_style = "success" if well else "danger"


class _Terminal:
    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=False,
        )
        self._task = self._progress.add_task(title, total=None, text="")
        self._progress.start()

    def show(self, done: float, total: float, text: str) -> None:
        self._progress.update(self._task, completed=done, total=total or None, text=text)

    def finish(self, *, well: bool) -> None:
        del well
        self._progress.stop()


@contextmanager
def bar(title: str, *, shown: bool) -> Iterator[Bar | None]:
    """A bar for the time of the block; None where it is not wanted, or stderr is no terminal."""
    if not shown or not (in_notebook() or sys.stderr.isatty()):
        yield None
        return
    drawn: _Widget | _Terminal = _Widget(title) if in_notebook() else _Terminal(title)
    try:
        yield drawn
    except BaseException:
        drawn.finish(well=False)
        raise
    drawn.finish(well=True)


@contextmanager
def fetch_view(*, shown: bool) -> Iterator[Callable[[FetchProgress], None]]:
    """Shows a fetch."""
    with bar("fetching", shown=shown) as drawn:

        def show(progress: FetchProgress) -> None:
            if drawn is not None:
                text = f"{progress.done_bytes / 2**20:.1f} of {progress.wanted_bytes / 2**20:.1f} MiB"
                drawn.show(progress.done_bytes, progress.wanted_bytes, f"{text} from {progress.sources} sources")

        yield show


@contextmanager
def load_view(*, shown: bool) -> Iterator[Callable[[LoadProgress], None]]:
    """Shows a model being loaded by its hosts, and which layers still lack one."""
    with bar("loading", shown=shown) as drawn:

        def show(progress: LoadProgress) -> None:
            if drawn is not None:
                drawn.show(progress.fraction, 1.0, progress.text)

        yield show


def watch_jobs(jobs: JobList[Any]) -> None:
    """Waits for all jobs, with a bar. Ctrl-C cancels what is left."""
    finished: SimpleQueue[Future[Any]] = SimpleQueue()
    for job in jobs:
        job.add_done_callback(finished.put_nowait)
    failed = 0
    with bar("tasks", shown=True) as drawn:
        for done in range(len(jobs)):
            try:
                done_job = finished.get()
            except KeyboardInterrupt:
                jobs.cancel()
                raise
            failed += done_job.cancelled() or done_job.exception() is not None
            if drawn is not None:
                drawn.show(done + 1, len(jobs), f"{done + 1} of {len(jobs)}" + (f", {failed} failed" if failed else ""))
