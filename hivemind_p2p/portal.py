"""The bridge from synchronous code (a notebook cell, a script) to the trio loop that peers live in.

One background thread a process runs trio for as long as the process lives; `Portal.call` runs an async function
there and waits for it. A notebook's own event loop (asyncio) is never touched. A KeyboardInterrupt while waiting
cancels what was waited for, so that Ctrl-C in a cell stops the remote work as well.

The thread is a daemon and hives are closed by an `atexit` hook: an interpreter that forgets to close its hive
still ends, and still says goodbye to its peers.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import trio

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

T = TypeVar("T")
U = TypeVar("U")

_START_DEADLINE = 30.0
"""Seconds for the thread to come up; it takes milliseconds, even on a machine that swaps."""


class Portal:
    """Runs async functions on the background trio thread."""

    def __init__(self) -> None:
        ready: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(target=_run_trio, args=(ready,), name="hivemind_p2p trio", daemon=True)
        self._thread.start()
        self._portal = ready.result(_START_DEADLINE)

    @property
    def is_here(self) -> bool:
        """Whether this is the trio thread, where nothing may wait."""
        return threading.current_thread() is self._thread

    def start(self, function: Callable[..., Awaitable[T]], *args: Any) -> Future[T]:
        """Starts `function` on the trio thread; cancelling the future cancels the task."""
        return self._portal.start_task_soon(function, *args)

    def call(self, function: Callable[..., Awaitable[T]], *args: Any, timeout: float | None = None) -> T:
        """Runs `function` on the trio thread and returns what it returns.

        Raises:
            TimeoutError: It took longer than `timeout` seconds; the task was cancelled.
            RuntimeError: It was called from the trio thread itself, which would wait for itself forever.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("this is the trio thread: await the async method, do not call the synchronous one")
        with self._cancelling(function) as cancellable:
            return self.start(cancellable, *args).result(timeout)

    @contextmanager
    def _cancelling(self, function: Callable[..., Awaitable[T]]) -> Iterator[Callable[..., Awaitable[T]]]:
        """`function`, which is cancelled if the block ends with an error: a timeout, or Ctrl-C in the waiting thread.

        The scope is made before the task is started: Ctrl-C can come at any moment, also between the start of the
        task and the return of `start` with its future.
        """
        scope = trio.CancelScope()

        async def cancellable(*args: Any) -> T:
            with scope:
                return await function(*args)
            raise CancelledError

        try:
            yield cancellable
        except BaseException:
            with suppress(RuntimeError):  # the portal has ended, and everything in it
                self._portal.start_task_soon(scope.cancel)
            raise

    def call_watched(self, function: Callable[[Callable[[U], None]], Awaitable[T]], show: Callable[[U], None]) -> T:
        """Like `call`, for a function that reports progress: `show` runs here, in the thread that waits.

        Widgets may only be touched from the kernel's thread, which is why `show` never runs on the trio thread.
        """
        reports: SimpleQueue[tuple[U] | None] = SimpleQueue()
        with self._cancelling(function) as cancellable:
            future = self.start(cancellable, lambda report: reports.put((report,)))
            future.add_done_callback(lambda _: reports.put(None))
            while (report := reports.get()) is not None:
                show(report[0])
            return future.result()

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """Iterates over an async iterator from outside; leaving the loop early closes it."""
        return _Bridge(self, items)

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ends the thread; used when the process ends."""
        try:
            self._portal.start_task_soon(self._portal.stop, True)
        except RuntimeError:
            return  # it has ended already
        self._thread.join(timeout=5.0)


class _Bridge(Iterator[T]):
    """Pulls one item at a time.

    `items` must allow `__anext__` from different tasks: no async generator, as one with a cancel scope inside breaks
    when its steps run in different tasks.
    """

    def __init__(self, portal: Portal, items: AsyncIterator[T]) -> None:
        self._portal = portal
        self._iterator: AsyncIterator[T] | None = items

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._iterator is None:
            raise StopIteration
        try:
            return self._portal.call(self._iterator.__anext__)
        except StopAsyncIteration:
            self._iterator = None
            raise StopIteration from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the iteration on the other side, too."""
        iterator, self._iterator = self._iterator, None
        close = getattr(iterator, "aclose", None)
        if close is not None:
            self._portal.call(close)

    def __del__(self) -> None:
        # Left by `break`: the generation on the peers has to end, but nobody waits for it here.
        close = getattr(self._iterator, "aclose", None)
        if close is not None and self._portal.alive:
            self._portal.start(close)


def _run_trio(ready: Future[BlockingPortal]) -> None:
    import anyio

    anyio.run(_serve, ready, backend="trio")


async def _serve(ready: Future[BlockingPortal]) -> None:
    from anyio.from_thread import BlockingPortal

    async with BlockingPortal() as portal:
        ready.set_result(portal)
        await portal.sleep_until_stopped()


_lock = threading.Lock()
_shared: Portal | None = None
_closers: list[Callable[[], None]] = []


def shared() -> Portal:
    """The one portal of this process, started on first use."""
    global _shared  # noqa: PLW0603 - one background loop a process is the point
    with _lock:
        if _shared is None:
            _shared = Portal()
            atexit.register(_at_exit)
        return _shared


def close_at_exit(closer: Callable[[], None]) -> Callable[[], None]:
    """Calls `closer` when the interpreter ends; returns a function that takes this back."""
    _closers.append(closer)

    def forget() -> None:
        if closer in _closers:
            _closers.remove(closer)

    return forget


def _at_exit() -> None:
    while _closers:
        _closers.pop()()
    if _shared is not None:
        _shared.stop()
