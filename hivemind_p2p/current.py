"""Which hive is meant where none is named: the one that was opened last and is still open."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from hivemind_p2p.errors import ConfigurationError

if TYPE_CHECKING:
    from hivemind_p2p.hive import Hive

_lock = threading.Lock()
_open: list[Hive] = []


def opened(hive: Hive) -> None:
    """A hive was opened."""
    with _lock:
        _open.append(hive)


def closed(hive: Hive) -> None:
    """It was closed."""
    with _lock:
        if hive in _open:
            _open.remove(hive)


def current_hive() -> Hive:
    """The hive that was opened last.

    Raises:
        ConfigurationError: None is open.
    """
    with _lock:
        if _open:
            return _open[-1]
    raise ConfigurationError("no hive is open", hint="Open one first: hm.connect(...) or hm.local_hive().")
