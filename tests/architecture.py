"""The rules of the house, checked on source text: who may import whom. `test_architecture.py` applies them.

Everything here works on a mapping of module names to sources, so that the rules themselves can be tested on made-up
sources.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

LIBRARY = "hivemind_p2p"
OPERATOR = "hivemind_bootstrap"

LAYERS = {
    "errors": 0,
    "types": 0,
    "interfaces": 0,
    "config": 0,
    "data_folder": 0,
    "defaults": 0,
    "hive_key": 0,
    "identity": 0,
    "telemetry": 0,
    "proto": 1,
    "net": 2,
    "dht": 3,
    "bt": 3,
    "sharding": 3,
    "tasks": 3,
    "credits": 3,
    "worker": 4,
    "lending": 5,
    "misbehaviour": 5,
    "offers": 5,
    "peer": 5,
    "record_validators": 5,
    "portal": 6,
    "current": 6,
    "jobs_page": 6,
    "large_arguments": 6,
    "ecosystem": 6,
    "token_stream": 6,
    "job": 6,
    "job_listener": 6,
    "job_output": 6,
    "mapped_jobs": 6,
    "task_methods": 6,
    "model": 6,
    "views": 6,
    "hive": 6,
    "async_hive": 6,
    "content_file": 6,
    "node_process": 6,
    "local": 6,
    "notebook": 7,
    "options": 7,
    "program": 7,
    "running": 7,
    "model_commands": 7,
    "swarm_commands": 7,
    "tables": 7,
    "demo": 7,
    "doctor": 7,
    "cli": 7,
    "__main__": 7,
    "testing": 7,
}
"""The part of the library that each first name below ``hivemind_p2p`` belongs to, from the ground up."""

SIBLINGS = ("bt", "credits", "dht", "sharding", "tasks")

SHOW_THEMSELVES = {"async_hive", "hive", "job", "local", "mapped_jobs", "model", "task_methods", "views"}
"""Parts of layer 6 whose objects show themselves in a notebook: they load ``notebook/`` inside the function that
does so, and only there."""

DECISIONS = {
    "net": (
        "addresses",
        "backoff",
        "noise",
        "noise_packets",
        "noise_pattern",
        "reachability",
        "relay_book",
        "yamux",
        "yamux_frames",
        "yamux_limits",
        "yamux_streams",
    ),
    "dht": (
        "clients",
        "contacts",
        "ids",
        "hive_clock",
        "kademlia_node",
        "kademlia_wire",
        "lookup",
        "messages",
        "networks",
        "node",
        "placements",
        "paths",
        "population",
        "providers",
        "publications",
        "record_cache",
        "record_store",
        "records",
        "round_trips",
        "replication",
        "routing_table",
        "tally",
        "validators",
        "wire",
    ),
    "bt": (
        "actions",
        "bencode",
        "bitfield",
        "buffers",
        "choker",
        "download",
        "giving",
        "hashing",
        "link",
        "member",
        "metainfo",
        "metainfo_codec",
        "peer_exchange",
        "picker",
        "piece_map",
        "plan",
        "quota",
        "rate_limit",
        "request_window",
        "super_seeding",
        "taking",
        "wire",
    ),
    "sharding": (
        "batching",
        "generation",
        "headers",
        "intake",
        "placement",
        "results",
        "route",
        "sampling",
        "speculation",
        "watch",
    ),
    "tasks": (
        "admission",
        "columns",
        "course",
        "demand",
        "elements",
        "estimates",
        "helping",
        "matching",
        "plugins",
        "quorum",
        "raised",
        "reading",
        "registry",
        "spec",
        "standing",
        "tab",
        "values",
        "wire",
    ),
    "credits": ("earner_book", "payer_book", "pricing", "receipts", "vouchers", "wire"),
    "worker": ("landlock", "lanes", "packets", "readiness", "schedule", "seccomp", "system_calls"),
    "doctor": (
        "findings",
        "hive_facts",
        "hive_findings",
        "judgement",
        "machine_facts",
        "machine_findings",
        "words",
    ),
}
"""The rooms that decide: events and `now` go in, actions come out."""

OPERATOR_DECISIONS = ("ledger", "settlement", "tracker", "tracker_requests")

DOING = frozenset(
    {"asyncio", "libp2p", "multiprocessing", "random", "secrets", "socket", "subprocess", "threading", "time", "trio"}
)
"""What a room that decides has no use for."""

READS_ENVIRONMENT = {f"{LIBRARY}.config"}
HANDS_ENVIRONMENT_ON = {f"{LIBRARY}.node_process"}
"""Starts a child with this process's environment, without looking into it."""


@dataclass(frozen=True)
class Import:
    """One imported name: by whom, what (the dotted path as far as it is a module), and how."""

    importer: str
    imported: str
    in_function: bool
    for_types: bool


def sources_of(root: Path) -> dict[str, str]:
    """The sources of a package by module name; generated files are left out."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        if path.stem.endswith("_pb2"):
            continue
        parts = [root.name, *path.relative_to(root).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path.read_text()
    return found


def imports_of(sources: Mapping[str, str]) -> list[Import]:
    """Every import statement of every module."""
    return [
        Import(name, target, in_function, for_types)
        for name, source in sources.items()
        for node, in_function, for_types in _import_nodes(ast.parse(source))
        for target in _targets(node, sources)
    ]


def _import_nodes(tree: ast.AST, in_function: bool = False, for_types: bool = False) -> Iterator[tuple]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, in_function, for_types
            continue
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for part in node.body:
                yield from _import_nodes(ast.Module([part], []), inside, True)
            for part in node.orelse:
                yield from _import_nodes(ast.Module([part], []), inside, for_types)
            continue
        yield from _import_nodes(node, inside, for_types)


def _targets(node: ast.Import | ast.ImportFrom, known: Mapping[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    if node.level:
        raise AssertionError(f"a relative import in line {node.lineno}: write it in full")
    assert node.module is not None
    for alias in node.names:
        full = f"{node.module}.{alias.name}"
        # A name below our own packages may be a module, or something inside one.
        inside_package = node.module in (LIBRARY, f"{LIBRARY}.proto") or full in known
        yield full if inside_package else node.module


def part_of(module: str) -> str:
    """The part of the house that a module of the library belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def upward_imports(imports: list[Import]) -> list[str]:
    """Imports that run upwards."""
    return [
        f"{found.importer} imports {found.imported}"
        for found in imports
        if _within(found.importer, LIBRARY) and _within(found.imported, LIBRARY) and not _may_import(found)
    ]


def _may_import(found: Import) -> bool:
    if found.importer == LIBRARY:
        # The lazy re-exports: nothing is imported when the package is.
        return found.for_types
    importer, imported = part_of(found.importer), part_of(found.imported)
    if imported == "__init__" or found.imported == f"{LIBRARY}.__version__":
        return True
    if imported == "notebook" and importer in SHOW_THEMSELVES:
        return found.in_function
    return LAYERS[imported] <= LAYERS[importer]


def sibling_imports(imports: list[Import]) -> list[str]:
    """Imports from one service to another."""
    return [
        f"{found.importer} imports {found.imported}"
        for found in imports
        if _within(found.importer, LIBRARY)
        and _within(found.imported, LIBRARY)
        and part_of(found.importer) in SIBLINGS
        and part_of(found.imported) in SIBLINGS
        and part_of(found.importer) != part_of(found.imported)
    ]


def unplaced(sources: Mapping[str, str]) -> list[str]:
    """Modules that belong to no layer."""
    return [name for name in sources if name != LIBRARY and part_of(name) not in LAYERS]


def imports_outside(imports: list[Import], package: str, homes: tuple[str, ...]) -> list[str]:
    """Imports of a package by modules that are not in its homes."""
    return [
        f"{found.importer} imports {found.imported}"
        for found in imports
        if _within(found.imported, package) and not any(_within(found.importer, home) for home in homes)
    ]


def impure(sources: Mapping[str, str], imports: list[Import], decision: str) -> list[str]:
    """The ways in which a room that decides reaches something that does, through our own modules."""
    chains, seen, found = [(decision,)], {decision}, []
    while chains:
        chain = chains.pop()
        for each in imports:
            if each.importer != chain[-1] or each.for_types:
                continue
            if each.imported.split(".")[0] in DOING:
                found.append(" imports ".join((*chain, each.imported)))
            elif each.imported in sources and each.imported not in seen and not each.in_function:
                seen.add(each.imported)
                chains.append((*chain, each.imported))
    return found


def environment_readers(sources: Mapping[str, str]) -> list[str]:
    """Modules that read environment variables, or TOML."""
    return [
        name
        for name, source in sources.items()
        if name not in READS_ENVIRONMENT and _reads_environment(ast.parse(source), name in HANDS_ENVIRONMENT_ON)
    ]


def _reads_environment(tree: ast.AST, may_hand_on: bool) -> bool:
    handed_on = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if key is None and may_hand_on
    }
    return any(
        (isinstance(node, ast.Attribute) and node.attr in {"environ", "environb"} and id(node) not in handed_on)
        or (isinstance(node, ast.Attribute) and node.attr in {"getenv", "getenvb"})
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and any("env" in a.name for a in node.names))
        or (isinstance(node, ast.Import) and any(a.name in {"tomllib", "tomli"} for a in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module in {"tomllib", "tomli"})
        for node in ast.walk(tree)
    )


def statements_that_do(source: str) -> list[int]:
    """The lines of a module's top level that do something when it is imported, beyond naming things."""
    naming = (
        ast.Import,
        ast.ImportFrom,
        ast.Assign,
        ast.AnnAssign,
        ast.FunctionDef,
        ast.AsyncFunctionDef,
        ast.ClassDef,
    )
    return [
        node.lineno
        for node in ast.parse(source).body
        if not isinstance(node, naming) and not _is_text(node) and not _is_guard(node)
    ]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and any(name in ast.dump(node.test) for name in ("TYPE_CHECKING", "__main__"))


def tree_in_text(text: str) -> dict[str, str | None]:
    """Classes and their parents as a drawn tree tells them (``├── Name``, four columns a level)."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in text.splitlines():
        drawn = line.rstrip()
        name = drawn.lstrip(" │├└─").split(" ")[0]
        if not name.endswith("Error") or (not path and drawn.strip() != name):
            continue
        depth = (len(drawn) - len(drawn.lstrip(" │├└─")) - 4) // 4
        path = [*path[:depth], name]
        parents[name] = path[depth - 1] if depth else None
    return parents
