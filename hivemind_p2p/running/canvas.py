"""Lines of text that fit: blocks, bars and curves out of which the screen is put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

_HEIGHTS: Final = "▁▂▃▄▅▆▇█"
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"

LABEL: Final = 8
"""Columns of what a figure in a block is."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: At its head.
        width: Columns of the terminal.
        right: Whether what is in it stands at its right edge, as numbers do.
    """

    title: str
    width: int
    right: bool = False


def fitted(line: Text, width: int) -> Text:
    """A copy of exactly this width: cut with an ellipsis, or filled with spaces."""
    copy = line.copy()
    copy.truncate(max(0, width), overflow="ellipsis", pad=True)
    return copy


def block(title: str, rows: Iterable[tuple[str, Text]], width: int, height: int) -> list[Text]:
    """A title and labelled lines below it, of this size; further rows are left out."""
    lines = [Text(title, style="bold cyan")]
    for label, words in rows:
        lines.append(Text.assemble((f"{label:<{LABEL}}", "dim"), words) if label else words)
    lines = lines[:height] + [Text()] * (height - len(lines))
    return [fitted(line, width) for line in lines]


def beside(blocks: Sequence[list[Text]], gap: int) -> list[Text]:
    """Blocks of one height next to each other."""
    return [Text(" " * gap).join(lines) for lines in zip(*blocks, strict=True)]


def bar(share: float, width: int) -> Text:
    """How much of a whole is used: a bar that turns yellow, then red, as it fills."""
    share = min(1.0, max(0.0, share))
    style = "green" if share < 0.7 else "yellow" if share < 0.9 else "red"
    full, rest = divmod(round(share * width * 8), 8)
    filled = "█" * full + (_EIGHTHS[rest] if rest else "")
    return Text.assemble((filled, style), ("░" * (width - len(filled)), "bright_black"))


def curve(values: Sequence[int], width: int) -> Text:
    """The last values as a row of small columns, the newest at the right edge; the highest fills its line."""
    shown = list(values[-width:])
    most = max(shown, default=0)
    marks = [_HEIGHTS[min(7, value * 8 // (most + 1))] if value else "·" for value in shown]
    line = Text("·" * (width - len(marks)), style="bright_black")
    for mark in marks:
        line.append(mark, style="bright_black" if mark == "·" else "green")
    return line


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> list[Text]:
    """A head and rows; what is too long for its column is cut."""
    made = [_row(columns, [column.title for column in columns], "dim")]
    return made + [_row(columns, row, "") for row in rows]


def _row(columns: Sequence[Column], cells: Sequence[str], style: str) -> Text:
    line = Text()
    for column, cell in zip(columns, cells, strict=True):
        text = Text(cell, style=style)
        if column.right:
            text.truncate(column.width, overflow="ellipsis")
            text.pad_left(column.width - text.cell_len)
        else:
            text = fitted(text, column.width)
        line.append_text(text).append("  ")
    return line
