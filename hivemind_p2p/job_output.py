"""What a task prints, as it comes: filled on the trio thread, read by whoever likes, while it runs or later."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

MOST_KEPT: Final = 4 << 20
"""Bytes of output that are kept of one job; of more the end counts."""


class JobOutput:
    """The output of one job. Safe to use from several threads."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._kept = bytearray()
        self._dropped = 0
        self._closed = False

    def add(self, data: bytes) -> None:
        """More has come."""
        with self._condition:
            self._kept += data
            if (over := len(self._kept) - MOST_KEPT) > MOST_KEPT // 4:
                del self._kept[:over]
                self._dropped += over
            self._condition.notify_all()

    def close(self) -> None:
        """Nothing more will come."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    @property
    def text(self) -> str:
        """All that is kept."""
        with self._condition:
            return self._kept.decode("utf-8", "replace")

    def lines(self) -> Iterator[str]:
        """Each line with its end, waiting for those to come, until the job is done; of very much output the last."""
        at = 0
        while (line := self._next_line(at)) is not None:
            at, data = line
            yield data.decode("utf-8", "replace")

    def _next_line(self, at: int) -> tuple[int, bytes] | None:
        """Where the line after this place ends, counted from the beginning of all output, and the line."""
        with self._condition:
            while True:
                start = max(0, at - self._dropped)
                end = self._kept.find(b"\n", start) + 1
                if not end and self._closed:
                    end = len(self._kept)
                    if end == start:
                        return None
                if end:
                    return self._dropped + end, bytes(self._kept[start:end])
                # Woken now and then, so that Ctrl-C ends the wait.
                self._condition.wait(1.0)
