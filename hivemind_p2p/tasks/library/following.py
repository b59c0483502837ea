"""Tells what a program writes into files while it runs, so that its caller can watch it. In the sandboxed child only.

A program's output lies in files, which take no memory and hold nobody up. While the program runs, a thread looks at
what has come to them, and prints it as if the task itself had: `worker.serving` passes that on where its caller wants
it, and keeps the end of it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

INTERVAL: Final = 0.05
"""Seconds between two looks."""

MOST_AT_ONCE: Final = 1 << 20
"""Bytes of one file that one look tells; of more the end, so that a program that floods its output waits for nobody."""


class Followed:
    """Some files, and how far they have been told.

    Args:
        paths: The files, which are there.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]
        self._told = [0] * len(paths)

    def look(self) -> list[bytes]:
        """What has come since the last look."""
        news = []
        for number, file in enumerate(self._files):
            length = os.fstat(file).st_size
            start = max(self._told[number], length - MOST_AT_ONCE)
            if data := os.pread(file, max(0, length - start), start):
                news.append(data)
            self._told[number] = max(length, self._told[number])
        return news

    def close(self) -> None:
        """Closes them."""
        for file in self._files:
            os.close(file)


@contextmanager
def following(*paths: Path) -> Iterator[None]:
    """Prints what is written into some files during the block."""
    followed = Followed(paths)
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(followed, over), daemon=True)
    with suppress(RuntimeError):  # no thread can be had: it is told at the end
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()
        _tell(followed)
        followed.close()


def _follow(followed: Followed, over: threading.Event) -> None:
    while not over.wait(INTERVAL):
        _tell(followed)


def _tell(followed: Followed) -> None:
    for data in followed.look():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
