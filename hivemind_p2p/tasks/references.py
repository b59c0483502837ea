"""Values that many tasks use: packed once, named by a link, and in a task's arguments no longer than that.

A `Reference` stands for a value. Packed with a task it becomes a call of `_opened`, so that the function over there
gets the value itself. A small value lies in the reference; a large one lies in the swarm, as a file that each peer
fetches once, however many of its tasks use it. The peer hands its child an open descriptor of that file
(`worker.packets`), and only the child, behind its walls, reads the pickle in it.
"""

from __future__ import annotations

import io
import os
import pickle
import threading
from typing import Any, Final, Generic, TypeVar

from hivemind_p2p.errors import TaskFailedError
from hivemind_p2p.types import Link

T = TypeVar("T")

INLINE_BYTES: Final = 64 << 10
"""Bytes of a packed value up to which it travels with each task: fetching a file takes longer than sending it."""

_collecting: Final = threading.local()
_open_files: Final[dict[str, int]] = {}
"""In a child: descriptors of what its tasks may read, by link."""


class Reference(Generic[T]):
    """Stands for a value in the arguments of tasks. Made by ``hive.put``.

    Attributes:
        link: Where it lies in the swarm; empty where it is small.
        length: Bytes of the packed value.
    """

    def __init__(self, data: bytes | None, link: Link | None, length: int) -> None:
        self._data = data
        self.link = link or Link("")
        self.length = length

    def __reduce__(self) -> tuple[Any, ...]:
        if self._data is not None:
            return pickle.loads, (self._data,)
        if (found := getattr(_collecting, "found", None)) is not None:
            found[self.link] = self.length
        return _opened, (str(self.link),)

    def __repr__(self) -> str:
        return f"<Reference to {self.length:,} bytes{' in the swarm' if self.link else ''}>"


class collecting:  # noqa: N801 - used like a function
    """Gathers what is packed inside the block and lies in the swarm: bytes by link."""

    __slots__ = ("_before", "_found")

    def __enter__(self) -> dict[Link, int]:
        # By hand: `contextlib` would take longer than packing a small task does.
        self._before = getattr(_collecting, "found", None)
        self._found: dict[Link, int] = {}
        _collecting.found = self._found
        return self._found

    def __exit__(self, *_: object) -> None:
        _collecting.found = self._before


def take_file(link: str, descriptor: int) -> None:
    """Notes a file that tasks of this child may read."""
    drop_file(link)
    _open_files[link] = descriptor


def drop_file(link: str) -> None:
    """Closes such a file."""
    descriptor = _open_files.pop(link, None)
    if descriptor is not None:
        os.close(descriptor)


def _opened(link: str) -> Any:
    """The value behind a link. In the sandboxed child only."""
    descriptor = _open_files.get(link)
    if descriptor is None:
        raise TaskFailedError(
            "a value that was put into the hive is not here", hint="Use it in the arguments of tasks."
        )
    with io.BufferedReader(_At(descriptor)) as file:
        return pickle.load(file)  # noqa: S301 - the sandbox is the place where this is done


class _At(io.RawIOBase):
    """Reads a descriptor from its beginning, wherever others have read it to."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, place: Any) -> int:
        count = os.preadv(self._descriptor, [place], self._at)
        self._at += count
        return count
