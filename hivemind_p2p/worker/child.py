"""The program in the sandboxed child process: reads a task from its standard input, runs it, writes what came of it.

Everything here runs beside code that strangers wrote. It limits itself before it reads the first task, keeps the
pipes away from that code's prints, and imports little, so that a fresh child is ready soon. It is started by
`worker.sandbox` as ``python -I -c ... PATHS ORDERS``; the orders are those of `worker.wall_in`.
"""

from __future__ import annotations

import io
import os
import sys

from hivemind_p2p.worker.wall_in import Orders, wall_in


def main() -> None:
    """Runs until the executor closes the pipe or kills the process."""
    requests, replies = _take_pipes()
    wall_in(Orders.from_text(sys.argv[2]))
    _warm_up()
    from hivemind_p2p.worker.serving import Server, Tail

    _to_nothing(2)  # until here the executor reads complaints from it
    output = Tail()
    wrapper = io.TextIOWrapper(output, "utf-8", errors="backslashreplace", write_through=True)  # type: ignore[type-var]
    sys.stdout = sys.stderr = wrapper
    Server(requests, replies, output).serve()


def _warm_up() -> None:
    """Imports what every task needs, so that no task waits for it."""
    import cloudpickle  # noqa: F401

    from hivemind_p2p.tasks import registry
    from hivemind_p2p.worker import serving  # noqa: F401

    registry.task_type("function/1")


def _take_pipes() -> tuple[int, int]:
    """Moves the pipes away from descriptors 0 and 1, where a task's own output would go."""
    requests, replies = os.dup(0), os.dup(1)
    _to_nothing(0, 1)
    return requests, replies


def _to_nothing(*descriptors: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(nothing, descriptor)
    os.close(nothing)
