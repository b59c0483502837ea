"""A map over very many items: they travel in chunks, and look like a job each.

How long a chunk should be is seen as results come: the first ones hold one item; from then on a chunk holds as many as
take `CHUNK_SECONDS`, fewer towards the end, so that all peers end at about the same time. A chunk whose peer ended it
(out of time or memory, crashed) is tried again item by item, so that only the culprit fails.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

from hivemind_p2p.errors import HivemindError, TaskError, UnsafeValueError, from_code
from hivemind_p2p.job import Job, JobList, new_job_id, wait_for
from hivemind_p2p.tasks.references import collecting
from hivemind_p2p.types import Credits, Needs, PeerId

if TYPE_CHECKING:
    from hivemind_p2p.task_methods import TaskMethods
    from hivemind_p2p.tasks.library.mapping import Raised

T = TypeVar("T")

MOST_SINGLE: Final = 256
"""Items that are sent one by one, whatever they are; of more it is worth while to see how long they take."""

CHUNK_SECONDS: Final = 0.1
"""What a chunk takes where items are tiny: some hundred times what it costs to send one."""

LONGEST_CHUNK: Final = 8192
"""Items in a chunk."""

GROWTH: Final = 16
"""Times that a chunk may be longer than any before: the first few items may be the quick ones."""

SHARES: Final = 3
"""Chunks that each peer should still get of what is left, so that none waits long for another at the end."""

MOST_CHUNKS: Final = 512
"""Chunks under way at a time, where items take long."""

_MISSING: Final = object()


class MappedJobs(Sequence[Job[T]], Generic[T]):
    """What `hive.map` gives back for very many items: their jobs, made when somebody asks for one.

    Args:
        tasks: How chunks are started.
        function: What is called with each item.
        items: The items.
        needs: What a call needs.
    """

    def __init__(
        self, tasks: TaskMethods, function: Callable[[Any], T], items: Sequence[Any], needs: Needs | None
    ) -> None:
        self._tasks = tasks
        self._function = function
        self._items = items
        self._needs = needs
        self._name = getattr(function, "__qualname__", type(function).__name__)
        self._values: list[Any] = [_MISSING] * len(items)
        self._errors: dict[int, BaseException] = {}
        self._views: dict[int, Job[T]] = {}
        self._chunks: dict[Job[Any], range] = {}
        self._again: deque[int] = deque()
        self._next = self._ended = 0
        self._longest = 1
        self._seconds: float | None = None
        self._seen: set[PeerId] = set()
        self._cost = 0
        self._cancelled = False
        # Chunks end on the trio thread, while the caller looks and cancels.
        self._lock = threading.RLock()
        self._over: Future[None] = Future()
        self._feed(MOST_SINGLE // 2)

    # -- sending -----------------------------------------------------------------------------------------------------

    def _feed(self, chunks: int) -> None:
        """Starts so many more chunks, if there is anything left."""
        for _ in range(chunks):
            with self._lock:
                places = self._next_places()
            if not places:
                return
            try:
                self._start(places)
            except HivemindError as error:
                self._fail(places, error)

    def _next_places(self) -> range:
        if self._cancelled:
            return range(0)
        if self._again:
            place = self._again.popleft()
            return range(place, place + 1)
        left = len(self._items) - self._next
        start = self._next
        self._next += min(left, self._length(left))
        return range(start, self._next)

    def _length(self, left: int) -> int:
        if self._seconds is None:
            return 1
        useful = CHUNK_SECONDS / max(self._seconds, 1e-7)
        share = left / (SHARES * max(1, len(self._seen)))
        length = max(1, int(min(useful, share, LONGEST_CHUNK, GROWTH * self._longest)))
        self._longest = max(self._longest, length)
        return length

    def _start(self, places: range) -> None:
        from hivemind_p2p.task_methods import MAP, spec_of
        from hivemind_p2p.tasks.library.mapping import pack

        options = self._tasks.options
        with collecting() as inputs:
            shared, payload = pack(self._function, self._items[places.start : places.stop])
        job: Job[Any] = Job(new_job_id(), self._name)
        spec = spec_of(job.id, MAP, payload, options, self._needs, shared, inputs)
        with self._lock:
            self._chunks[job] = places
        job.add_done_callback(self._chunk_ended)
        self._tasks.launch(job, spec, options)

    # -- what comes back ---------------------------------------------------------------------------------------------

    def _chunk_ended(self, future: Future[Any]) -> None:
        assert isinstance(future, Job)
        with self._lock:
            places = self._chunks.pop(future, range(0))
        if future.cancelled() or not places:
            return
        error = future.exception()
        try:
            if error is None:
                self._take(places, future)
                return
        except HivemindError as wrong:
            error = wrong
        if len(places) > 1 and isinstance(error, TaskError):
            with self._lock:
                self._again.extend(places)
                self._longest = 1
            self._feed(len(places))
        else:
            self._fail(places, error)
            self._feed(1)

    def _take(self, places: range, job: Job[Any]) -> None:
        from hivemind_p2p.tasks.library.mapping import read

        values, raised = read(job.result(timeout=0), len(places))
        with self._lock:
            self._values[places.start : places.stop] = values
            for each in raised:
                self._errors[places.start + each.place] = _error_of(each, job)
            self._learn(places, job)
            under_way = len(self._chunks)
        self._tell_views(places, job)
        self._count(len(places))
        # Long items: as many chunks as there may be, so that every cpu of the hive has one.
        self._feed(2 if under_way < MOST_CHUNKS and self._longest == 1 else 1)

    def _learn(self, places: range, job: Job[Any]) -> None:
        seconds = job.wall_seconds / len(places)
        self._cost += job.cost_in_millionths
        if job.peer is not None:
            self._seen.add(job.peer)
        known = self._seconds
        self._seconds = seconds if known is None or seconds > known else 0.5 * known + 0.5 * seconds

    def _fail(self, places: range, error: BaseException) -> None:
        with self._lock:
            for place in places:
                self._errors[place] = error
                self._values[place] = None
        self._tell_views(places, None)
        self._count(len(places))

    def _tell_views(self, places: range, job: Job[Any] | None) -> None:
        with self._lock:
            views = [(place, self._views[place]) for place in places if place in self._views]
        for place, view in views:
            self._tell(place, view, job)

    def _tell(self, place: int, view: Job[T], job: Job[Any] | None) -> None:
        if place in self._errors:
            view.fail(self._errors[place])
        else:
            peer = (job.peer if job is not None else None) or PeerId("")
            view.complete(self._values[place], peer=peer, cost=Credits(0))

    def _count(self, ended: int) -> None:
        with self._lock:
            self._ended += ended
            over = self._ended >= len(self._items) or bool(self._errors)
            tell = over and not self._over.done()
            if tell:
                self._over.set_running_or_notify_cancel()
        if tell:
            self._over.set_result(None)

    # -- for the caller ----------------------------------------------------------------------------------------------

    @property
    def over(self) -> Future[None]:
        """Done once every item is, or one has failed, or all were cancelled."""
        return self._over

    def results(self, timeout: float | None = None) -> list[T]:
        """The results in order; raises the first error there was, and cancels the rest.

        Raises:
            TimeoutError: Some item is not done after `timeout` seconds; the work goes on.
        """
        try:
            self._over.result(timeout)
        except TimeoutError:
            left = len(self) - self._ended
            raise TimeoutError(f"{left} of {len(self)} jobs are not done after {timeout} s") from None
        except KeyboardInterrupt:
            self.cancel()
            raise
        return self._outcome()

    def _outcome(self) -> list[T]:
        if self._cancelled and self._ended < len(self):
            from concurrent.futures import CancelledError

            raise CancelledError
        if self._errors:
            self.cancel()
            raise self._errors[min(self._errors)]
        return list(self._values)

    def cancel(self) -> int:
        """Cancels what is not done and returns how many those were."""
        with self._lock:
            self._cancelled = True
            chunks, left = list(self._chunks), len(self) - self._ended
            views = [view for view in self._views.values() if not view.done()]
            tell = not self._over.done()
            if tell:
                self._over.set_running_or_notify_cancel()
        for job in (*chunks, *views):
            job.cancel()
        if tell:
            self._over.set_result(None)
        return left

    def __await__(self) -> Generator[Any, Any, list[T]]:
        return self._gather().__await__()

    async def _gather(self) -> list[T]:
        try:
            await wait_for(self._over)
        except BaseException:
            self.cancel()
            raise
        return self._outcome()

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> Job[T]: ...

    @overload
    def __getitem__(self, place: slice) -> list[Job[T]]: ...

    def __getitem__(self, place: int | slice) -> Job[T] | list[Job[T]]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        index = range(len(self))[place]
        with self._lock:
            view = self._views.get(index)
            if view is not None:
                return view
            view = self._views[index] = Job(new_job_id(), self._name)
            there = self._values[index] is not _MISSING
            cancelled = self._cancelled
        if there:
            self._tell(index, view, None)
        elif cancelled:
            view.cancel()
        return view

    def __iter__(self) -> Iterator[Job[T]]:
        return (self[place] for place in range(len(self)))

    def __repr__(self) -> str:
        failed = f", {len(self._errors)} failed" if self._errors else ""
        return f"<JobList of {len(self)}: {self._ended - len(self._errors)} completed{failed}>"

    def _repr_html_(self) -> str:
        from hivemind_p2p.notebook.reprs import jobs_html

        return jobs_html(self)


Jobs = JobList[T] | MappedJobs[T]
"""What a map gives back."""


def _error_of(raised: Raised, job: Job[Any]) -> BaseException:
    from hivemind_p2p.tasks.raised import failed
    from hivemind_p2p.tasks.wire import printable

    message = f"on peer {job.peer}: {printable(raised.message)}"
    if raised.exception == UnsafeValueError.code():
        return from_code(raised.exception, message)
    return failed(message, raised.exception, printable(raised.remote_traceback))
