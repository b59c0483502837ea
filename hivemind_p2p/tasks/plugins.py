"""Task types that other packages bring: how one is written, and how an installed one is found.

A package names what it brings in the entry-point group ``hivemind_p2p.tasks``:

    [project.entry-points."hivemind_p2p.tasks"]
    word-count = "word_count:count"

and writes it as a function of the payload, or as a class with a method ``run``:

    import hivemind_p2p as hm

    @hm.task_type("word-count/1")
    def count(payload: memoryview) -> int:
        return len(bytes(payload).split())

The decorator registers nothing: what a peer can run follows from what is installed there, for the sandboxed child has
to find it too. Whoever installs a package on a peer trusts it; a payload is trusted by nobody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final

from hivemind_p2p.errors import TaskTypeError

if TYPE_CHECKING:
    from hivemind_p2p.tasks.registry import TaskType

GROUP: Final = "hivemind_p2p.tasks"
"""The entry-point group."""

LONGEST_NAME: Final = 60
"""Characters of a name with its version. An offer carries every name, and a record has little room."""

MOST_PLUGINS: Final = 32
"""Task types from other packages that a peer loads, for the same reason."""

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:[._-][a-z0-9]+)*/[1-9][0-9]{0,3}")


@dataclass(frozen=True, slots=True)
class Problem:
    """A plug-in that was left out.

    Attributes:
        plugin: Its entry point, as ``name = module:attribute``.
        reason: Why it was left out.
    """

    plugin: str
    reason: str


@dataclass(frozen=True, slots=True)
class _FromFunction:
    """A task type whose `run` is one function."""

    name: str
    function: Callable[[memoryview], Any]

    def run(self, payload: memoryview) -> Any:
        return self.function(payload)


def check_name(name: object) -> str:
    """Returns a task type's name if it is one: lower-case words and a version, ``word-count/1``.

    Raises:
        TaskTypeError: It is none.
    """
    if not isinstance(name, str):
        raise TaskTypeError(f"the name of a task type is text, not {type(name).__name__}")
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise TaskTypeError(f"{name[: LONGEST_NAME + 1]!r} cannot be the name of a task type")
    return name


def task_type(name: str) -> Callable[[Any], Any]:
    """A decorator that makes a task type of a function of the payload, or of a class with a method ``run``.

    Args:
        name: Name and version, for example ``word-count/1``.

    Raises:
        TaskTypeError: The name cannot be one, or what is decorated can run nothing.
    """
    check_name(name)

    def decorate(subject: Any) -> Any:
        if isinstance(subject, type):
            if not callable(getattr(subject, "run", None)):
                raise TaskTypeError(f"{subject.__name__}, the task type {name!r}, has no method run(payload)")
            subject.name = name  # type: ignore[attr-defined]
            return subject
        if not callable(subject):
            raise TaskTypeError(f"{subject!r}, the task type {name!r}, cannot be called")
        return _FromFunction(name, subject)

    return decorate


def load(built_in: Iterable[TaskType], found: Iterable[EntryPoint]) -> tuple[tuple[TaskType, ...], tuple[Problem, ...]]:
    """Adds the plug-ins among `found` to the built-in task types; says what was left out, and why.

    A built-in name cannot be taken over; of two plug-ins with one name the first by entry point stays, so that every
    process of a peer makes the same choice.
    """
    known = {task_type.name: task_type for task_type in built_in}
    problems: list[Problem] = []
    loaded = 0
    for entry in sorted(found, key=lambda entry: (entry.name, entry.value)):
        plugin = f"{entry.name} = {entry.value}"
        if loaded == MOST_PLUGINS:
            problems.append(Problem(plugin, f"a peer loads {MOST_PLUGINS} plug-ins at most"))
            continue
        made = _load_one(entry)
        if isinstance(made, str):
            problems.append(Problem(plugin, made))
        elif made.name in known:
            problems.append(Problem(plugin, f"there is a task type {made.name!r} already"))
        else:
            known[made.name] = made
            loaded += 1
    return tuple(known.values()), tuple(problems)


def installed() -> tuple[EntryPoint, ...]:
    """What the installed packages name in the group."""
    return tuple(entry_points(group=GROUP))


def _load_one(entry: EntryPoint) -> TaskType | str:
    """The task type of an entry point, or why there is none."""
    try:
        subject = entry.load()
        made: TaskType = subject() if isinstance(subject, type) else subject
        check_name(made.name)
        can_run = callable(made.run)
    except (Exception, SystemExit) as error:  # other people's code: whatever it raises, the peer goes on without it
        return f"{type(error).__name__}: {error}"[:500]
    return made if can_run else "its run cannot be called"
