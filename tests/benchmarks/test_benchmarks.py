"""Every benchmark takes the same options and writes the same JSON. No test here asks how fast anything is."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith("_"))


def run(script, *arguments):
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_script_has_the_options(script):
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout
    assert "--json FILE" in done.stdout


def test_the_json(tmp_path):
    target = tmp_path / "figures.json"
    done = run(FOLDER / "import_time.py", "--quick", "--json", target)
    assert done.returncode == 0, done.stderr
    figures = json.loads(target.read_text())
    assert set(figures) == {"machine", "versions", "rows", "claims"}
    assert "cores" in figures["machine"]
    assert {"python", "torch", "libp2p"} <= set(figures["versions"])
    assert all(set(row) == {"name", "value", "unit"} for row in figures["rows"])
    assert figures["claims"]
    for claim in figures["claims"]:
        assert set(claim) == {"name", "measured", "unit", "target", "holds"}
        assert isinstance(claim["measured"], float | int)
        assert claim["holds"] in (True, False, None)
    assert claim_of(figures, "heavy packages loaded by it")["measured"] == 0


def claim_of(figures, name):
    return next(claim for claim in figures["claims"] if claim["name"] == name)


def test_run_all_knows_every_script():
    tree = ast.parse((FOLDER / "run_all.py").read_text())
    listed = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SCRIPTS"
    )
    assert sorted([*listed, "run_all"]) == [script.stem for script in SCRIPTS]


def test_the_readme_names_every_script():
    readme = (FOLDER / "README.md").read_text()
    assert all(f"benchmarks/{script.name}" in readme for script in SCRIPTS)


@pytest.fixture
def harness(monkeypatch):
    # It puts the source tree on the path, for itself and for the nodes that it starts; undone after the test.
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    monkeypatch.setenv("PYTHONPATH", "")
    import _harness

    return _harness


def test_a_claim_holds_or_not(harness):
    figures = harness.Figures()
    figures.claim("short", 1.0, "s", at_most=2)
    figures.claim("long", 3.0, "s", at_most=2)
    figures.claim("fast", 3.0, "tokens/s", at_least=2)
    figures.claim("kept in sight", 3.0, "times")
    assert [claim["holds"] for claim in figures.claims] == [True, False, True, None]
    assert [claim["target"] for claim in figures.claims] == ["at most 2", "at most 2", "at least 2", None]


@pytest.mark.parametrize(("fraction", "value"), [(0.5, 51), (0.99, 100), (1.0, 100), (0.0, 1)])
def test_quantiles(harness, fraction, value):
    assert harness.quantile(list(range(100, 0, -1)), fraction) == value
