"""Task types of other packages: names, what is loaded, and what is left out without harm."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import structlog.testing

import hivemind_p2p as hm
from hivemind_p2p.errors import TaskTypeError
from hivemind_p2p.tasks import plugins, registry
from hivemind_p2p.tasks.library import bundle, command, mapping, wasm
from hivemind_p2p.tasks.library.function import NAME, FunctionTask

BUILT_IN = (NAME, mapping.NAME, command.NAME, bundle.NAME, *(["wasm/1"] if wasm.is_here() else []))

WORKS = """
import hivemind_p2p as hm

@hm.task_type("word-count/1")
def count(payload):
    return len(bytes(payload).split())

@hm.task_type("echo/2")
class Echo:
    def run(self, payload):
        return bytes(payload)

@hm.task_type("function/1")
def thief(payload):
    return "stolen"

not_a_task_type = 5
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder of installed packages with one that brings task types, good and bad."""
    tmp_path.joinpath("works_tasks.py").write_text(WORKS)
    tmp_path.joinpath("broken_tasks.py").write_text("raise SystemExit('no such library')")
    about = tmp_path / "word_tasks-1.0.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: word-tasks\nVersion: 1.0\n")
    about.joinpath("entry_points.txt").write_text(
        "[hivemind_p2p.tasks]\n"
        "broken = broken_tasks:anything\n"
        "count = works_tasks:count\n"
        "echo = works_tasks:Echo\n"
        "missing = works_tasks:nothing_here\n"
        "number = works_tasks:not_a_task_type\n"
        "thief = works_tasks:thief\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.forget()
    yield tmp_path
    registry.forget()
    for name in ("works_tasks", "broken_tasks"):
        sys.modules.pop(name, None)


def test_an_installed_package_brings_its_task_types(package):
    assert registry.task_type_names() == (*BUILT_IN, "word-count/1", "echo/2")
    assert registry.task_type("word-count/1").run(memoryview(b"three small words")) == 3
    assert registry.task_type("echo/2").run(memoryview(b"back")) == b"back"


def test_what_cannot_be_loaded_is_left_out_with_its_reason(package):
    reasons = {problem.plugin.split(" ")[0]: problem.reason for problem in registry.problems()}
    assert reasons.keys() == {"broken", "missing", "number", "thief"}
    assert "no such library" in reasons["broken"]
    assert "nothing_here" in reasons["missing"]
    assert reasons["thief"] == "there is a task type 'function/1' already"
    assert isinstance(registry.task_type(NAME), FunctionTask)


def test_what_is_left_out_is_told_once(package):
    with structlog.testing.capture_logs() as told:
        registry.task_type_names()
        registry.task_type_names()
    assert [event["event"] for event in told] == ["plugin_left_out"] * 4


def test_a_fresh_process_finds_the_same(package):
    """The child in the sandbox looks for itself, with the same folders on its path."""
    program = (
        f"import sys; sys.path[:0] = [{str(package)!r}, {str(Path(hm.__file__).parents[1])!r}]; "
        "from hivemind_p2p.tasks import registry; print(*(t.name for t in registry.task_types()))"
    )
    ran = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [*BUILT_IN, "word-count/1", "echo/2"]
    assert ran.stderr == ""


def test_a_package_that_was_taken_away_is_offered_no_more(package, monkeypatch):
    assert "echo/2" in registry.task_type_names()
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(package)])
    registry.forget()
    assert registry.task_type_names() == BUILT_IN


def test_no_more_plugins_are_loaded_than_an_offer_has_room_for(package):
    many = [_entry(f"copy{number:03}", f"works_tasks:{number}") for number in range(plugins.MOST_PLUGINS + 2)]
    for number, entry in enumerate(many):
        vars(entry)["load"] = lambda number=number: hm.task_type(f"copy{number}/1")(len)
    loaded, problems = plugins.load((), many)
    assert len(loaded) == plugins.MOST_PLUGINS
    assert [problem.plugin[:7] for problem in problems] == ["copy032", "copy033"]


def _entry(name, value):
    return EntryPoint(name=name, value=value, group=plugins.GROUP)


@pytest.mark.parametrize("name", ["a/1", "word-count/1", "org.example.count/12", "x_2/9999"])
def test_names_that_are_some(name):
    assert plugins.check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "a", "a/", "/1", "a/0", "a/01", "a/1/2", "A/1", "a b/1", "a/1\n", "-a/1", "a-/1", "a--b/1", "ä/1", "../1"],
)
def test_names_that_are_none(name):
    with pytest.raises(TaskTypeError):
        plugins.check_name(name)


@pytest.mark.parametrize("name", ["a/10000", "a" * 60 + "/1", 5, None, b"a/1"])
def test_what_is_too_long_or_no_text_is_no_name(name):
    with pytest.raises(TaskTypeError):
        plugins.check_name(name)


def test_what_runs_nothing_is_no_task_type():
    with pytest.raises(TaskTypeError, match="no method run"):
        hm.task_type("a/1")(type("Empty", (), {}))
    with pytest.raises(TaskTypeError, match="cannot be called"):
        hm.task_type("a/1")(5)
