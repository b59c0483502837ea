"""The task type ``function/1``: a Python function with its arguments, packed with cloudpickle.

The caller packs, the child process in the sandbox unpacks and runs; a pickle runs code when it is read, so nothing
else ever reads one. What the function needs of the caller's own modules (a notebook, a script, a package that lies
in the working folder) travels by value, because no peer could import it; installed packages travel by name.
"""

from __future__ import annotations

import builtins
import pickle
import site
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from types import FunctionType, ModuleType
from typing import Any, Final

from hivemind_p2p.errors import NotSerializableError
from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES

NAME: Final = "function/1"

_MOST_FUNCTIONS: Final = 64
"""Functions that a child keeps unpacked: as many as it keeps packed."""

_INSTALLED: Final = ("site-packages", "dist-packages")
_OWN_PACKAGE: Final = __name__.partition(".")[0]
# cloudpickle keeps what travels by value in one place for the whole process, and callers may pack from any thread.
_by_value_lock: Final = threading.Lock()
_is_local: Final[dict[str, bool]] = {}


class FunctionTask:
    """Runs what `pack` packed."""

    name = NAME

    def __init__(self) -> None:
        self._functions: dict[bytes, Callable[..., Any]] = {}

    def run(self, payload: memoryview) -> Any:
        """Unpickles the function and calls it. In the sandboxed child only."""
        function, args, kwargs = pickle.loads(payload)  # noqa: S301 - the sandbox is the place where this is done
        return function(*args, **kwargs)

    def run_shared(self, shared: bytes, payload: memoryview) -> Any:
        """The same for what `packing.pack_parts` packed: the function, and apart from it its arguments."""
        function = self.unpacked(shared)
        if not payload:
            return function()
        args, kwargs = pickle.loads(payload)  # noqa: S301 - as above
        return function(*args, **kwargs)

    def unpacked(self, shared: bytes) -> Callable[..., Any]:
        """The function of a shared part, kept for the next call."""
        return self._functions.get(shared) or self._unpack(shared)

    def _unpack(self, shared: bytes) -> Callable[..., Any]:
        function: Callable[..., Any] = pickle.loads(shared)  # noqa: S301 - as above
        if len(self._functions) >= _MOST_FUNCTIONS:
            self._functions.clear()
        self._functions[shared] = function
        return function


def pack(function: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> bytes:
    """A function and its arguments as the payload of a task.

    Raises:
        NotSerializableError: Something cannot be pickled (the message names it), or it is larger than a task can be.
    """
    plain = (function, tuple(args), dict(kwargs or {}))
    return _packed(plain, *plain)


def pack_function(function: Callable[..., Any]) -> bytes:
    """A function alone; raises what `pack` does."""
    return _packed(function, function, (), {})


def pack_arguments(
    function: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> bytes:
    """The arguments for a function alone; raises what `pack` does."""
    plain = (tuple(args), dict(kwargs or {}))
    return _packed(plain, function, *plain)


def pack_value(value: Any, function: Callable[..., Any], items: Sequence[Any]) -> bytes:
    """Something else for a function of several items; raises what `pack` does."""
    return _packed(value, function, tuple(items), {})


def pack_file(value: Any, path: Path) -> None:
    """A value as a pickle in a new file, which may be larger than a task can be.

    Raises:
        NotSerializableError: It cannot be pickled.
    """
    import cloudpickle

    with path.open("xb") as file, _by_value_lock, _local_modules_by_value():
        try:
            cloudpickle.dump(value, file, protocol=pickle.HIGHEST_PROTOCOL)
        except OSError:
            raise
        except Exception as error:
            raise NotSerializableError(f"cannot put a {type(value).__name__}: {_sentence(error)}") from error


def travels_by_value(module: ModuleType) -> bool:
    """Whether a peer could not import a module, so that what it defines is sent along."""
    import cloudpickle

    name = module.__name__
    if name not in _is_local:
        _is_local[name] = name == "__main__" or _lies_outside(name, module)
    return _is_local[name] or name in cloudpickle.list_registry_pickle_by_value()


def _packed(value: Any, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    if not callable(function):
        raise NotSerializableError(f"{function!r} is no function", hint="Pass the function itself, without calling it.")
    with _by_value_lock, _local_modules_by_value():
        try:
            packed = _dumps(value)
        except Exception as error:
            culprit, reason = _culprit(function, args, kwargs) or ("it", error)
            name = getattr(function, "__qualname__", repr(function))
            message = f"cannot send {name}(): {culprit} cannot be packed: {_sentence(reason)}"
            raise NotSerializableError(message) from error
    if len(packed) > MAX_PAYLOAD_BYTES:
        # A peer would hang up in the middle of it, and so would the next.
        name = getattr(function, "__qualname__", repr(function))
        raise NotSerializableError(
            f"cannot send {name}(): it has {len(packed):,} bytes with its arguments, and a task {MAX_PAYLOAD_BYTES:,}",
            hint="Put large arguments into the hive, hive.put(value), or split the data into smaller tasks.",
        )
    return packed


def _dumps(value: Any) -> bytes:
    import cloudpickle

    packed: bytes = cloudpickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return packed


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _culprit(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, Exception] | None:
    """Which part cannot be packed by itself, and why."""
    parts = [(f"argument {position}", value) for position, value in enumerate(args)]
    parts += [(f"argument {name}=", value) for name, value in kwargs.items()]
    parts += _used_by(function)
    parts.append(("the function", function))
    for name, part in parts:
        try:
            _dumps(part)
        except Exception as error:
            return f"{name} (a {type(part).__name__})", error
    return None


def _used_by(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """The variables around a function that travel with it."""
    if not isinstance(function, FunctionType):
        return []
    code = function.__code__
    around = [
        (name, cell.cell_contents)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
        if _is_filled(cell)
    ]
    around += [(name, function.__globals__[name]) for name in code.co_names if name in function.__globals__]
    return [(f"the variable {name!r}, which it uses,", value) for name, value in around if not hasattr(builtins, name)]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises where the variable has no value yet
    except ValueError:
        return False
    return True


@contextmanager
def _local_modules_by_value() -> Iterator[None]:
    import cloudpickle

    already = cloudpickle.list_registry_pickle_by_value()
    registered = []
    for module in _local_modules(already):
        cloudpickle.register_pickle_by_value(module)
        registered.append(module)
    try:
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


def _local_modules(already: Iterable[str]) -> list[ModuleType]:
    """The imported modules that a peer could not import: neither installed nor of the standard library."""
    for name in sys.modules.keys() - _is_local.keys():
        module = sys.modules.get(name)
        if isinstance(module, ModuleType):
            _is_local[name] = _lies_outside(name, module)
    skipped = {"__main__", *already}
    local = [name for name, is_local in _is_local.items() if is_local and name not in skipped]
    return [sys.modules[name] for name in local if name in sys.modules]


def _lies_outside(name: str, module: ModuleType) -> bool:
    # vars(), because asking some lazy modules for an attribute imports them.
    file = vars(module).get("__file__")
    if not isinstance(file, str) or name.partition(".")[0] == _OWN_PACKAGE or module.__name__ != name:
        return False
    path = PurePath(file)
    if any(part in _INSTALLED for part in path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in _installed_folders())


def _installed_folders() -> set[str]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return folders | {site.getusersitepackages()}
