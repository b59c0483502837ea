"""The notebook about tasks and credits runs from top to bottom in a real kernel, and shows what it promises."""

import nbformat
import psutil
import pytest

from tests.notebooks.conftest import ROOT, run_notebook, shown, stored_outputs_are_good

NOTEBOOK = ROOT / "notebooks" / "04_earn_credits.ipynb"


@pytest.mark.timeout(300)
def test_the_notebook_runs(tmp_path, kernel_folder, processes_of_the_kernel):
    cells = run_notebook(NOTEBOOK, tmp_path, kernel_folder)

    assert "3 peers" in shown(cells["connect"])
    assert "after 200,000 samples: 3.1372" in shown(cells["submit"])
    assert [line.split()[2] for line in shown(cells["history"]).splitlines()] == [
        "QUEUED",
        "ASSIGNED",
        "RUNNING",
        "COMPLETED",
    ]
    assert "CANCELLED" in shown(cells["cancel"])
    assert str(2**100) in shown(cells["options"])
    assert "26,623 takes 307 steps, the most of 30,000 numbers" in shown(cells["map"])
    assert "ZeroDivisionError: division by zero" in shown(cells["error"])
    assert "in the swarm" in shown(cells["put"])
    assert shown(cells["quorum"]).count("says 524") == 2
    assert "2 answers of at most 3 have to agree, and 1 and 1 and 1 did" in shown(cells["disagree"])
    assert "1.64492" in shown(cells["tolerance"])
    assert "two peers did it" in shown(cells["cost"])
    assert "welcome credits" in shown(cells["statement"])
    assert "map/1" in shown(cells["earned"])
    assert "sum of all rows: 0" in shown(cells["ledger"])
    assert "closed" in shown(cells["close"], "text/html")

    psutil.wait_procs(processes_of_the_kernel(), timeout=5)
    assert processes_of_the_kernel() == []
    assert list(kernel_folder.glob("hivemind-p2p-*")) == []


def test_its_stored_outputs_are_those_of_a_good_run():
    stored_outputs_are_good(nbformat.read(NOTEBOOK, as_version=4), NOTEBOOK.read_text())
