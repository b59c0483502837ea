"""Regenerates every ``*_pb2.py`` and ``*_pb2.pyi`` from the ``.proto`` files.

Run as ``python -m hivemind_p2p.proto.generate``. Needs ``grpcio-tools`` (in the ``dev`` extra), which brings protoc.
``--check`` changes nothing and fails when a generated file is not what its ``.proto`` says.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent


def generate(target: Path) -> list[Path]:
    """Writes the generated files below `target` and returns them."""
    from grpc_tools import protoc

    sources = sorted(str(path.relative_to(ROOT)) for path in FOLDER.glob("*.proto"))
    arguments = ["protoc", f"-I{ROOT}", f"--python_out={target}", f"--pyi_out={target}", *sources]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")
    return sorted((target / FOLDER.relative_to(ROOT)).glob("*_pb2.py*"))


def stale() -> list[str]:
    """Names of generated files that differ from what their sources say."""
    with tempfile.TemporaryDirectory() as folder:
        made = generate(Path(folder))
        return [path.name for path in made if not _same(path, FOLDER / path.name)]


def _same(made: Path, kept: Path) -> bool:
    return kept.exists() and kept.read_bytes() == made.read_bytes()


def main() -> None:
    """The command."""
    if "--check" not in sys.argv[1:]:
        generate(ROOT)
        return
    if names := stale():
        raise SystemExit(f"not up to date: {', '.join(names)}; run python -m hivemind_p2p.proto.generate")


if __name__ == "__main__":
    main()
