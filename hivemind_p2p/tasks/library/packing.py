"""Packing a function once for many calls: its bytes are kept for as long as nothing that went into them can differ.

A function that travels by value takes along what it refers to. Where all of that is fixed (numbers, texts, installed
modules and what they define, other functions of which the same is true), the packed bytes are the same each time, and
a peer may keep the unpacked function too: no call can leave anything behind in it. Where something of it could change
(a list, an object of a local class), function and arguments are packed together for each call.

That nothing differs is looked up at each call, name by name: a function whose global variable was given another value
is packed anew.
"""

from __future__ import annotations

import dis
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, Final
from weakref import WeakKeyDictionary

from hivemind_p2p.tasks.library import function as whole
from hivemind_p2p.types import SharedPart

MOST_NAMES: Final = 200
"""Names that a function may refer to: each is looked up at each call."""

MOST_PARTS: Final = 256
"""Parts of arguments that are looked at before the slower way of packing is taken."""

_FIXED: Final = (int, float, complex, str, bytes, bool, type(None), type(Ellipsis))
_PLAIN: Final = frozenset((int, float, complex, str, bytes, bool, type(None)))
_MISSING: Final = object()
_WRITES: Final = frozenset(("STORE_GLOBAL", "DELETE_GLOBAL"))

_lock: Final = threading.Lock()
_kept: Final[WeakKeyDictionary[Any, _Packed | None]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class _Use:
    """What one function was made of when it was packed."""

    function: FunctionType
    code: CodeType
    defaults: tuple[Any, ...] | None
    cells: tuple[Any, ...]
    names: tuple[tuple[str, Any], ...]

    def is_same(self) -> bool:
        """Whether it still is."""
        function = self.function
        if function.__code__ is not self.code or function.__defaults__ is not self.defaults:
            return False
        if self.cells and not _same_cells(function, self.cells):
            return False
        variables = function.__globals__
        return all(variables.get(name, _MISSING) is value for name, value in self.names)


@dataclass(slots=True)
class _Packed:
    part: SharedPart
    uses: list[_Use] = field(default_factory=list)


def pack_parts(
    function: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> tuple[SharedPart | None, bytes]:
    """A function and its arguments: the part that is the same for each call, if there is one, and the payload.

    Raises:
        NotSerializableError: Something cannot be pickled (the message names it), or it is larger than a task can be.
    """
    part = shared_part(function)
    if part is None:
        return None, whole.pack(function, args, kwargs)
    if not args and not kwargs:
        return part, b""
    plain = (tuple(args), dict(kwargs or {}))
    if _is_plain(plain):
        return part, pickle.dumps(plain, protocol=pickle.HIGHEST_PROTOCOL)
    return part, whole.pack_arguments(function, args, kwargs)


def shared_part(function: Callable[..., Any]) -> SharedPart | None:
    """The function packed for many calls; None where it has to be packed with each."""
    try:
        packed = _kept.get(function, _MISSING)
    except TypeError:
        return None  # it cannot be referred to weakly, or not be hashed
    if isinstance(packed, _Packed) and all(use.is_same() for use in packed.uses):
        return packed.part
    if packed is None:
        return None  # it had something in it that may change; it is not looked at again
    return _pack_now(function)


def _pack_now(function: Callable[..., Any]) -> SharedPart | None:
    uses: list[_Use] = []
    with _lock:
        fixed = _is_fixed(function, uses)
        packed = _Packed(SharedPart(whole.pack_function(function)), uses) if fixed else None
        try:
            _kept[function] = packed
        except TypeError:
            return None
    return packed.part if packed is not None else None


def _is_fixed(value: Any, uses: list[_Use]) -> bool:
    """Whether a value stays what it is; notes what has to be looked at again."""
    kind = type(value)
    if kind in _FIXED:
        return True
    if kind is tuple or kind is frozenset:
        return len(value) <= MOST_NAMES and all(_is_fixed(part, uses) for part in value)
    if kind is ModuleType:
        return not whole.travels_by_value(value)
    if kind in (FunctionType, BuiltinFunctionType, type):
        if _is_importable(value):
            return True
        return kind is FunctionType and _is_fixed_function(value, uses)
    return False


def _is_importable(value: Any) -> bool:
    """Whether a peer finds the very same thing in one of its own modules."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    if module is None or module.__name__ == "__main__" or whole.travels_by_value(module):
        return False
    found: Any = module
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is value


def _is_fixed_function(function: FunctionType, uses: list[_Use]) -> bool:
    if any(use.function is function for use in uses):
        return True
    code = function.__code__
    names = tuple((name, function.__globals__.get(name, _MISSING)) for name in sorted(set(_names(code))))
    cells = _cells(function)
    if function.__dict__ or function.__kwdefaults__ or cells is None or len(names) > MOST_NAMES:
        return False
    if any(instruction.opname in _WRITES for each in _codes(code) for instruction in dis.get_instructions(each)):
        return False
    uses.append(_Use(function, code, function.__defaults__, cells, names))
    parts = [*(function.__defaults__ or ()), *cells, *(value for _, value in names if value is not _MISSING)]
    return len(uses) <= MOST_NAMES and all(_is_fixed(part, uses) for part in parts)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(code: CodeType) -> Iterator[str]:
    for each in _codes(code):
        yield from each.co_names


def _cells(function: FunctionType) -> tuple[Any, ...] | None:
    """What a function has closed over; None where a variable has no value yet."""
    try:
        return tuple(cell.cell_contents for cell in function.__closure__ or ())
    except ValueError:
        return None


def _same_cells(function: FunctionType, cells: tuple[Any, ...]) -> bool:
    now = _cells(function)
    return now is not None and len(now) == len(cells) and all(a is b for a, b in zip(now, cells, strict=True))


def _is_plain(value: Any) -> bool:
    """Whether a value is made of a few builtin ones: then the standard pickle says the same as cloudpickle, sooner."""
    left, parts = MOST_PARTS, [value]
    while parts:
        part = parts.pop()
        kind = type(part)
        if kind in _PLAIN:
            continue
        left -= 1
        if kind is tuple or kind is list or kind is set:
            left -= len(part)
            parts += part if left >= 0 else ()
        elif kind is dict:
            left -= 2 * len(part)
            parts += [*part, *part.values()] if left >= 0 else ()
        else:
            return False
        if left < 0:
            return False
    return True
