"""Functions that say of themselves how they run on a hive.

@hm.remote(priority="high")
def square(number):
return number * number

square(7)                    # here
square.submit(7).result()    # on some peer
square.map(range(100))       # on many
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from hivemind_p2p.current import current_hive

if TYPE_CHECKING:
    from hivemind_p2p.job import Job
    from hivemind_p2p.mapped_jobs import Jobs
    from hivemind_p2p.task_methods import TaskMethods

P = ParamSpec("P")
T = TypeVar("T")


class RemoteFunction(Generic[P, T]):
    """A function that can be called here, and submitted to a hive.

    Args:
        function: The function.
        options: How it is run; those of `hivemind_p2p.Options`, by name.
        hive: Where; the hive that was opened last unless one is named.
    """

    def __init__(self, function: Callable[P, T], options: dict[str, Any], hive: TaskMethods | None = None) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._options = options
        self._hive = hive

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls it here."""
        return self._function(*args, **kwargs)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Job[T]:
        """Starts it on some peer."""
        job: Job[T] = self._tasks.submit(self._function, *args, **kwargs)  # type: ignore[arg-type]
        return job

    def map(self, items: Iterable[Any]) -> Jobs[T]:
        """Starts it for each item."""
        jobs: Jobs[T] = self._tasks.map(self._function, items)
        return jobs

    def with_options(self, **options: Any) -> RemoteFunction[P, T]:
        """The same function with other options."""
        return RemoteFunction(self._function, self._options | options, self._hive)

    @property
    def _tasks(self) -> TaskMethods:
        hive = self._hive or current_hive()
        return hive.with_options(**self._options) if self._options else hive

    def __reduce__(self) -> tuple[Any, ...]:
        # A peer has no hive: what another function calls by this name runs where that function runs.
        return RemoteFunction, (self._function, self._options)


@overload
def remote(function: Callable[P, T], /) -> RemoteFunction[P, T]: ...


@overload
def remote(**changes: Any) -> Callable[[Callable[P, T]], RemoteFunction[P, T]]: ...


def remote(function: Callable[..., Any] | None = None, /, **changes: Any) -> Any:
    """Makes a function one that can be submitted: ``@hm.remote`` or ``@hm.remote(priority="high")``.

    Args:
        function: The function.
        **changes: How it is run, by the names of `hivemind_p2p.Options`.
    """
    if function is None:
        return lambda decorated: RemoteFunction(decorated, changes)
    return RemoteFunction(function, changes)
