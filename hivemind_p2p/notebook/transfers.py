"""Fetches and shares as people watch them: HTML in a notebook, a few living lines in a terminal.

Every function here runs in the thread that waits, never on the trio thread.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hivemind_p2p.notebook.words import FetchWords, Rate, amount, counted, signs

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hivemind_p2p.hive import Hive
    from hivemind_p2p.types import FetchProgress, Link

_SECONDS_BETWEEN_DRAWINGS = 0.1
"""Each drawing in a notebook is a message to the browser; an eye sees no more than this."""

_DRAWINGS_A_SECOND = 8

_SECONDS_BETWEEN_LOOKS = 0.5


class NotebookFetch:
    """A fetch in a cell's output.

    Plain HTML in one display that is updated: it is still there when the notebook is saved, exported, or looked at on
    a web page.
    """

    def __init__(self) -> None:
        from IPython.display import display

        self._words = FetchWords(time.monotonic())
        self._drawn_at = -math.inf
        show: Callable[..., Any] = display
        self._handle = show(self._bundle("running"), raw=True, display_id=True)

    def show(self, progress: FetchProgress) -> None:
        """Draws the present state, unless it was drawn just now."""
        now = time.monotonic()
        self._words.told(progress, now)
        if now - self._drawn_at >= _SECONDS_BETWEEN_DRAWINGS:
            self._drawn_at = now
            self._handle.update(self._bundle("running"), raw=True)

    def finish(self, *, well: bool) -> None:
        """Draws how it ended."""
        self._handle.update(self._bundle("well" if well else "failed"), raw=True)

    def _bundle(self, state: str) -> dict[str, str]:
        from hivemind_p2p.notebook.reprs import fetch_html

        now = time.monotonic()
        texts = {"running": self._words.speed(now), "well": self._words.summary(now), "failed": "stopped"}
        text = texts[state]
        plain = f"{self._words.title}: {self._words.fraction:.0%} {self._words.amount}, {text}"
        return {"text/html": fetch_html(self._words, state, text), "text/plain": plain}


class TerminalFetch:
    """A fetch in a terminal, on stderr: a bar, the pieces, and the speed; one line is left when it is over."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._words = FetchWords(time.monotonic())
        self._console = Console(stderr=True)
        self._live = Live(
            console=self._console,
            get_renderable=self._lines,
            refresh_per_second=_DRAWINGS_A_SECOND,
            transient=True,
        )
        self._live.start()

    def show(self, progress: FetchProgress) -> None:
        """Takes note of the present state; it is drawn a few times a second."""
        self._words.told(progress, time.monotonic())

    def finish(self, *, well: bool) -> None:
        """Leaves one line."""
        now = time.monotonic()
        self._live.stop()
        if well:
            self._console.print(f"fetched {self._words.progress.name}: {self._words.summary(now)}", markup=False)
        elif self._words.amount:
            said = f"{self._words.title} stopped at {self._words.fraction:.0%}: {self._words.amount} are here"
            self._console.print(said, markup=False)

    def _lines(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        words = self._words
        first = Table.grid(padding=(0, 1), expand=True)
        first.add_column(no_wrap=True, overflow="ellipsis", max_width=32)
        first.add_column(ratio=1)
        first.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(total=1.0, completed=words.fraction, pulse=not words.amount)
        first.add_row(Text(words.title), bar, Text(f"{words.fraction:4.0%}  {words.amount}".rstrip()))
        lines: list[RenderableType] = [first]
        if words.progress.pieces:
            pieces = signs(words.progress.pieces, max(8, self._console.width - 9))
            lines.append(Text.assemble(("  pieces ", "dim"), (pieces, "cyan")))
        lines.append(Text("  " + words.speed(time.monotonic()), style="yellow" if words.progress.paused else "dim"))
        return Group(*lines)


class TerminalShare:
    """What is given to others, in a terminal, on stderr.

    Args:
        name: Of what is shared.
        length: Its bytes.
    """

    def __init__(self, name: str, length: int) -> None:
        from rich.console import Console
        from rich.live import Live

        self._name = name
        self._length = length
        self._given = 0
        self._peers = 0
        self._rate = Rate(time.monotonic())
        self._live = Live(
            console=Console(stderr=True), get_renderable=self._lines, refresh_per_second=2, transient=True
        )

    def __enter__(self) -> TerminalShare:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._live.console.print(f"gave {self._in_all()} of {self._name}", markup=False)

    def show(self, given: int, peers: int) -> None:
        """Takes note of how much was given so far, and to how many it is given now."""
        self._given, self._peers = given, peers
        self._rate.seen(time.monotonic(), given)

    def _in_all(self) -> str:
        copies = f" ({self._given / self._length:.1f} copies)" if self._length and self._given else ""
        return f"{amount(self._given)}{copies}"

    def _lines(self) -> RenderableType:
        from rich.text import Text

        rate = amount(self._rate.per_second(time.monotonic()))
        first = f"sharing {self._name}, {amount(self._length)}"
        second = f"  {rate}/s to {counted(self._peers, 'peer')}, {self._in_all()} given so far"
        return Text(f"{first}\n{second}", style="dim", overflow="ellipsis", no_wrap=True)


@contextmanager
def hashing(path: Path, *, shown: bool) -> Iterator[None]:
    """Says, in a terminal, that a path is being read before it is shared: that may take a while."""
    if not shown or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(f"hashing {escape(path.name)}"):
        yield


def wait_and_watch(hive: Hive, link: Link, ends: Callable[[], Awaitable[None]], *, shown: bool) -> None:
    """Shows what is given of a content to others, until `ends` returns."""
    import trio

    content, _, _ = _shared(hive, link)
    if content is None or not shown or not sys.stderr.isatty():
        trio.run(ends)
        return

    async def watch(view: TerminalShare) -> None:
        while True:
            _, given, peers = await trio.to_thread.run_sync(_shared, hive, link)
            view.show(given, peers)
            await trio.sleep(_SECONDS_BETWEEN_LOOKS)

    async def watch_to_the_end(view: TerminalShare) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, view)
            await ends()
            nursery.cancel_scope.cancel()

    with TerminalShare(content.name, content.length) as view:
        trio.run(watch_to_the_end, view)


def _shared(hive: Hive, link: Link) -> tuple[Any, int, int]:
    """A content's figures, the bytes given of it so far, and the peers that it is given to."""
    for content in hive.statistics()["content"].contents:
        if content.link == link:
            return content, content.uploaded_bytes, content.served
    return None, 0, 0
