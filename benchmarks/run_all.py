"""Runs every benchmark, one after the other, and prints one table of what is claimed and whether it holds.

    python benchmarks/run_all.py --quick

Exits with 1 if a benchmark broke. A claim that does not hold is shown, not punished: times depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _harness import add_options, environment, machine, print_figures, write_json

SCRIPTS = (
    "import_time",
    "local_hive",
    "transport",
    "relay",
    "dht",
    "hashing",
    "swarm",
    "tasks",
    "inference",
    "inference_gloo",
    "model_formats",
    "simulate_dht",
    "simulate_matching",
    "simulate_placement",
    "simulate_swarm",
)
FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Runs them all."""
    parser = argparse.ArgumentParser(description="Run every benchmark.")
    add_options(parser)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    claims: list[dict[str, Any]] = []
    broken = []
    for script in SCRIPTS:
        found = _run(script, quick=arguments.quick)
        if found is None:
            broken.append(script)
            continue
        rows += [row | {"benchmark": script} for row in found["rows"]]
        claims += [claim | {"benchmark": script} for claim in found["claims"]]
    print_figures((), claims)
    print(machine())
    if arguments.json is not None:
        write_json(arguments.json, rows, claims)
    if broken:
        sys.exit(f"these benchmarks broke: {', '.join(broken)}")


def _run(script: str, *, quick: bool) -> dict[str, Any] | None:
    """The figures of one script; None if it broke."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        target = Path(folder) / "figures.json"
        command = [sys.executable, str(FOLDER / f"{script}.py"), "--json", str(target), *(["--quick"] if quick else [])]
        started = time.perf_counter()
        done = subprocess.run(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        print(f"{script}: {time.perf_counter() - started:.0f} s", flush=True)
        if done.returncode != 0:
            print(done.stdout, file=sys.stderr)
            return None
        figures: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
        return figures


if __name__ == "__main__":
    main()
