"""Hashing many files of any sizes in all cores: long ones in spans, short ones many at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hivemind_p2p.bt.concurrency import RunSync, nursery_of_one
from hivemind_p2p.bt.hash_book import Fingerprint
from hivemind_p2p.bt.hashing import READ, SPAN, hash_span, piece_leaves
from hivemind_p2p.bt.helpers import Helper, HelperError, start_helper
from hivemind_p2p.bt.metainfo import choose_piece_length
from hivemind_p2p.errors import ContentError

MOST_TOGETHER = 256
"""Short files that are hashed in one go: opening so many takes as long as hashing a few megabytes."""

WORTH_HELPERS = 128 * 1024 * 1024
"""Bytes from which on helper processes hash: threads get in each other's way, but processes take 0.1 s to start."""


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


async def hash_files(files: Sequence[FoundFile], run_sync: RunSync, *, helpers: bool = False) -> dict[FoundFile, bytes]:
    """The piece layer of each file, for the piece length that it has when it is shared by itself.

    Args:
        files: Files.
        run_sync: Runs what blocks.
        helpers: Whether processes may be started for it, one a core, where there is much to hash.

    Raises:
        ContentError: A file cannot be read, or changed meanwhile.
    """
    hashed: dict[FoundFile, bytearray] = {file: bytearray(_layer_bytes(file)) for file in files}
    jobs = _jobs(files)
    size = sum(file.length for file in files)
    workers = min(os.cpu_count() or 1, len(files) + size // SPAN)
    with_helpers = helpers and workers > 1 and size >= WORTH_HELPERS

    async def work() -> None:
        helper = await run_sync(start_helper) if with_helpers else None
        try:
            for job in jobs:
                for span, layer in zip(job, await run_sync(partial(_hash_by, helper, job)), strict=True):
                    at = _layer_bytes(span.file, span.start)
                    hashed[span.file][at : at + len(layer)] = layer
        finally:
            if helper is not None:
                helper.close()

    async with nursery_of_one() as nursery:
        for _ in range(workers):
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


def _hash_by(helper: Helper | None, job: Sequence[_Span]) -> list[bytes]:
    """The layers of spans, by a helper if there is one that answers and can read them."""
    if helper is not None:
        # What it cannot read is tried here: either it can be read after all, or the error names the file.
        with suppress(HelperError, OSError, EOFError):
            return helper.hash([(str(span.file.path), span.start, span.stop, _leaves(span.file)) for span in job])
    return _hash(job)


def _hash(job: Sequence[_Span]) -> list[bytes]:
    layers = []
    buffer = memoryview(bytearray(READ))
    for span in job:
        try:
            layer = hash_span(
                span.file.path, start=span.start, stop=span.stop, leaves=_leaves(span.file), buffer=buffer
            )
        except (OSError, EOFError) as error:
            raise ContentError(f"cannot read {span.file.path}: {error}") from error
        layers.append(layer)
    return layers


def _leaves(file: FoundFile) -> int:
    return piece_leaves(file.length, choose_piece_length(file.length))


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
