"""Work that must not be cut off in the middle, for callers that may be cancelled.

A cancelled libp2p write leaves half a frame on a connection that many streams share. So whatever writes runs in a
task of its own, to its end, and the caller only waits for it: a cancelled caller leaves at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

ResultType = TypeVar("ResultType")


class _Job(Generic[ResultType]):
    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: list[ResultType] = []
        self.error: Exception | None = None
        self.abandoned = False


class Background:
    """Starts tasks that outlive their callers; a closed one starts nothing any more."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._closed = False

    def close(self) -> None:
        """Cancels everything that still runs."""
        self._closed = True
        self._nursery.cancel_scope.cancel()

    def start(self, work: Callable[[], Awaitable[object]]) -> bool:
        """Starts work that deals with its own errors; False if this was closed before."""
        if self._closed:
            return False
        self._nursery.start_soon(work)
        return True

    async def complete(
        self,
        work: Callable[[], Awaitable[ResultType]],
        *,
        unwanted: Callable[[ResultType], Awaitable[object]] | None = None,
    ) -> ResultType:
        """Runs `work` to its end, also when the caller is cancelled meanwhile.

        Args:
            work: What to do. What it raises is raised here, or dropped if the caller has gone.
            unwanted: Disposes of a result that the caller is no longer there to take.

        Raises:
            trio.ClosedResourceError: This was closed before, or while the work ran.
        """
        job: _Job[ResultType] = _Job()

        async def run() -> None:
            try:
                job.result.append(await work())
            except Exception as error:
                job.error = error
            finally:
                job.done.set()
            if job.abandoned and job.result and unwanted is not None:
                await unwanted(job.result[0])

        if not self.start(run):
            raise trio.ClosedResourceError("the transport is closed")
        try:
            await job.done.wait()
        except BaseException:
            job.abandoned = True
            if job.result and unwanted is not None:
                result = job.result[0]
                self.start(lambda: unwanted(result))
            raise
        if job.error is not None:
            raise job.error
        if not job.result:
            raise trio.ClosedResourceError("the transport was closed")
        return job.result[0]
