"""Task types by name: the plug-ins that know how to run a payload."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

from hivemind_p2p import telemetry
from hivemind_p2p.errors import UnknownTaskTypeError
from hivemind_p2p.tasks import plugins

_events = telemetry.source("tasks")


class TaskType(Protocol):
    """A plug-in. It runs in the sandboxed child process only."""

    @property
    def name(self) -> str:
        """Name and version, for example ``function/1``."""

    def run(self, payload: memoryview) -> Any:
        """Runs to the end and returns a safe value. Whatever it raises is reported to the caller."""


def task_types() -> tuple[TaskType, ...]:
    """Every task type that this peer can run: its own and those of installed packages."""
    return _found()[0]


def problems() -> tuple[plugins.Problem, ...]:
    """The plug-ins that are installed and were left out, with the reason."""
    return _found()[1]


@cache
def task_type_names() -> tuple[str, ...]:
    """The names of the task types, as an offer lists them. Tells once of plug-ins that were left out."""
    for problem in problems():
        _events.warning("plugin_left_out", plugin=problem.plugin, reason=problem.reason)
    return tuple(task_type.name for task_type in task_types())


def forget() -> None:
    """Looks for plug-ins again when next asked; what is installed rarely changes while a peer runs."""
    _found.cache_clear()
    task_type_names.cache_clear()


@cache
def _found() -> tuple[tuple[TaskType, ...], tuple[plugins.Problem, ...]]:
    from hivemind_p2p.tasks.library import wasm
    from hivemind_p2p.tasks.library.bundle import BundleTask
    from hivemind_p2p.tasks.library.command import CommandTask
    from hivemind_p2p.tasks.library.function import FunctionTask
    from hivemind_p2p.tasks.library.mapping import MapTask

    built_in: tuple[TaskType, ...] = (FunctionTask(), MapTask(), CommandTask(), BundleTask())
    if wasm.is_here():
        built_in += (wasm.WasmTask(),)
    return plugins.load(built_in, plugins.installed())


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
