"""What one fetch is to bring, in which order, and where to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from hivemind_p2p.bt.metainfo import Manifest, ManifestFile
from hivemind_p2p.types import ByteRange

Wanted = Mapping[str, Sequence[ByteRange]]
"""Byte ranges by file path."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One fetch.

    Attributes:
        manifest: Of the content.
        files: Which are made ready to be written.
        pieces: Which are wanted.
        urgent: Those of them that are wanted before all others, in this order.
        to: The folder to put it in; None for one of this peer's own.
        whole: Whether everything is wanted.
    """

    manifest: Manifest
    files: tuple[ManifestFile, ...]
    pieces: Sequence[int]
    urgent: tuple[int, ...]
    to: Path | None
    whole: bool

    def length_of(self, pieces: Iterable[int]) -> int:
        """Bytes of some pieces."""
        return sum(map(self.manifest.length_of, pieces))


def make_plan(manifest: Manifest, *, wanted: Wanted | None, first: Wanted | None, to: Path | None) -> Plan:
    """The plan for what a caller wants.

    Args:
        manifest: Of the content.
        wanted: Which ranges; None for everything.
        first: Which of these before all others, in this order. What is not wanted is left out.
        to: Where to put it.

    Raises:
        ContentError: A file is not in the content, or a range begins below zero.
    """
    pieces = manifest.pieces_of(wanted)
    ordered = (
        piece for path, spans in (first or {}).items() for span in spans for piece in manifest.pieces_of({path: [span]})
    )
    known = frozenset(pieces)
    return Plan(
        manifest,
        files=manifest.files if wanted is None else tuple(manifest.file(path) for path in wanted),
        pieces=pieces,
        urgent=tuple(piece for piece in dict.fromkeys(ordered) if piece in known),
        to=to,
        whole=wanted is None,
    )


def take_turns(wishes: Iterable[Iterable[int]]) -> tuple[int, ...]:
    """The pieces that several readers wait for as one order: the first of each, then the second of each."""
    turns = chain.from_iterable(zip_longest(*wishes))
    return tuple(dict.fromkeys(piece for piece in turns if piece is not None))
