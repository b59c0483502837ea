"""The first notebook runs from top to bottom in a real kernel, shows what it promises, and leaves nothing behind."""

import nbformat
import psutil
import pytest

from tests.notebooks.conftest import ROOT, run_notebook, shown, stored_outputs_are_good

NOTEBOOK = ROOT / "notebooks" / "01_first_hive.ipynb"


@pytest.mark.timeout(300)
def test_the_notebook_runs(tmp_path, kernel_folder, processes_of_the_kernel):
    cells = run_notebook(NOTEBOOK, tmp_path, kernel_folder)

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
    stored_outputs_are_good(nbformat.read(NOTEBOOK, as_version=4), NOTEBOOK.read_text())
