"""A hive as a Dask scheduler: ``dask.compute(..., scheduler=hive.dask)``.

Dask walks through its graph here and has each step run on some peer, which needs Dask and what the step uses. What a
step gives comes back, and goes out again with the steps that need it: fine for graphs that compute long on little data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hivemind_p2p.errors import TaskFailedError

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
    return get_async(tasks.submit, workers, needed, keys, get_id=_nobody, dumps=made_plain, **chosen)


def made_plain(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """What a step gives, as it can travel; called on the peer. What goes there passes through it unchanged.

    Bags hand iterators from step to step where both run in one process; here they become lists.

    Raises:
        TaskFailedError: It lies on the peer's own disk.
    """
    value, other = pair
    if type(value).__module__.partition(".")[0] == "partd":
        raise TaskFailedError(
            "this step shuffles by way of one machine's disk, which the next peer cannot read: say shuffle='tasks', "
            "for example bag.groupby(key, shuffle='tasks')"
        )
    return _listed(value), other


def _listed(value: Any) -> Any:
    if isinstance(value, Iterator):
        value = list(value)
    if type(value) is list and any(isinstance(part, Iterator) for part in value):
        return [_listed(part) for part in value]
    if type(value) is dict and any(isinstance(part, Iterator) for part in value.values()):
        return {key: _listed(part) for key, part in value.items()}
    return value


def _nobody() -> str:
    """Who has computed a step; nobody asks."""
    return "hive"
