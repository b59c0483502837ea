"""Large arguments of tasks, put into the hive without being asked: ``hive.put`` for those who did not think of it.

An argument of a mebibyte or more that comes a second time is put, and from then on travels once to each peer instead
of with every task; one that is larger still is put the first time. Arguments are told apart by what they hold, not by
which object they are: an array that was changed in between is another one.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hivemind_p2p.tasks import elements
from hivemind_p2p.tasks.references import Reference

LARGE: Final = 1 << 20
"""Bytes from which an argument is put when it comes again."""

AT_ONCE: Final = 16 << 20
"""Bytes from which it is put the first time: sent with its task, it would hold up what else goes to the same peer."""

MOST_SEEN: Final = 256
"""Arguments that are remembered for when they come again."""

MOST_KNOWN: Final = 4
"""Texts of bytes that are known by their identity: they cannot change, and need not be looked at again."""

_Key = tuple[str, str, tuple[int, ...], bytes]


class LargeArguments:
    """Those of one hive. Safe to use from several threads.

    Args:
        put: Puts a value into the hive, and waits for it.
    """

    def __init__(self, put: Callable[[Any], Reference[Any]]) -> None:
        self._put = put
        self._lock = threading.Lock()
        self._seen: OrderedDict[_Key, None] = OrderedDict()
        self._references: dict[_Key, Reference[Any]] = {}
        self._known: OrderedDict[int, tuple[bytes, _Key]] = OrderedDict()

    def replaced(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Arguments with references instead of what was put."""
        if any(size_of(value) >= LARGE for value in args):
            args = [self._replaced(value) for value in args]
        if any(size_of(value) >= LARGE for value in kwargs.values()):
            kwargs = {name: self._replaced(value) for name, value in kwargs.items()}
        return args, kwargs

    def _replaced(self, value: Any) -> Any:
        size = size_of(value)
        if size < LARGE:
            return value
        with self._lock:
            key = self._key(value)
            if key is None:
                return value
            if key not in self._references and key not in self._seen and size < AT_ONCE:
                self._seen[key] = None
                while len(self._seen) > MOST_SEEN:
                    self._seen.popitem(last=False)
                return value
            if key not in self._references:
                self._references[key] = self._put(value)
            return self._references[key]

    def _key(self, value: Any) -> _Key | None:
        if type(value) is not bytes:
            return _key_of(value)
        known = self._known.pop(id(value), None) or (value, _key_of(value))
        assert known[1] is not None
        self._known[id(value)] = known[0], known[1]
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return known[1]


def size_of(value: Any) -> int:
    """Bytes of an argument of a kind that is looked at: bytes, numpy arrays, torch tensors; 0 for others."""
    if type(value) in (bytes, bytearray):
        return len(value)
    if elements.is_array(value) or elements.is_tensor(value):
        return int(value.nbytes)
    return 0


def _key_of(value: Any) -> _Key | None:
    """What tells it from others; None where it holds objects, whose bytes say nothing."""
    if isinstance(value, bytes | bytearray):
        return type(value).__name__, "", (len(value),), hashlib.sha256(value).digest()
    read = elements.array_bytes if elements.is_array(value) else elements.tensor_bytes
    found = read(value)
    if found is None:
        return None
    return type(value).__name__, str(value.dtype), tuple(value.shape), hashlib.sha256(found[1]).digest()
