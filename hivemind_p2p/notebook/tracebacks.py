"""Remote tracebacks as they would read here: with the lines of code, and with notebook cells called by their number.

A function travels as compiled code, so the peer that runs it knows in which line of which file it failed, but has
not got that file. The caller has.
"""

from __future__ import annotations

import linecache
import re
import sys
from collections.abc import Callable

_FRAME = re.compile(r'^  File "(?P<file>[^"\n]+)", line (?P<line>\d{1,9}), in (?P<name>[^\n]*)$')


def localised(text: str, own_file: str | None) -> str:
    """A remote traceback with what this side knows put in.

    Args:
        text: The traceback as the peer sent it.
        own_file: Where the function comes from. Besides it only sources that this process has read already are
            looked at: a peer that names some other file of this machine must not make it be opened.
    """
    lines = text.splitlines()
    told: list[str] = []
    for index, line in enumerate(lines):
        frame = _FRAME.match(line)
        if frame is None:
            told.append(line)
            continue
        told.append(_frame_line(frame))
        has_code = index + 1 < len(lines) and lines[index + 1].startswith("    ")
        code = "" if has_code else _code(frame["file"], int(frame["line"]), own_file)
        if code:
            told.append(f"    {code}")
    return "\n".join(told)


def source_file(function: Callable[..., object]) -> str | None:
    """The file, or the notebook cell, that a function comes from."""
    code = getattr(function, "__code__", None)
    return code.co_filename if code is not None else None


def _code(file: str, line: int, own_file: str | None) -> str:
    if file != own_file and file not in linecache.cache:
        return ""
    return linecache.getline(file, line).strip()


def _frame_line(frame: re.Match[str]) -> str:
    cell = _cell_name(frame["file"])
    if cell is None:
        return frame[0]
    return f"  {cell}, line {frame['line']}, in {frame['name']}"


def _cell_name(file: str) -> str | None:
    """``Cell In[7]`` where the file stands for a notebook cell."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    compiler = getattr(get_ipython(), "compile", None)
    if compiler is None or not hasattr(compiler, "format_code_name"):
        return None
    found = compiler.format_code_name(file)
    return " ".join(found) if found else None
