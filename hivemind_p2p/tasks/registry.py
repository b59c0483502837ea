"""Task types by name: the plug-ins that know how to run a payload."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

from hivemind_p2p import telemetry
from hivemind_p2p.errors import UnknownTaskTypeError

if TYPE_CHECKING:
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
    _built_in.cache_clear()
    task_type_names.cache_clear()


@cache
def _found() -> tuple[tuple[TaskType, ...], tuple[plugins.Problem, ...]]:
    from hivemind_p2p.tasks import plugins

    built_in = [found for name in _BUILT_IN if (found := _built_in(name)) is not None]
    return plugins.load(tuple(built_in), plugins.installed())


_BUILT_IN: Final = {
    "function/1": ("function", "FunctionTask"),
    "map/1": ("mapping", "MapTask"),
    "command/1": ("command", "CommandTask"),
    "bundle/1": ("bundle", "BundleTask"),
    "wasm/1": ("wasm", "WasmTask"),
}
"""Task types that every peer knows, and where they are: a child imports only those that it is asked for."""


@cache
def _built_in(name: str) -> TaskType | None:
    """A task type of this package; None where it lacks what it runs on."""
    module, kind = _BUILT_IN[name]
    home = importlib.import_module(f"hivemind_p2p.tasks.library.{module}")
    found: TaskType | None = getattr(home, kind)() if getattr(home, "is_here", _yes)() else None
    return found


def _yes() -> bool:
    return True


def task_type(name: str) -> TaskType:
    """The task type of this name.

    Raises:
        UnknownTaskTypeError: There is none.
    """
    if name in _BUILT_IN and (built_in := _built_in(name)) is not None:
        return built_in  # without a look at all that is installed, which takes longer than most tasks
    for known in task_types():
        if known.name == name:
            return known
    raise UnknownTaskTypeError(
        f"there is no task type {name!r}", hint=f"This peer knows {', '.join(task_type_names())}."
    )
