"""Progress that fits the place: a bar of HTML in a notebook, a rich bar in a terminal, nothing where nobody looks.

Every function here runs in the thread that waits, never on the trio thread.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hivemind_p2p.mapped_jobs import Jobs
    from hivemind_p2p.sharding.model import LoadProgress
    from hivemind_p2p.types import FetchProgress


_SECONDS_BETWEEN_DRAWINGS = 0.1
"""Each drawing of a bar in a notebook is a message to the browser; an eye sees no more than this."""


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


class _Html:
    """A bar in a cell's output, drawn anew as one display that is updated.

    Plain HTML rather than a widget: it needs no extension in whatever shows the notebook, and it is still there
    when the notebook is saved, exported, or looked at on a web page.
    """

    def __init__(self, title: str) -> None:
        from IPython.display import display

        self._title = title
        self._state = (0.0, "")
        self._started_at, self._drawn_at = time.monotonic(), -math.inf
        show: Callable[..., Any] = display
        self._handle = show(self._bundle("running"), raw=True, display_id=True)

    def show(self, done: float, total: float, text: str) -> None:
        self._state = (done / total if total else 0.0, text)
        now = time.monotonic()
        if now - self._drawn_at >= _SECONDS_BETWEEN_DRAWINGS:
            self._drawn_at = now
            self._handle.update(self._bundle("running"), raw=True)

    def finish(self, *, well: bool) -> None:
        self._handle.update(self._bundle("well" if well else "failed"), raw=True)

    def _bundle(self, state: str) -> dict[str, str]:
        from hivemind_p2p.notebook.reprs import progress_html

        fraction, text = self._state
        if state != "running":
            text = f"{text}{', ' if text else ''}{time.monotonic() - self._started_at:.1f} s"
        return {
            "text/html": progress_html(self._title, fraction, text, state),
            "text/plain": f"{self._title}: {fraction:.0%} {text}".rstrip(),
        }


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
    drawn: _Html | _Terminal = _Html(title) if in_notebook() else _Terminal(title)
    try:
        yield drawn
    except BaseException:
        drawn.finish(well=False)
        raise
    drawn.finish(well=True)


@contextmanager
def fetch_view(*, shown: bool) -> Iterator[Callable[[FetchProgress], None]]:
    """Shows a fetch: how far it is, how fast, from how many, how long it takes, and which pieces are there."""
    if not shown or not (in_notebook() or sys.stderr.isatty()):
        yield _nobody_looks
        return
    from hivemind_p2p.notebook import transfers

    drawn = transfers.NotebookFetch() if in_notebook() else transfers.TerminalFetch()
    try:
        yield drawn.show
    except BaseException:
        drawn.finish(well=False)
        raise
    drawn.finish(well=True)


def _nobody_looks(progress: FetchProgress) -> None:
    del progress


@contextmanager
def load_view(*, shown: bool) -> Iterator[Callable[[LoadProgress], None]]:
    """Shows a model being loaded by its hosts, and which layers still lack one."""
    with bar("loading", shown=shown) as drawn:

        def show(progress: LoadProgress) -> None:
            if drawn is not None:
                drawn.show(progress.fraction, 1.0, progress.text)

        yield show


def watch_jobs(jobs: Jobs[Any]) -> None:
    """Waits for all jobs, with a bar. Ctrl-C cancels what is left."""
    finished: SimpleQueue[Future[Any]] = SimpleQueue()
    for job in jobs:
        job.add_done_callback(finished.put_nowait)
    failed = 0
    with bar("tasks", shown=True) as drawn:
        if drawn is not None:
            drawn.show(0, len(jobs), f"0 of {len(jobs)}")
        for done in range(len(jobs)):
            try:
                done_job = finished.get()
            except KeyboardInterrupt:
                jobs.cancel()
                raise
            failed += done_job.cancelled() or done_job.exception() is not None
            if drawn is not None:
                drawn.show(done + 1, len(jobs), f"{done + 1} of {len(jobs)}" + (f", {failed} failed" if failed else ""))
