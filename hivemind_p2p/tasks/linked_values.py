"""Results that are too large for a channel, on the caller's side: fetched from the swarm, read, and let go of."""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio

from hivemind_p2p.errors import DeadlineExceededError, HivemindError, ProtocolError
from hivemind_p2p.interfaces import Content
from hivemind_p2p.tasks.inputs import FETCH_DEADLINE, SLOWEST
from hivemind_p2p.tasks.reading import decode
from hivemind_p2p.types import Input

AT_ONCE: Final = 2
"""Results that are fetched at a time: each is held in memory once, when it is read."""


TIDY_DEADLINE: Final = 10.0
"""Seconds for removing what was fetched, which tells the directory."""

IN_A_THREAD: Final = 1 << 20
"""Bytes from which a result is read in a thread: less takes a few milliseconds at most."""


def fetch_deadline(length: int) -> float:
    """Seconds that a result with this many bytes may take."""
    return FETCH_DEADLINE + length / SLOWEST


class LinkedValues:
    """Fetches them for one caller.

    Args:
        content: The swarm.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self._turns = trio.CapacityLimiter(AT_ONCE)

    async def get(self, output: Input) -> Any:
        """The value that a file holds, which is fetched, checked against its hash tree, and removed again.

        Raises:
            ProtocolError: It is not the file that it was said to be, or holds no safe value.
            HivemindError: It could not be fetched.
        """
        async with self._turns:
            if await self._content.has(output.link):
                # What is one's own must not go because a peer calls it a result.
                raise ProtocolError("a result is something that was here before")
            seconds = fetch_deadline(output.length)
            try:
                with trio.move_on_after(seconds):
                    path = await self._fetch(output)
                    if output.length < IN_A_THREAD:
                        return _read(path, output.length)
                    return await trio.to_thread.run_sync(_read, path, output.length)
                raise DeadlineExceededError(f"a result of {output.length:,} bytes did not come within {seconds:g} s")
            finally:
                with trio.move_on_after(TIDY_DEADLINE, shield=True), suppress(HivemindError):  # nothing may have come
                    await self._content.remove(output.link)

    async def _fetch(self, output: Input) -> Path:
        files = await self._content.files(output.link)
        if len(files) != 1 or files[0].length != output.length:
            raise ProtocolError("a result is not the one file that it was said to be")
        path = await self._content.fetch(output.link)
        return path if path.is_file() else path / files[0].path


def _read(path: Path, length: int) -> Any:
    with path.open("rb") as file:
        # Closed when nothing refers to it any more: an error on its way may hold parts of it.
        mapped = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
    return decode(memoryview(mapped), max_bytes=length)
