"""The second notebook: a model over several peers, one of which is killed in mid-text."""

import nbformat
import psutil
import pytest

from tests.notebooks.conftest import ROOT, run_notebook, shown, stored_outputs_are_good

NOTEBOOK = ROOT / "notebooks" / "02_sharded_model.ipynb"


@pytest.mark.timeout(400)
def test_the_notebook_runs(tmp_path, kernel_folder, processes_of_the_kernel):
    cells = run_notebook(NOTEBOOK, tmp_path, kernel_folder)

    assert "3 peers" in shown(cells["connect"])
    assert "6 of 6 layers have a host" in shown(cells["load"])
    assert shown(cells["hosts"]).count("layers ") == 3
    assert "server" in shown(cells["stream"])
    assert shown(cells["sample"]).startswith("class Server(")
    assert shown(cells["scores"]).count("likeliest: ") == 6
    assert [shown(cells["batch"]).count(prompt) >= 1 for prompt in ("def read(", "def write(", "import ", "try:")]
    assert shown(cells["batch"]).count("-" * 40) == 4
    assert "✂" in shown(cells["kill"])
    assert shown(cells["kill"]).endswith("the same text as without the kill: True\n")
    assert "1." in shown(cells["embed"])
    assert shown(cells["beams"]).count("def close(self") >= 2
    assert "):" in shown(cells["logits"])
    assert "credits available, " in shown(cells["balance"])
    assert "closed" in shown(cells["close"], "text/html")

    psutil.wait_procs(processes_of_the_kernel(), timeout=5)
    assert processes_of_the_kernel() == []
    assert list(kernel_folder.glob("hivemind-p2p-*")) == []


def test_its_stored_outputs_are_those_of_a_good_run():
    stored_outputs_are_good(nbformat.read(NOTEBOOK, as_version=4), NOTEBOOK.read_text())
