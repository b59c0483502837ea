"""The task type ``map/1``: one Python function over many items, for where a call takes less time than a message.

Shared, or packed with the items, is the function; the payload is a pickle of the items. The result is a list of two:
the encoded list of values, and what was raised, by place, since one item that fails must not take the others with it.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from hivemind_p2p.errors import ProtocolError, UnsafeValueError
from hivemind_p2p.tasks import values
from hivemind_p2p.tasks.library import function as functions
from hivemind_p2p.tasks.library.packing import shared_part
from hivemind_p2p.tasks.raised import closest_builtin
from hivemind_p2p.tasks.reading import decode
from hivemind_p2p.types import SharedPart

NAME: Final = "map/1"

MAX_TEXT: Final = 32_000
"""Characters of a traceback that come back; of a longer one the end counts."""

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class MapTask:
    """Runs what `pack` packed."""

    name = NAME

    def __init__(self) -> None:
        self._functions = functions.FunctionTask()

    def run(self, payload: memoryview) -> list[Any]:
        """Unpickles function and items. In the sandboxed child only."""
        function, items = pickle.loads(payload)  # noqa: S301 - the sandbox is the place where this is done
        return _each(function, items)

    def run_shared(self, shared: bytes, payload: memoryview) -> list[Any]:
        """The same for a function that came apart from the items."""
        items = pickle.loads(payload)  # noqa: S301 - as above
        return _each(self._functions.unpacked(shared), items)


def pack(function: Callable[[Any], Any], items: Sequence[Any]) -> tuple[SharedPart | None, bytes]:
    """A chunk of a map: the part that is the same for each chunk, if there is one, and the payload.

    Raises:
        NotSerializableError: Something cannot be pickled, or it is larger than a task can be.
    """
    part = shared_part(function)
    if part is None:
        return None, functions.pack_value((function, list(items)), function, items)
    return part, functions.pack_value(list(items), function, items)


def _each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """``[encoded values, raised]``; in `raised` rows of place, message, builtin class, traceback."""
    results: list[Any] = []
    raised: list[list[Any]] = []
    for place, item in enumerate(items):
        try:
            results.append(function(item))
        except Exception as error:
            results.append(None)
            raised.append(_row(place, error))
    return [_encoded(results, raised), raised]


def _encoded(results: list[Any], raised: list[list[Any]]) -> bytes:
    """The values, but for those that cannot travel."""
    try:
        return values.encode(results)
    except UnsafeValueError:
        pass
    for place, value in enumerate(results):
        try:
            values.encode(value)
        except UnsafeValueError as error:
            results[place] = None
            raised.append([place, error.message, UnsafeValueError.code(), ""])
    return values.encode(results)


@dataclass(frozen=True, slots=True)
class Raised:
    """What one item raised, as a peer says."""

    place: int
    message: str
    exception: str
    remote_traceback: str


def read(result: Any, count: int) -> tuple[list[Any], list[Raised]]:
    """The values and errors of a chunk, as a peer sent them: so many values.

    Raises:
        ProtocolError: That is no result of a chunk.
    """
    if not (isinstance(result, list) and [type(part) for part in result] == [bytes, list]):
        raise ProtocolError("a peer answered a chunk of a map with something else")
    found = decode(result[0])
    raised = [_read_row(row, count) for row in result[1]]
    if not isinstance(found, list) or len(found) != count:
        raise ProtocolError("a peer answered a chunk of a map with another number of values")
    return found, raised


def _read_row(row: Any, count: int) -> Raised:
    if isinstance(row, list) and [type(part) for part in row] == [int, str, str, str] and 0 <= row[0] < count:
        return Raised(*row)
    raise ProtocolError("a peer answered a chunk of a map with errors that are none")


def _row(place: int, error: Exception) -> list[Any]:
    where = error.__traceback__
    while where is not None and where.tb_frame.f_code.co_filename.startswith(os.path.join(_PACKAGE, "tasks", "")):
        where = where.tb_next
    return [place, _describe(error), closest_builtin(error), _plain(_text(error, where))]


def _text(error: Exception, where: TracebackType | None) -> str:
    return "".join(traceback.format_exception(type(error), error, where))[-MAX_TEXT:]


def _describe(error: Exception) -> str:
    return _plain("".join(traceback.format_exception_only(type(error), error)).strip()[:2000])


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
