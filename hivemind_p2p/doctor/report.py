"""How the doctor speaks: a few lines for people, one object for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from hivemind_p2p.doctor.findings import SECTIONS, Finding, Mark, exit_code, in_order, merged, summary

_LOOKS: Final = {
    Mark.WELL: ("✓", "green"),
    Mark.WARNING: ("!", "yellow"),
    Mark.FAILURE: ("✗", "bold red"),
    Mark.SKIPPED: ("·", "dim"),
}

WIDEST: Final = 100
"""Columns: longer lines are hard to read, however wide the window is."""

LABEL: Final = 12
"""Columns for what was looked at."""


class Progress:
    """Shows what has been found so far and that the rest is under way. Silent where nobody watches.

    A context manager; what it shows goes away when it ends, and the report takes its place.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._findings: list[Finding] = []
        self._live = Live(console=console, refresh_per_second=10, transient=True) if console.is_terminal else None

    def show(self, finding: Finding) -> None:
        """Takes one more finding."""
        self._findings.append(finding)
        if self._live is not None:
            self._live.update(self._picture())

    def _picture(self) -> Group:
        known = {finding.check for finding in self._findings}
        waiting = [check for checks in SECTIONS.values() for check in checks if check not in known]
        waiting = [check for check in waiting if check != "hive key"]
        spinner = Spinner("dots", Text(f"looking at: {', '.join(waiting)}", style="dim"))
        return Group(*_sections(self._findings), *([spinner] if waiting else []))

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
            self._live.update(self._picture())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


def print_report(findings: Sequence[Finding], console: Console) -> None:
    """The whole, for people."""
    console.print(Group(*_sections(findings)))
    style = "bold red" if exit_code(findings) else "bold green"
    console.print(Text(summary(findings), style=style), width=min(console.width, WIDEST))


def _sections(findings: Iterable[Finding]) -> list[Any]:
    parts: list[Any] = []
    for title, found in in_order(findings):
        parts.append(Text(title, style="bold"))
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(width=LABEL)
        grid.add_column(max_width=WIDEST - LABEL)
        for finding in merged(found):
            mark, style = _LOOKS[finding.mark]
            grid.add_row(Text(mark, style=style), Text(finding.check, style="dim"), _words(finding))
        parts += [Padding(grid, (0, 0, 0, 2)), Text()]
    return parts


def _words(finding: Finding) -> Text:
    words = Text(finding.sentence, style="dim" if finding.mark is Mark.SKIPPED else "")
    if finding.remedy:
        words.append(f"\n→ {finding.remedy}", style="bold cyan")
    return words


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The whole, for programs."""
    return {
        "ok": exit_code(findings) == 0,
        "summary": summary(findings),
        "findings": [
            {"section": title} | asdict(finding) | {"mark": finding.mark.value}
            for title, found in in_order(findings)
            for finding in found
        ],
    }
