"""Keeps the screen at what is going on, reads the keys, and puts the terminal back when it is over."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio
from rich.console import Console
from rich.live import Live

from hivemind_p2p import telemetry
from hivemind_p2p.errors import HivemindError
from hivemind_p2p.peer import Peer
from hivemind_p2p.running.screen import Screen
from hivemind_p2p.running.view import View, Watcher

INTERVAL: Final = 1.0
"""Seconds between two pictures: a few milliseconds of work each."""

SECONDS_BETWEEN_BALANCES: Final = 15.0
SECONDS_BETWEEN_GPUS: Final = 5.0

_events = telemetry.source("screen")


def has_screen() -> bool:
    """Whether somebody can look: both ends of the terminal are one, and it is not a dumb one."""
    console = Console()
    return sys.stdout.isatty() and not console.is_dumb_terminal


@asynccontextmanager
async def shown(peer: Peer, leave: Callable[[], None]) -> AsyncIterator[None]:
    """Shows a peer for the time of the block.

    Args:
        peer: Which.
        leave: Called when the user says so with a key.
    """
    watcher = Watcher(peer, trio.current_time())
    console = Console()
    with telemetry.listening(watcher.note), _keys_at_once() as keys:
        live = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")
        picture = _Picture(live, watcher, keys=keys)
        with live:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(picture.keep)
                nursery.start_soon(_ask_for_the_balance, peer, watcher)
                nursery.start_soon(_look_at_gpus, watcher)
                if keys:
                    nursery.start_soon(_read_keys, peer, leave, picture.now)
                yield
                nursery.cancel_scope.cancel()


class _Picture:
    """Draws at fixed times, and at once where something was done."""

    def __init__(self, live: Live, watcher: Watcher, *, keys: bool) -> None:
        self._live = live
        self._watcher = watcher
        self._keys = keys
        self._changed = trio.Event()

    def now(self) -> None:
        """Draws soon."""
        self._changed.set()

    async def keep(self) -> None:
        """Until it is cancelled."""
        while True:
            self._changed = trio.Event()
            view: View = self._watcher.look(trio.current_time())
            self._live.update(Screen(view, keys=self._keys), refresh=True)
            with trio.move_on_after(INTERVAL):
                await self._changed.wait()


async def _ask_for_the_balance(peer: Peer, watcher: Watcher) -> None:
    while peer.accounts is not None:
        try:
            watcher.balance = (await peer.accounts.balance()).available
        except HivemindError as error:
            _events.debug("no_balance", reason=error.message)  # the next round tries again
        await trio.sleep(SECONDS_BETWEEN_BALANCES)


async def _look_at_gpus(watcher: Watcher) -> None:
    while True:
        await watcher.reporter.look_at_gpus()
        if not watcher.reporter.has_gpus:
            return
        await trio.sleep(SECONDS_BETWEEN_GPUS)


async def _read_keys(peer: Peer, leave: Callable[[], None], changed: Callable[[], None]) -> None:
    while True:
        await trio.lowlevel.wait_readable(sys.stdin)
        pressed = os.read(sys.stdin.fileno(), 64)
        if not pressed:
            return  # the terminal is gone
        for key in pressed.decode(errors="replace").lower():
            if key == "q":
                leave()
            elif key == "p" and peer.lending is not None:
                paused = peer.lending.statistics().state == "paused"
                await peer.lending.told("resume" if paused else "pause")
        changed()


@contextmanager
def _keys_at_once() -> Iterator[bool]:
    """Keys come as they are pressed and are not shown; whether there are any at all."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield False
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield True
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
