"""The first notebook runs from top to bottom in a real kernel, shows what it promises, and leaves nothing behind."""

import os
import subprocess
import sys

import nbformat
import psutil
import pytest

from tests.notebooks.conftest import ROOT

NOTEBOOK = ROOT / "notebooks" / "01_first_hive.ipynb"


def shown(cell, kind="text/plain"):
    """All that a cell shows, as text or HTML."""
    parts = [output.get("text") or output.get("data", {}).get(kind, "") for output in cell.outputs]
    return "".join(parts)


@pytest.mark.timeout(300)
def test_the_notebook_runs(tmp_path, kernel_folder, processes_of_the_kernel):
    # In a process of its own: what Jupyter's client leaves unclosed is no concern of this library's tests.
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "run_notebook.py", NOTEBOOK, "--output", tmp_path / "done.ipynb"],
        env={**os.environ, "TMPDIR": str(kernel_folder), "IPYTHONDIR": str(tmp_path / "ipython")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}

    assert "3 peers" in shown(cells["connect"])
    assert shown(cells["peers"], "text/html").count("function/1") == 3
    assert "78498" in shown(cells["submit"])
    assert "148933" in shown(cells["await"])
    assert "COMPLETED" in shown(cells["job"])
    assert "tasks: 100% 8 of 8" in shown(cells["map"])
    assert "return sum(values) / len(values)\nZeroDivisionError: division by zero" in shown(cells["error"])
    assert "6 of 6 layers have a host" in shown(cells["load-model"])
    assert "self" in shown(cells["generate"])
    assert shown(cells["sample"]).startswith("class Node:")
    assert shown(cells["hosts"]).count("layers ") == 3
    assert "magnet:?xt=urn:btmh:" in shown(cells["share"])
    assert "fetching measurements.npy: 100% 7.6 of 7.6 MiB" in shown(cells["fetch"])
    assert "credits available, " in shown(cells["balance"])
    assert "welcome credits" in shown(cells["statement"])
    assert "closed" in shown(cells["close"], "text/html")

    psutil.wait_procs(processes_of_the_kernel(), timeout=5)
    assert processes_of_the_kernel() == []
    assert list(kernel_folder.glob("hivemind-p2p-*")) == []


def test_its_stored_outputs_are_those_of_a_good_run():
    """Whoever reads it without running it sees what it does, and nothing of the machine that it ran on."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    text = NOTEBOOK.read_text()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(path in text for path in ("/home/", "/root/", "/tmp/", "/Users/"))
