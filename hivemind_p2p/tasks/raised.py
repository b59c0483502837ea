"""The error of a function that raised elsewhere, as an error that reads, and can be caught, as if it had raised here.

What comes back of an exception is text, and the name of the closest builtin class. The error that is raised here is a
`TaskFailedError` and of that builtin class as well: ``except ZeroDivisionError`` catches it. No class of the peer's is
looked up or called, and builtin ones get nothing but the message.
"""

from __future__ import annotations

import builtins
from functools import cache
from typing import Final

from hivemind_p2p.errors import TaskFailedError

_NEVER: Final = frozenset((Exception, StopIteration, StopAsyncIteration))
"""The first says nothing, and the others would steer loops here."""


def closest_builtin(error: BaseException) -> str:
    """The name of the first builtin class among those that an exception is of."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")


def failed(message: str, exception: str = "", remote_traceback: str = "") -> TaskFailedError:
    """The error of a task that raised.

    Args:
        message: One sentence, with the peer.
        exception: The name of a builtin class, as a peer says; another name stands for nothing.
        remote_traceback: The traceback as text.
    """
    kind = _class_for(exception) if hasattr(builtins, exception) else TaskFailedError
    return kind(message, remote_traceback=remote_traceback)


@cache
def _class_for(exception: str) -> type[TaskFailedError]:
    kind = getattr(builtins, exception, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return TaskFailedError
    for base in kind.__mro__:
        if base in _NEVER or not issubclass(base, Exception):
            continue
        members = {"__module__": "builtins", "code": TaskFailedError.code}
        try:
            made: type[TaskFailedError] = type(kind.__name__, (TaskFailedError, base), members)
            made("")
        except TypeError:
            continue  # it cannot be made of a message alone, such as UnicodeDecodeError
        return made
    return TaskFailedError
