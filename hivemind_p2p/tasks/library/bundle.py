"""The task type ``bundle/1``: a zip with a program, whose output comes back as a zip.

    main.py             is run, with the bundle's folder as the working folder
    requirements.txt    optional: distributions that the peer must have installed; nothing is installed for a task
    task.json           optional: {"arguments": ["--fast"]}
    output/             what the program writes there comes back

What comes back has ``output/``, ``stdout.txt`` and ``log.txt`` (what went to the standard error). A program that fails
gives its status and what it had written until then.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from hivemind_p2p.errors import ArchiveError, TaskFailedError
from hivemind_p2p.tasks import archives
from hivemind_p2p.tasks.library import command
from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES

NAME: Final = "bundle/1"

MAX_TEXT: Final = 64 << 10
"""Bytes of ``task.json`` and of ``requirements.txt``."""

_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:==\s*([A-Za-z0-9.+!]+))?")


class BundleTask:
    """Runs what `pack` packed."""

    name = NAME

    def run(self, payload: memoryview) -> dict[str, Any]:
        """Unpacks and runs a bundle. In the sandboxed child only.

        Returns:
            ``status``, and ``zip``: the bytes of the archive that comes back.

        Raises:
            TaskFailedError: It is no bundle, needs what this peer lacks, or its output is too large.
        """
        with tempfile.TemporaryDirectory(prefix="bundle-") as name:
            folder, working = Path(name), Path(name, "work")
            working.mkdir()
            try:
                archives.unpack(payload, working)
                arguments = _arguments(working)
                ended = command.run_program([sys.executable, "-E", "-s", "-u", "main.py", *arguments], b"", working)
                return {"status": ended["status"], "zip": _results(folder / "back", working / "output", ended)}
            except ArchiveError as error:
                raise TaskFailedError(f"{error.message}", hint=error.hint) from error


def pack(path: Path) -> bytes:
    """A folder or zip as the payload of a task.

    Raises:
        ArchiveError: It is no bundle, or larger than a task can be.
    """
    try:
        packed = archives.pack_folder(path) if path.is_dir() else _read(path)
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            has_main = "main.py" in archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ArchiveError(f"cannot read the bundle {path}: {error}", hint="Name a folder or a zip file.") from error
    if not has_main:
        raise ArchiveError(f"there is no main.py in {path}", hint="Put the program to run at the top, as main.py.")
    if len(packed) > MAX_PAYLOAD_BYTES:
        raise ArchiveError(f"the bundle {path} has {len(packed):,} bytes, and a task {MAX_PAYLOAD_BYTES:,}")
    return packed


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_PAYLOAD_BYTES + 1)


def _arguments(working: Path) -> list[str]:
    """Checks what was unpacked; the arguments of its program."""
    if not working.joinpath("main.py").is_file():
        raise TaskFailedError("the bundle has no main.py")
    lacking = [line for line in _text(working / "requirements.txt").splitlines() if not _is_met(line)]
    if lacking:
        raise TaskFailedError(
            f"this peer does not have {', '.join(lacking)[:500]}, and installs nothing for a task",
            hint="Put what the program needs into the bundle, or choose peers that have it.",
        )
    text = _text(working / "task.json")
    try:
        task = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise TaskFailedError(f"the bundle's task.json is no JSON: {error}"[:500]) from error
    if not isinstance(task, dict) or task.keys() - {"arguments"}:
        raise TaskFailedError('the bundle\'s task.json may hold {"arguments": [...]} and nothing else')
    arguments = task.get("arguments", [])
    if not isinstance(arguments, list) or (problem := command.problem_with(["main.py", *arguments])):
        raise TaskFailedError(
            f"the bundle's arguments are wrong: {problem if isinstance(arguments, list) else 'no list'}"
        )
    return arguments


def _text(path: Path) -> str:
    if not path.is_file():
        return ""
    if path.stat().st_size > MAX_TEXT:
        raise TaskFailedError(f"the bundle's {path.name} has more than {MAX_TEXT:,} bytes")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise TaskFailedError(f"the bundle's {path.name} is no UTF-8 text") from error


def _is_met(line: str) -> bool:
    """Whether a line asks for nothing, or for a distribution that is installed, at the version that it names."""
    wanted = line.partition("#")[0].strip()
    if not wanted:
        return True
    found = _REQUIREMENT.fullmatch(wanted)
    if found is None:
        return False
    try:
        version = metadata.version(found[1])
    except metadata.PackageNotFoundError:
        return False
    return found[2] is None or found[2] == version


def _results(back: Path, output: Path, ended: dict[str, Any]) -> bytes:
    back.mkdir()
    back.joinpath("stdout.txt").write_bytes(ended["output"])
    back.joinpath("log.txt").write_bytes(ended["errors"])
    if output.is_dir() and not output.is_symlink():
        shutil.move(output, back / "output")
    return archives.pack_folder(back)
