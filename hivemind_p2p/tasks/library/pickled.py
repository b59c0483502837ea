"""Results as pickles, for callers who run their work on peers of their own account only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def pickled_result(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> bytes:
    """Calls a function, and packs what it returns. In the sandboxed child only."""
    import pickle

    import cloudpickle

    packed: bytes = cloudpickle.dumps(function(*args, **kwargs), protocol=pickle.HIGHEST_PROTOCOL)
    return packed
