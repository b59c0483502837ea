"""How long does a local hive take to start, to do its first task, and to close?

A bootstrap and three peers, each a process of its own that loads the library, joins, and starts a sandboxed child.
"""

from __future__ import annotations

import time

from _harness import Figures, Options, median, run

PEERS = 3


def measure(options: Options) -> Figures:
    """Starts hives one after the other."""
    import hivemind_p2p as hm

    ready, first_task, closing = [], [], []
    for _ in range(options.pick(full=5, quick=2)):
        started = time.perf_counter()
        hive = hm.local_hive(peers=PEERS)
        ready.append(time.perf_counter() - started)
        try:
            started = time.perf_counter()
            hive.submit(pow, 2, 10).result(timeout=30)
            first_task.append(time.perf_counter() - started)
            started = time.perf_counter()
        finally:
            hive.close()
        closing.append(time.perf_counter() - started)
    figures = Figures()
    figures.row("slowest start", max(ready), "s")
    figures.row("first task, median", median(first_task), "s")
    figures.claim(f"local_hive(peers={PEERS}) ready, median", median(ready), "s", at_most=5)
    figures.claim(f"local_hive(peers={PEERS}) closed, median", median(closing), "s", at_most=2)
    return figures


if __name__ == "__main__":
    run(__doc__, measure)
