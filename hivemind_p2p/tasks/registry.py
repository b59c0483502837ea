"""Task types by name: the plug-ins that know how to run a payload."""

from __future__ import annotations

from typing import Any, Protocol

from hivemind_p2p.errors import UnknownTaskTypeError


class TaskType(Protocol):
    """A plug-in. It runs in the sandboxed child process only."""

    @property
    def name(self) -> str:
        """Name and version, for example ``function/1``."""

    def run(self, payload: memoryview) -> Any:
        """Runs to the end and returns a safe value. Whatever it raises is reported to the caller."""


def task_types() -> tuple[TaskType, ...]:
    """Every task type that this version knows."""
    from hivemind_p2p.tasks.library.function import FunctionTask

    return (FunctionTask(),)


def task_type_names() -> tuple[str, ...]:
    """The names of the task types, as an offer lists them."""
    return tuple(task_type.name for task_type in task_types())


def task_type(name: str) -> TaskType:
    """The task type of this name.

    Raises:
        UnknownTaskTypeError: There is none.
    """
    for known in task_types():
        if known.name == name:
            return known
    raise UnknownTaskTypeError(
        f"there is no task type {name!r}", hint=f"This peer knows {', '.join(task_type_names())}."
    )
