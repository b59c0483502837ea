"""The documents are true of the code: links lead somewhere, and files, functions, commands and names exist."""

import ast
import dataclasses
import inspect
import re
import shlex
from pathlib import Path

import pytest
import typer

import hivemind_p2p
from hivemind_bootstrap import cli as bootstrap_cli
from hivemind_p2p import cli as peer_cli
from hivemind_p2p.config import Settings
from hivemind_p2p.hive import Hive
from hivemind_p2p.job import Job
from hivemind_p2p.model import Model
from hivemind_p2p.tasks.options import Options

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "hivemind_p2p"
ARCHITECTURE = ROOT / "docs" / "en" / "architecture.md"
TRANSPORT = ROOT / "docs" / "en" / "protocols" / "transport.md"
COMMANDS = {
    "hivemind-peer": typer.main.get_command(peer_cli.app),
    "hivemind-bootstrap": typer.main.get_command(bootstrap_cli.app),
}
USAGE_ERROR = typer.BadParameter.__base__  # click's UsageError, whether typer brings its own click or not
NAMES = {"hive": Hive, "job": Job, "model": Model}


def _documents():
    pages = [path for pattern in ("*.md", "docs/**/*.md", "notebooks/**/*.md") for path in ROOT.glob(pattern)]
    return [path for path in pages if ".ipynb_checkpoints" not in path.parts]


DOCUMENTS = sorted(_documents())
each_document = pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))


def _blocks(page, language):
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def _prose(page):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def _inline(page):
    return re.findall(r"`([^`\n]+)`", _prose(page))


# -- links -------------------------------------------------------------------------------------------------------------


def _anchors(page):
    """The anchors that headings get: lower case, without punctuation, spaces to hyphens."""
    headings = re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_every_relative_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in _anchors(target), f"{link}: there is no such heading"


def test_every_document_can_be_reached_from_the_readme():
    reached, to_read = set(), [ROOT / "README.md"]
    while to_read:
        page = to_read.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", _prose(page))
        to_read += [(page.parent / link).resolve() for link in links if not re.match(r"[a-z]+:", link)]
    assert not [page for page in (ROOT / "docs").rglob("*.md") if page not in reached]


@each_document
def test_nothing_speaks_of_the_machine_that_it_was_written_on(page):
    assert not re.search(r"/home/\w|/root/|/work/", page.read_text())


# -- files and functions -----------------------------------------------------------------------------------------------

_PATH = re.compile(r"^[\w./-]+(?:/|\.(?:py|proto|md|toml|txt))$")


def _file(name):
    """Where a file that a document names lies."""
    roots = (ROOT, LIBRARY)
    return next((root / name for root in roots if (root / name).exists()), None)


@pytest.mark.parametrize(
    "page", [ARCHITECTURE, *ROOT.glob("docs/en/decisions/*.md"), ROOT / "docs/en/security.md", ROOT / "CONTRIBUTING.md"]
)
def test_every_file_that_is_named_exists(page):
    # What lies in a data folder, or in a user's own, is no file of this repository.
    others = {"vouchers/", "content/", "work/", "config.toml"}
    names = {name for name in _inline(page) if _PATH.match(name)} - others
    assert not [name for name in names if _file(name) is None]


def _definitions(path):
    """Classes, functions and methods of a source file."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            functions = (item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}.{item.name}" for item in functions}
    return found


def _journey_steps():
    rows = re.findall(r"^\|([^|\n]+)\|((?: `[\w./]+\.py`,?)+) \|((?: `[\w.]+`,?)+) \|$", ARCHITECTURE.read_text(), re.M)
    return [(re.findall(r"`(.+?)`", files), re.findall(r"`(.+?)`", functions)) for _, files, functions in rows]


def test_every_step_of_the_journeys_names_functions_that_exist():
    steps = _journey_steps()
    assert len(steps) > 30
    for files, functions in steps:
        known = set().union(*(_definitions(_file(file)) for file in files))
        assert set(functions) <= known, files


def test_the_architecture_knows_every_part_of_the_library():
    parts = {path.stem for path in LIBRARY.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    text = ARCHITECTURE.read_text()
    assert not [part for part in parts - {"__init__", "__main__"} if not re.search(rf"\b{part}(/|\.py|\b)", text)]


def test_every_protocol_id_is_listed():
    sources = [*LIBRARY.rglob("*.py"), *(ROOT / "bootstrap").rglob("*.py")]
    spoken = {found for path in sources for found in re.findall(r'= "(/hivemind/\w+/\d+)"', path.read_text())}
    listed = set(re.findall(r"`(/hivemind/\w+/\d+)`", TRANSPORT.read_text()))
    assert spoken == listed


# -- commands ----------------------------------------------------------------------------------------------------------


def _command_lines(page):
    for block in _blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield line[2:]
    yield from _inline(page)


def _parse(line):
    """Parses one of our command lines as the program would, without running it. Two words only name a command."""
    program, *words = shlex.split(line, comments=True)
    command = COMMANDS[program]
    assert words, line
    assert words[0] in command.commands, line
    if len(words) > 1:
        command.commands[words[0]].make_context(words[0], words[1:])


@each_document
def test_every_command_of_ours_can_be_parsed(page):
    for line in _command_lines(page):
        if line.split(" ")[0] in COMMANDS and " " in line and "|" not in line:
            _parse(line)


@pytest.mark.parametrize("line", ["hivemind-peer fly", "hivemind-peer run --wings 2", "hivemind-peer run -v x"])
def test_a_wrong_command_is_noticed(line):
    with pytest.raises((AssertionError, USAGE_ERROR)):
        _parse(line)


@each_document
def test_every_option_exists(page):
    others = {"--strict", "--quick"}  # mypy's, the benchmarks'
    known = {
        option
        for group in COMMANDS.values()
        for command in [group, *group.commands.values()]
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    named = {word for text in _inline(page) for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}
    if "sandbox" not in page.name:  # that page speaks of bubblewrap's own options
        assert not named - known - others


@each_document
def test_every_make_target_exists(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for line in _command_lines(page) if len(words := line.split()) > 1 and words[0] == "make"}
    assert named <= targets


# -- Python ------------------------------------------------------------------------------------------------------------


def _python_blocks():
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
        for page in DOCUMENTS
        if "models" not in page.parts
        for number, block in enumerate(_blocks(page, "python"))
    ]


def _check_call(node):
    """Keywords of calls on the objects that a reader meets."""
    owner = node.func.value
    if not isinstance(owner, ast.Name) or owner.id not in {*NAMES, "hm"}:
        return
    target = getattr(hivemind_p2p if owner.id == "hm" else NAMES[owner.id], node.func.attr)
    parameters = inspect.signature(target).parameters
    named = {keyword.arg for keyword in node.keywords if keyword.arg}
    settings = {field.name for field in dataclasses.fields(Settings)} if "settings" in parameters else set()
    options = {field.name for field in dataclasses.fields(Options) if field.init} if "changes" in parameters else set()
    assert named <= {*parameters, *settings, *options}, f"{owner.id}.{node.func.attr}({', '.join(named)})"


@pytest.mark.parametrize("block", _python_blocks())
def test_python_in_the_documents_compiles_and_uses_names_that_exist(block):
    tree = compile(block, "README", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "hm":
                assert node.attr in hivemind_p2p.__all__
            elif node.value.id in NAMES:
                # Some attributes of an instance are made in __init__.
                known = {*dir(NAMES[node.value.id]), *_assigned(NAMES[node.value.id])}
                assert node.attr in known, f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            _check_call(node)


def _assigned(kind):
    return re.findall(r"self\.(\w+)(?:: [^=]+)? =", inspect.getsource(kind))


def test_the_first_screen_shows_every_step_and_is_the_same_in_both_languages():
    cells = [ast.parse(_blocks(ROOT / name, "python")[0]) for name in ("README.md", "README.zh-TW.md")]
    assert ast.dump(cells[0]) == ast.dump(cells[1])
    called = {node.attr for node in ast.walk(cells[0]) if isinstance(node, ast.Attribute)}
    assert {"local_hive", "submit", "map", "share", "publish_model", "load_model", "generate"} <= called
