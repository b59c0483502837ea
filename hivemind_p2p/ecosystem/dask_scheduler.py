"""A hive as a Dask scheduler: ``dask.compute(..., scheduler=hive.dask)``.

Dask walks through its graph here and has each step run on some peer, which needs Dask and what the step uses. What a
step gives comes back, and goes out again with the steps that need it: fine for graphs that compute long on little data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hivemind_p2p.task_methods import TaskMethods


def get(tasks: TaskMethods, workers: int, graph: Mapping[Any, Any], keys: Any, **options: Any) -> Any:
    """What Dask calls to compute some keys of a graph.

    Args:
        tasks: The hive.
        workers: How many steps to keep under way.
        graph: The graph.
        keys: What of it is wanted, nested lists included.
        **options: Dask's own; ``chunksize`` is how many steps one task holds.
    """
    from dask.local import get_async
    from dask.optimization import cull

    if hasattr(graph, "__dask_graph__"):
        graph = graph.__dask_graph__()
    needed, _ = cull(dict(graph), keys)
    chosen = {name: options[name] for name in ("chunksize", "callbacks") if name in options}
    return get_async(tasks.submit, workers, needed, keys, get_id=_nobody, **chosen)


def _nobody() -> str:
    """Who has computed a step; nobody asks."""
    return "hive"
