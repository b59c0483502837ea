"""The house stands as `docs/en/architecture.md` draws it: layers, siblings, pure decisions, no work on import."""

import ast
import importlib
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import hivemind_p2p
from hivemind_p2p import errors
from tests import architecture as rules

ROOT = Path(__file__).parent.parent


@cache
def library():
    return rules.sources_of(ROOT / rules.LIBRARY)


@cache
def operator():
    return rules.sources_of(ROOT / "bootstrap" / rules.OPERATOR)


@cache
def library_imports():
    return rules.imports_of(library())


@cache
def operator_imports():
    return rules.imports_of(operator())


def test_every_module_has_a_layer():
    assert rules.unplaced(library()) == []


def test_imports_run_downwards_only():
    assert rules.upward_imports(library_imports()) == []


def test_services_never_import_each_other():
    assert rules.sibling_imports(library_imports()) == []


def test_the_library_knows_nothing_of_the_operators_application():
    assert rules.imports_outside(library_imports(), rules.OPERATOR, ()) == []


@pytest.mark.parametrize("package", ["libp2p", "multiaddr"])
def test_only_net_imports_libp2p(package):
    homes = (f"{rules.LIBRARY}.net",)
    assert rules.imports_outside([*library_imports(), *operator_imports()], package, homes) == []


def test_net_does_import_libp2p():
    assert rules.imports_outside(library_imports(), "libp2p", ()) != []


DECISIONS = [f"{rules.LIBRARY}.{part}.{room}" for part, rooms in rules.DECISIONS.items() for room in rooms]
DECISIONS += [f"{rules.OPERATOR}.{room}" for room in rules.OPERATOR_DECISIONS]


@pytest.mark.parametrize("decision", DECISIONS)
def test_what_decides_does_nothing_else(decision):
    sources = library() | operator()
    assert decision in sources
    assert rules.impure(sources, [*library_imports(), *operator_imports()], decision) == []


def test_only_config_reads_the_environment_and_toml():
    assert rules.environment_readers(library() | operator()) == []


@pytest.mark.parametrize("module", sorted(library() | operator()))
def test_a_module_only_names_things_when_it_is_imported(module):
    assert rules.statements_that_do((library() | operator())[module]) == []


IMPORT_ALL = """
import importlib, json, os, signal, sys, threading

WATCHED = {"open", "socket.bind", "socket.connect", "subprocess.Popen", "os.mkdir", "os.remove", "os.putenv"}
touched = []

def by_a_package():
    # Other packages may do what they like when they are imported (numpy asks for its libraries): that is theirs.
    frame = sys._getframe(2)
    while frame is not None and "site-packages" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None

def watch(event, arguments):
    if event not in WATCHED or by_a_package():
        return
    if event != "open":
        touched.append([event, repr(arguments[:2])])
    elif isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        touched.append(["open", str(arguments[0])])

handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
threads = threading.active_count()
sys.addaudithook(watch)
for name in json.loads(sys.stdin.read()):
    importlib.import_module(name)
loaded = [name for name in ("torch", "transformers", "libp2p", "ipywidgets", "IPython") if name in sys.modules]
if threading.active_count() != threads:
    touched.append(["threads", repr(threading.enumerate())])
if [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] != handlers:
    touched.append(["signal handlers"])
print(json.dumps({"loaded": loaded, "touched": touched}))
"""

HEAVY = ("torch", "transformers", "libp2p")
"""What takes a second or more to load."""


LOADED_LATE = ("sharding.", "testing.", "net.secure_connection", "net.noise_transport", "net.mux")
"""Modules that may import something heavy at their top: they implement its interfaces, or work with its objects."""


def test_importing_loads_nothing_heavy_and_does_nothing():
    # Modules that import something heavy at their top are themselves imported inside functions.
    heavy = {found.importer for found in library_imports() if found.imported.split(".")[0] in HEAVY and _at_top(found)}
    assert all(name.removeprefix(f"{rules.LIBRARY}.").startswith(LOADED_LATE) for name in heavy)
    named = [name for name in library() if name not in heavy and not name.endswith("__main__")]
    named = [name for name in named if not name.startswith(f"{rules.LIBRARY}.testing.tiny_")]
    named += [name for name in operator() if not name.endswith("__main__")]
    assert _import_in_a_process(named) == {"loaded": [], "touched": []}


def _at_top(found):
    return not found.in_function and not found.for_types


def _import_in_a_process(names):
    done = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_ALL],
        input=json.dumps(names),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'bootstrap'}"},
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_the_watch_on_imports_sees_what_they_do(tmp_path):
    (tmp_path / "guilty.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w').close()\nimport torch\n")
    done = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_ALL],
        input='["guilty"]',
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    told = json.loads(done.stdout)
    assert "torch" in told["loaded"]
    assert ["open", str(tmp_path / "trace")] in told["touched"]


def test_all_is_sorted_complete_and_true():
    assert hivemind_p2p.__all__ == sorted(hivemind_p2p.__all__)
    assert dir(hivemind_p2p) == hivemind_p2p.__all__
    assert set(hivemind_p2p._HOMES) | {"__version__", "errors"} == set(hivemind_p2p.__all__)
    for name in hivemind_p2p.__all__:
        assert getattr(hivemind_p2p, name) is not None
    for name, home in hivemind_p2p._HOMES.items():
        assert getattr(hivemind_p2p, name) is getattr(importlib.import_module(f"hivemind_p2p.{home}"), name)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(library()[rules.LIBRARY])
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in guarded.body for alias in node.names}
    assert seen == set(hivemind_p2p.__all__) - {"__version__"}


def test_a_name_that_there_is_not():
    with pytest.raises(AttributeError, match="no attribute 'submit'"):
        _ = hivemind_p2p.submit


def test_the_tree_of_errors_is_drawn_as_it_is():
    drawn = rules.tree_in_text(errors.__doc__)
    real = {
        found.__name__: found.__base__.__name__ if found is not errors.HivemindError else None
        for found in vars(errors).values()
        if isinstance(found, type) and issubclass(found, errors.HivemindError)
    }
    assert drawn == real


# The rules themselves, on made-up sources: each must catch what it is for.


def _imports(**sources):
    named = {name.replace("__", "."): text for name, text in sources.items()}
    return named, rules.imports_of(named)


def test_rule_upward():
    _, found = _imports(hivemind_p2p__net__router="from hivemind_p2p.dht.service import DirectoryService")
    assert rules.upward_imports(found) == ["hivemind_p2p.net.router imports hivemind_p2p.dht.service"]
    _, found = _imports(hivemind_p2p__net__router="def f():\n    from hivemind_p2p import peer")
    assert rules.upward_imports(found) == ["hivemind_p2p.net.router imports hivemind_p2p.peer"]
    _, found = _imports(hivemind_p2p__dht__service="import hivemind_p2p.net.router\nfrom hivemind_p2p import errors")
    assert rules.upward_imports(found) == []


def test_rule_upward_for_types_too():
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hivemind_p2p.hive import Hive"
    _, found = _imports(hivemind_p2p__types=text)
    assert rules.upward_imports(found) == ["hivemind_p2p.types imports hivemind_p2p.hive"]


def test_rule_notebook_only_inside_functions():
    _, found = _imports(hivemind_p2p__job="from hivemind_p2p.notebook.reprs import job_html")
    assert rules.upward_imports(found) == ["hivemind_p2p.job imports hivemind_p2p.notebook.reprs"]
    _, found = _imports(hivemind_p2p__job="def f():\n    from hivemind_p2p.notebook.reprs import job_html")
    assert rules.upward_imports(found) == []
    _, found = _imports(hivemind_p2p__peer="def f():\n    from hivemind_p2p.notebook.reprs import job_html")
    assert rules.upward_imports(found) != []


def test_rule_lazy_package():
    assert rules.upward_imports(_imports(hivemind_p2p="from hivemind_p2p.hive import Hive")[1]) != []


def test_rule_siblings():
    _, found = _imports(hivemind_p2p__tasks__client="from hivemind_p2p.credits.client import Purse")
    assert rules.sibling_imports(found) == ["hivemind_p2p.tasks.client imports hivemind_p2p.credits.client"]
    _, found = _imports(hivemind_p2p__tasks__client="from hivemind_p2p.tasks.wire import encode")
    assert rules.sibling_imports(found) == []


def test_rule_homes():
    _, found = _imports(hivemind_p2p__peer="def f():\n    import libp2p.host", hivemind_p2p__net__a="import libp2p")
    assert rules.imports_outside(found, "libp2p", ("hivemind_p2p.net",)) == ["hivemind_p2p.peer imports libp2p.host"]
    _, found = _imports(hivemind_p2p__peer="import libp2p_other")
    assert rules.imports_outside(found, "libp2p", ()) == []


def test_rule_decisions_reach_nothing_that_does():
    sources, found = _imports(
        hivemind_p2p__dht__lookup="from hivemind_p2p.dht import walk",
        hivemind_p2p__dht__walk="import trio",
    )
    expected = ["hivemind_p2p.dht.lookup imports hivemind_p2p.dht.walk imports trio"]
    assert rules.impure(sources, found, "hivemind_p2p.dht.lookup") == expected
    sources, found = _imports(hivemind_p2p__dht__lookup="def f():\n    import random")
    assert rules.impure(sources, found, "hivemind_p2p.dht.lookup") != []


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.environ['A']",
        "import os\nos.getenv('A')",
        "from os import environ",
        "import tomllib",
        "from tomllib import loads",
    ],
)
def test_rule_environment(text):
    assert rules.environment_readers({"hivemind_p2p.peer": text}) == ["hivemind_p2p.peer"]
    assert rules.environment_readers({"hivemind_p2p.config": text}) == []


def test_rule_environment_may_be_handed_on():
    assert rules.environment_readers({"hivemind_p2p.node_process": "import os\nf({**os.environ, 'A': 'b'})"}) == []
    assert rules.environment_readers({"hivemind_p2p.node_process": "import os\nos.environ['A']"}) != []


@pytest.mark.parametrize("text", ["print(1)", "for a in b:\n    pass", "with a:\n    pass", "a += 1", "if a:\n    b()"])
def test_rule_import_does_nothing(text):
    assert rules.statements_that_do(text) == [1]


def test_rule_import_names_things():
    text = '"""Words."""\nimport a\nB = 1\n"""More."""\nif TYPE_CHECKING:\n    import c\nclass D: ...\ndef e(): ...'
    assert rules.statements_that_do(text) == []


def test_rule_relative_imports():
    with pytest.raises(AssertionError, match="write it in full"):
        rules.imports_of({"hivemind_p2p.peer": "from . import errors"})


def test_rule_drawn_tree():
    text = "    ARootError\n    ├── BError   words\n    │   └── CError\n    └── DError\n"
    assert rules.tree_in_text(text) == {
        "ARootError": None,
        "BError": "ARootError",
        "CError": "BError",
        "DError": "ARootError",
    }
