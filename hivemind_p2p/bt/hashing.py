"""The hash tree of a file (BEP 52): SHA-256 over blocks of 16 KiB, pairs of hashes hashed again up to one root.

Leaves that the file does not reach count as 32 zero bytes. A *piece* is a subtree whose width is a power of two; the
hashes of a file's pieces are its *piece layer*, and from these alone the root follows. A file that fits into one
piece has no layer: its root is the hash of its only piece, whose tree is just wide enough for it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from struct import Struct

TYPE_CHECKING = False  # a helper process is ready the sooner the less this imports
if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 16 * 1024
"""Bytes of a leaf, fixed by BEP 52."""

HASH = 32
"""Bytes of a SHA-256 hash."""

READ = 1024 * 1024
"""Bytes read at a time when hashing: large enough that the system call does not count, and it stays in the cache."""

SPAN = 64 * 1024 * 1024
"""Bytes hashed in one go by one thread: a tenth of a second, so cancelling does not wait long."""

_NO_LEAF = bytes(HASH)
_PAIRS = Struct(f"{2 * HASH}s")


@cache
def padding(height: int) -> bytes:
    """The hash of a subtree of 2**height leaves that the file does not reach."""
    if height == 0:
        return _NO_LEAF
    below = padding(height - 1)
    return sha256(below + below).digest()


def merge(layer: bytes, levels: int, *, height: int = 0) -> bytes:
    """The layer that lies `levels` above a layer: each hash of it stands for ``2**levels`` of those below.

    Args:
        layer: Hashes, one behind the other; at least one. What the last subtree lacks is padding.
        levels: How far up.
        height: How many layers are below this one, which decides what the padding is.
    """
    for level in range(height, height + levels):
        if len(layer) % (2 * HASH):
            layer += padding(level)
        layer = b"".join([sha256(pair).digest() for (pair,) in _PAIRS.iter_unpack(layer)])
    return layer


def leaf_layer(data: bytes | bytearray | memoryview) -> bytes:
    """The hashes of the blocks of `data`, of which only the last may be shorter."""
    with memoryview(data) as view:
        return _digests([view[at : at + BLOCK] for at in range(0, len(view), BLOCK)])


def _digests(blocks: Iterable[memoryview]) -> bytes:
    # `map` calls without a line of Python in between: while a block is hashed other threads hash too, and each line
    # that has to wait for the interpreter's lock costs more than the line itself.
    return b"".join([block.digest() for block in map(sha256, blocks)])


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`, and at least 1."""
    return 1 << max(0, number - 1).bit_length()


def piece_leaves(file_length: int, piece_length: int) -> int:
    """How many leaves the tree of each piece of a file has."""
    return power_of_two(-(-min(file_length, piece_length) // BLOCK))


def levels_of(width: int) -> int:
    """How many layers lie above one that is `width` wide, a power of two."""
    return width.bit_length() - 1


def piece_hash(data: bytes | bytearray | memoryview, *, leaves: int) -> bytes:
    """The hash of one piece.

    Args:
        data: Its bytes; at least one.
        leaves: From `piece_leaves`.
    """
    return merge(leaf_layer(data), levels_of(leaves))


def verify_piece(data: bytes | bytearray | memoryview, expected: bytes, *, leaves: int) -> bool:
    """Whether these are the bytes that the hash stands for."""
    return 0 < len(data) <= leaves * BLOCK and piece_hash(data, leaves=leaves) == expected


def root_of_layer(layer: bytes, piece_length: int) -> bytes:
    """The root of a file from its piece layer, the hashes of its pieces one behind the other."""
    levels = levels_of(power_of_two(len(layer) // HASH))
    return merge(layer, levels, height=levels_of(piece_length // BLOCK))


def coarser_layer(layer: bytes, *, file_length: int, known: int, wanted: int) -> bytes:
    """The piece layer of a file for longer pieces, from the one for shorter pieces, without its bytes.

    Args:
        layer: The hashes of its pieces; of a file that fits into one piece, its root.
        file_length: Bytes of the file.
        known: Bytes of the pieces that `layer` is of.
        wanted: Bytes of the longer pieces, or as long.
    """
    leaves = piece_leaves(file_length, known)
    return merge(layer, levels_of(piece_leaves(file_length, wanted) // leaves), height=levels_of(leaves))


def hash_span(path: Path | str, *, start: int, stop: int, leaves: int, buffer: memoryview | None = None) -> bytes:
    """The hashes of the pieces in bytes ``[start, stop)`` of a file, one behind the other. Blocks: run in a thread.

    Args:
        path: The file.
        start: Where a piece begins.
        stop: Where a piece, or the file, ends.
        leaves: From `piece_leaves`.
        buffer: `READ` bytes to read into, for who hashes many files; no other thread may use it meanwhile.

    Raises:
        OSError: It cannot be read.
        EOFError: It is shorter than `stop`.
    """
    buffer = buffer or memoryview(bytearray(READ))
    blocks = [buffer[at : at + BLOCK] for at in range(0, min(READ, stop - start), BLOCK)]
    layer = bytearray()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for at in range(start, stop, READ):
            length = min(READ, stop - at)
            _read_exactly(descriptor, buffer[:length], at)
            layer += _digests(blocks) if length == READ else leaf_layer(buffer[:length])
    finally:
        os.close(descriptor)
    # All inner nodes at the end: spread over the span they would keep the other threads from the lock all the time.
    return merge(bytes(layer), levels_of(leaves))


def hash_mapped(path: Path | str, *, start: int, stop: int, leaves: int) -> bytes:
    """As `hash_span`, from the system's own memory, which saves the copy: a tenth of the time.

    Whoever shortens the file meanwhile ends the process (SIGBUS), so this is only for one that may end.
    """
    if not hasattr(mmap, "MAP_POPULATE") or start % mmap.ALLOCATIONGRANULARITY or start >= stop:
        return hash_span(path, start=start, stop=stop, leaves=leaves)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size < stop:
            raise EOFError("the file is shorter than it was")
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        mapped = mmap.mmap(descriptor, stop - start, flags=flags, prot=mmap.PROT_READ, offset=start)
    finally:
        os.close(descriptor)
    with mapped, memoryview(mapped) as view:
        layer = leaf_layer(view)
    return merge(layer, levels_of(leaves))


def _read_exactly(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise EOFError("the file is shorter than it was")
        view = view[count:]
        offset += count
