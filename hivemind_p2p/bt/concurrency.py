"""Small helpers around trio that the swarm's shells share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol, TypeVar

import trio

from hivemind_p2p.errors import DeadlineExceededError
from hivemind_p2p.interfaces import Channel

T = TypeVar("T")

_CLOSING = 1.0  # seconds that closing a channel may take while everything else is being cancelled


class RunSync(Protocol):
    """Runs something that blocks without blocking the other tasks."""

    async def __call__(self, function: Callable[[], T], /) -> T:
        """What `function` returns."""


async def in_thread(function: Callable[[], T], /) -> T:
    """Runs it in a worker thread. What production uses."""
    return await trio.to_thread.run_sync(function)


async def inline(function: Callable[[], T], /) -> T:
    """Runs it on the spot: for tests, where a mock clock would jump ahead while a thread works."""
    await trio.lowlevel.checkpoint()
    return function()


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Gives what is awaited inside a deadline.

    Raises:
        DeadlineExceededError: It took longer.
    """
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError as error:
        raise DeadlineExceededError(f"{what} took longer than {seconds:.0f} seconds") from error


@asynccontextmanager
async def nursery_of_one() -> AsyncIterator[trio.Nursery]:
    """A nursery that raises the first error of its tasks as it is, not wrapped in a group."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    for error in group.exceptions:
        found = _first(error) if isinstance(error, BaseExceptionGroup) else error
        if not isinstance(found, trio.Cancelled):
            return found
    return group


async def close(channel: Channel) -> None:
    """Closes a channel, also from a task that is being cancelled."""
    with trio.CancelScope(shield=True) as scope:
        scope.deadline = trio.current_time() + _CLOSING
        await channel.aclose()


__all__ = ["RunSync", "close", "in_thread", "inline", "nursery_of_one", "within"]
