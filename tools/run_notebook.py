"""Runs a notebook from top to bottom in this interpreter's kernel, and stores it with its outputs.

    python tools/run_notebook.py notebooks/01_first_hive.ipynb [--output FILE]

So the outputs that are stored in the repository are those of a real run, without what only this machine would know:
the times of execution, and the version of its Python.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CELL_DEADLINE = 240
"""Seconds for one cell; the slowest takes about ten on an idle machine."""


def main() -> None:
    """Runs the notebook that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--output", type=Path, help="where to store it; by default in its place")
    arguments = parser.parse_args()
    run(arguments.notebook.resolve(), (arguments.output or arguments.notebook).resolve())


def run(source: Path, target: Path) -> None:
    """Runs `source` in its own folder and writes it to `target`; a cell that raises ends the program."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(source, as_version=4)
    with tempfile.TemporaryDirectory(prefix="kernels-") as folder:
        _write_kernel(Path(folder) / "kernels" / "python3")
        os.environ["JUPYTER_PATH"] = folder
        NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=CELL_DEADLINE,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(source.parent)}},
        ).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, target)


def _write_kernel(folder: Path) -> None:
    """A kernel of this interpreter and this source tree, whatever is installed on the machine besides."""
    specification = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
        "env": {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "bootstrap")])},
    }
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(specification), encoding="utf-8")


if __name__ == "__main__":
    main()
