"""Hashing many files of any sizes in all cores: long ones in spans, short ones many at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hivemind_p2p.bt.concurrency import RunSync, nursery_of_one
from hivemind_p2p.bt.hash_book import Fingerprint
from hivemind_p2p.bt.hashing import READ, SPAN, hash_span, piece_leaves
from hivemind_p2p.bt.metainfo import choose_piece_length
from hivemind_p2p.errors import ContentError

MOST_TOGETHER = 256
"""Short files that are hashed in one go: opening so many takes as long as hashing a few megabytes."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file on the disk, as it was when it was found.

    Attributes:
        path: Where it lies.
        parts: Its path in the content.
        length: Bytes.
        modified: When it was last written to, in nanoseconds since the epoch.
        device: The file system that it lies on.
        inode: Its number there.
    """

    path: Path
    parts: tuple[str, ...]
    length: int
    modified: int
    device: int = 0
    inode: int = 0

    @property
    def fingerprint(self) -> Fingerprint:
        """By which it is known again."""
        return Fingerprint(self.device, self.inode, self.length, self.modified)


@dataclass(frozen=True, slots=True)
class _Span:
    file: FoundFile
    start: int
    stop: int


async def hash_files(files: Sequence[FoundFile], run_sync: RunSync) -> dict[FoundFile, bytes]:
    """The piece layer of each file, for the piece length that it has when it is shared by itself.

    Raises:
        ContentError: A file cannot be read, or changed meanwhile.
    """
    hashed: dict[FoundFile, bytearray] = {file: bytearray(_layer_bytes(file)) for file in files}
    jobs = _jobs(files)

    async def work() -> None:
        for job in jobs:
            for span, layer in zip(job, await run_sync(partial(_hash, job)), strict=True):
                at = _layer_bytes(span.file, span.start)
                hashed[span.file][at : at + len(layer)] = layer

    async with nursery_of_one() as nursery:
        for _ in range(min(os.cpu_count() or 1, len(files) + sum(file.length for file in files) // SPAN)):
            nursery.start_soon(work)
    await run_sync(partial(_check_unchanged, files))
    return {file: bytes(layer) for file, layer in hashed.items()}


def _layer_bytes(file: FoundFile, length: int | None = None) -> int:
    length = file.length if length is None else length
    return -(-length // choose_piece_length(file.length)) * 32


def _jobs(files: Sequence[FoundFile]) -> Iterator[list[_Span]]:
    """Spans, as many together as are hashed in one go. A generator, so that the workers share it."""
    together: list[_Span] = []
    size = 0
    for file in files:
        for start in range(0, file.length, SPAN):
            span = _Span(file, start, min(start + SPAN, file.length))
            if together and (size + span.stop - span.start > SPAN or len(together) == MOST_TOGETHER):
                yield together
                together, size = [], 0
            together.append(span)
            size += span.stop - span.start
    if together:
        yield together


def _hash(job: Sequence[_Span]) -> list[bytes]:
    layers = []
    buffer = memoryview(bytearray(READ))
    for span in job:
        leaves = piece_leaves(span.file.length, choose_piece_length(span.file.length))
        try:
            layer = hash_span(span.file.path, start=span.start, stop=span.stop, leaves=leaves, buffer=buffer)
        except (OSError, EOFError) as error:
            raise ContentError(f"cannot read {span.file.path}: {error}") from error
        layers.append(layer)
    return layers


def _check_unchanged(files: Sequence[FoundFile]) -> None:
    for file in files:
        try:
            after = file.path.stat()
        except OSError as error:
            raise ContentError(f"cannot read {file.path}: {error}") from error
        if (after.st_size, after.st_mtime_ns) != (file.length, file.modified):
            raise ContentError(
                f"{file.path} changed while it was hashed", hint="Share it again once nobody writes to it."
            )
