"""How long does ``import hivemind_p2p`` take, and what does it load?

Each time in a fresh process, measured inside it: the interpreter's own start does not count.
"""

from __future__ import annotations

from _harness import Figures, Options, fresh_python, median, run

IMPORT = """
import sys, time
started = time.perf_counter()
import hivemind_p2p
imported = time.perf_counter()
heavy = [name for name in ("torch", "transformers", "libp2p", "numpy") if name in sys.modules]
hivemind_p2p.local_hive
print(imported - started, time.perf_counter() - started, ",".join(heavy) or "none")
"""


def measure(options: Options) -> Figures:
    """Imports it over and over."""
    figures = Figures()
    fresh_python(IMPORT)  # compiles what has not been compiled yet
    runs = [fresh_python(IMPORT).split() for _ in range(options.pick(full=15, quick=5))]
    heavy = {loaded for _, _, loaded in runs}
    first_use = median([float(seconds) for _, seconds, _ in runs])
    figures.row("import and first use of local_hive, median", first_use, "s")
    figures.row("heavy packages that the import loads", ", ".join(sorted(heavy)))
    figures.claim("import hivemind_p2p, median", median([float(run[0]) for run in runs]), "s", at_most=0.15)
    figures.claim("heavy packages loaded by it", float(len(heavy - {"none"})), "packages", at_most=0)
    return figures


if __name__ == "__main__":
    run(__doc__, measure)
