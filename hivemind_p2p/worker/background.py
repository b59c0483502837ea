"""Tasks that live as long as a context manager.

A nursery around the manager's block would wrap the block's own errors; these run beside it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Self

import trio

from hivemind_p2p import telemetry

_events = telemetry.source("executor")


class Background:
    """Made by `begin`; ended by `end`, which cancels what runs and waits for it."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery
        self._ended = trio.Event()

    @classmethod
    async def begin(cls) -> Self:
        """Starts it."""
        background, ready = cls(), trio.Event()
        trio.lowlevel.spawn_system_task(background._live, ready)
        await ready.wait()
        return background

    async def _live(self, ready: trio.Event) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                ready.set()
                await trio.sleep_forever()
        finally:
            self._ended.set()

    def start(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Starts a task; what it raises is told and harms no other."""
        if not self._ended.is_set():
            self._nursery.start_soon(_guarded, function, *args)

    async def end(self) -> None:
        """Cancels everything."""
        self._nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()


async def _guarded(function: Callable[..., Awaitable[None]], *args: Any) -> None:
    try:
        await function(*args)
    except Exception as error:
        _events.error("background_task_failed", task=getattr(function, "__qualname__", ""), exc_info=error)
