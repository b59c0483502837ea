"""Results that are too large for a channel, on the worker's side: shared in the swarm until their caller has them.

Participants: the session that a task came on; the swarm, which hashes the file and serves it from where it lies.
Goals: a file is gone as soon as its caller has said that it has it, or does not want it, or was given time enough to
fetch it, or is gone itself; whatever else happens, when the peer ends.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import HivemindError, TaskFailedError
from hivemind_p2p.interfaces import Content
from hivemind_p2p.tasks.inputs import FETCH_DEADLINE, SLOWEST
from hivemind_p2p.types import Link, Outcome

GRACE: Final = 60.0
"""Seconds beyond the time that fetching may take until a result is let go of."""

MOST_WAITING: Final = 64
"""Results of one caller that may wait for being fetched; the oldest makes room."""

_events = telemetry.source("tasks")


class Outputs:
    """The large results of one worker.

    Args:
        content: The swarm; None where nothing is shared.
    """

    def __init__(self, content: Content | None) -> None:
        self._content = content
        self._links: dict[str, Link] = {}

    def __len__(self) -> int:
        return len(self._links)

    async def share(self, outcome: Outcome) -> Link:
        """Shares the file of a result.

        Raises:
            HivemindError: It cannot be shared.
        """
        if self._content is None:
            raise TaskFailedError("this peer shares nothing")
        link = await self._content.share(Path(outcome.path))
        self._links[outcome.path] = link
        return link

    def let_go(self, outcome: Outcome) -> None:
        """Serves a result no more, and removes its file."""
        if not outcome.path:
            return
        link = self._links.pop(outcome.path, None)
        if link is None:
            _remove_file(outcome.path)
        else:
            # A system task, because the session that it came on may have ended.
            trio.lowlevel.spawn_system_task(self._remove, link, outcome.path)

    async def _remove(self, link: Link, path: str) -> None:
        try:
            assert self._content is not None
            with suppress(HivemindError):  # it goes all the same
                await self._content.remove(link)
        finally:
            _remove_file(path)


def _remove_file(path: str) -> None:
    Path(path).unlink(missing_ok=True)


@dataclass(slots=True)
class _Waiting:
    """A result that its caller is to fetch."""

    outcome: Outcome
    until: float
    drop: Callable[[], None] | None


class CallersOutputs:
    """Those of one session, by the numbers of their tasks. What is kept for a caller that may come back stays.

    Args:
        outputs: The worker's.
    """

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, number: int) -> bool:
        return number in self._waiting

    def add(self, number: int, outcome: Outcome, now: float, drop: Callable[[], None] | None) -> None:
        """A task has ended with such a result; `drop` is called in the end where something else keeps it."""
        until = now + 2 * FETCH_DEADLINE + GRACE + 2 * outcome.length / SLOWEST
        self._waiting[number] = _Waiting(outcome, until, drop)
        while len(self._waiting) > MOST_WAITING:
            self.let_go(next(iter(self._waiting)))

    async def share(self, number: int) -> Link | None:
        """Shares one; None where it was let go of meanwhile.

        Raises:
            HivemindError: It cannot be shared.
        """
        outcome = self._waiting[number].outcome
        link = await self._outputs.share(outcome)
        if number not in self._waiting:
            self._outputs.let_go(outcome)
            return None
        return link

    def let_go(self, number: int) -> None:
        """Its caller has it, or does not want it."""
        waiting = self._waiting.pop(number, None)
        if waiting is not None and waiting.drop is not None:
            waiting.drop()
        elif waiting is not None:
            self._outputs.let_go(waiting.outcome)

    def tidy(self, now: float) -> None:
        """Lets go of what was not fetched in time."""
        for number in [number for number, waiting in self._waiting.items() if now > waiting.until]:
            _events.warning("result_not_fetched", bytes=self._waiting[number].outcome.length)
            self._leave(number)

    def give_up(self) -> None:
        """The caller is gone."""
        for number in list(self._waiting):
            self._leave(number)

    def _leave(self, number: int) -> None:
        waiting = self._waiting.pop(number)
        if waiting.drop is None:
            self._outputs.let_go(waiting.outcome)
