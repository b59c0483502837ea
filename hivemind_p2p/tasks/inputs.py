"""What tasks of a worker read from the swarm: fetched once each, however many tasks want it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio

from hivemind_p2p.errors import HivemindError, TaskRefusedError
from hivemind_p2p.interfaces import Content
from hivemind_p2p.types import Input, Link

MOST_BYTES: Final = 64 << 30
"""Bytes of one input: more than a task's machine is likely to have room for. The peer's own quota holds as well."""

FETCH_DEADLINE: Final = 60.0
"""Seconds for an input, and more for a large one (`SLOWEST`)."""

SLOWEST: Final = 500_000.0
"""Bytes a second below which an input counts as stalled."""


class Inputs:
    """Fetches what tasks read.

    Args:
        content: The swarm.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self._under_way: dict[Link, trio.Event] = {}
        self.fetched = 0

    async def get(self, wanted: Input) -> Path:
        """Where an input lies, once it is here.

        Raises:
            TaskRefusedError: It is too large, is not what it was said to be, or nobody has it.
        """
        while (other := self._under_way.get(wanted.link)) is not None:
            await other.wait()
        done = self._under_way[wanted.link] = trio.Event()
        try:
            with trio.move_on_after(FETCH_DEADLINE + wanted.length / SLOWEST):
                return await self._fetch(wanted)
        except HivemindError as error:
            raise TaskRefusedError(f"its input could not be fetched: {error.message}") from error
        finally:
            del self._under_way[wanted.link]
            done.set()
        raise TaskRefusedError(f"its input of {wanted.length:,} bytes did not come in time")

    async def _fetch(self, wanted: Input) -> Path:
        if wanted.length > MOST_BYTES:
            raise TaskRefusedError(f"its input has {wanted.length:,} bytes, and {MOST_BYTES:,} are taken at most")
        files = await self._content.files(wanted.link)
        if len(files) != 1 or files[0].length != wanted.length:
            raise TaskRefusedError("its input is not the one file that it was said to be")
        path = await self._content.fetch(wanted.link)
        self.fetched += 1
        return path if path.is_file() else path / files[0].path
