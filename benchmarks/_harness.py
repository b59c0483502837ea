"""What the benchmarks share: the command line, the machine in words, rows, claims, and the JSON that comes out.

A benchmark is a function from `Options` to `Figures`; `run` does the rest. Rows are what was measured; a claim is a
row that somebody relies on, with a target where the project promises one. Times are noisy on shared machines, so
where something has a standard counterpart, both run in the same process run and the claim is their ratio.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("hivemind-p2p", "libp2p", "torch", "transformers", "trio")


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        quick: Measure less, in some seconds, where it would take minutes otherwise.
    """

    quick: bool

    def pick(self, full: int, quick: int) -> int:
        """A size or a count, by how much time there is."""
        return quick if self.quick else full


@dataclass
class Figures:
    """What a benchmark found."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    claims: list[dict[str, Any]] = field(default_factory=list)

    def row(self, name: str, value: float | str, unit: str = "") -> None:
        """Notes one measurement."""
        self.rows.append({"name": name, "value": _rounded(value), "unit": unit})

    def claim(
        self, name: str, measured: float, unit: str, *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        """Notes a figure that counts, beside its target; without a target it is only kept in sight."""
        holds: bool | None = None
        target = None
        if at_most is not None:
            holds, target = measured <= at_most, f"at most {at_most:g}"
        elif at_least is not None:
            holds, target = measured >= at_least, f"at least {at_least:g}"
        self.claims.append(
            {"name": name, "measured": _rounded(measured), "unit": unit, "target": target, "holds": holds}
        )


def run(description: str | None, measure: Callable[[Options], Figures]) -> None:
    """Reads the command line, measures, prints the figures, and writes them where ``--json`` says."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    add_options(parser)
    arguments = parser.parse_args()
    figures = measure(Options(quick=arguments.quick))
    print_figures(figures.rows, figures.claims)
    if arguments.json is not None:
        write_json(arguments.json, figures.rows, figures.claims)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark has."""
    parser.add_argument("--quick", action="store_true", help="measure less, in some seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")


def write_json(file: Path, rows: Sequence[dict[str, Any]], claims: Sequence[dict[str, Any]]) -> None:
    """The figures, with where they were measured."""
    result = {"machine": machine(), "versions": versions(), "rows": list(rows), "claims": list(claims)}
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def print_figures(rows: Sequence[dict[str, Any]], claims: Sequence[dict[str, Any]]) -> None:
    """All figures as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if rows:
        table = Table("measured", title="Rows", title_justify="left")
        table.add_column("value", justify="right")
        table.add_column("unit")
        for row in rows:
            table.add_row(row["name"], _text(row["value"]), row["unit"])
        console.print(table)
    table = Table("claim", title="Claims", title_justify="left")
    table.add_column("measured", justify="right")
    for column in ("unit", "target", "holds"):
        table.add_column(column)
    for claim in claims:
        holds = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[claim["holds"]]
        table.add_row(claim["name"], _text(claim["measured"]), claim["unit"], claim["target"] or "", holds)
    console.print(table)


def machine() -> str:
    """The machine in words: nothing that would name it."""
    import psutil

    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB memory, {platform.system()} on {platform.machine()}"


def versions() -> dict[str, str]:
    """Python, this library, and those that the figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "a source tree"
    return found


def quantile(values: Sequence[float], fraction: float) -> float:
    """The smallest value that is not exceeded by this fraction of all."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def fresh_python(code: str, *arguments: str) -> str:
    """Runs code in a new interpreter that finds this library, and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def environment() -> dict[str, str]:
    """This process's environment, with this source tree before all else."""
    paths = [str(ROOT), str(ROOT / "bootstrap"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _rounded(value: float | str) -> float | str:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _text(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# The scripts are run as files, and the nodes that they start as modules: both must find the source tree.
os.environ.update(environment())
sys.path[:0] = [str(ROOT), str(ROOT / "bootstrap")]
