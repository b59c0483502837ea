"""What the tests of notebooks share."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def kernel_folder(tmp_path):
    """Where a kernel keeps its temporary files; a process that mentions it came from that kernel."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def mentions(process, text):
    """Whether a process was started with a text in its command line or its environment."""
    try:
        return text in " ".join(process.cmdline()) or text in " ".join(process.environ().values())
    except psutil.Error:
        return False  # it has ended, or belongs to somebody else


@pytest.fixture
def processes_of_the_kernel(kernel_folder):
    """Gives the processes that a kernel started, directly or not, and that still run."""
    return lambda: [process for process in psutil.process_iter() if mentions(process, str(kernel_folder))]


def run_notebook(notebook, folder, kernel_folder):
    """Runs a notebook in a kernel of its own; its cells, with their outputs, by their ids."""
    # In a process of its own: what Jupyter's client leaves unclosed is no concern of this library's tests.
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "run_notebook.py", notebook, "--output", folder / "done.ipynb"],
        env={**os.environ, "TMPDIR": str(kernel_folder), "IPYTHONDIR": str(folder / "ipython")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {cell.id: cell for cell in nbformat.read(folder / "done.ipynb", as_version=4).cells}


def shown(cell, kind="text/plain"):
    """All that a cell shows, as text or HTML."""
    parts = [output.get("text") or output.get("data", {}).get(kind, "") for output in cell.outputs]
    return "".join(parts)


def stored_outputs_are_good(notebook, text):
    """Whoever reads it without running it sees what it does, and nothing of the machine that it ran on."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(path in text for path in ("/home/", "/root/", "/tmp/", "/Users/"))
