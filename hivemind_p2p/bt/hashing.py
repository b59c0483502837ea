"""The hash tree of a file (BEP 52): SHA-256 over blocks of 16 KiB, pairs of hashes hashed again up to one root.

Leaves that the file does not reach count as 32 zero bytes. A *piece* is a subtree whose width is a power of two; the
hashes of a file's pieces are its *piece layer*, and from these alone the root follows. A file that fits into one
piece has no layer: its root is the hash of its only piece, whose tree is just wide enough for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
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


@cache
def padding(height: int) -> bytes:
    """The hash of a subtree of 2**height leaves that the file does not reach."""
    if height == 0:
        return _NO_LEAF
    below = padding(height - 1)
    return sha256(below + below).digest()


def merkle_root(hashes: Sequence[bytes], *, width: int, height: int = 0) -> bytes:
    """The root above a layer.

    Args:
        hashes: The first hashes of the layer; at least one.
        width: How many there would be with padding, a power of two.
        height: How many layers are below this one, which decides what the padding is.
    """
    layer = list(hashes)
    while width > 1:
        if len(layer) % 2:
            layer.append(padding(height))
        layer = [sha256(layer[at] + layer[at + 1]).digest() for at in range(0, len(layer), 2)]
        width //= 2
        height += 1
    return layer[0]


def leaf_hashes(data: bytes | bytearray | memoryview) -> list[bytes]:
    """The hash of each block of `data`, of which only the last may be shorter."""
    view = memoryview(data)
    return [sha256(view[at : at + BLOCK]).digest() for at in range(0, len(view), BLOCK)]


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`, and at least 1."""
    return 1 << max(0, number - 1).bit_length()


def piece_leaves(file_length: int, piece_length: int) -> int:
    """How many leaves the tree of each piece of a file has."""
    return power_of_two(-(-min(file_length, piece_length) // BLOCK))


def piece_hash(data: bytes | bytearray | memoryview, *, leaves: int) -> bytes:
    """The hash of one piece.

    Args:
        data: Its bytes; at least one.
        leaves: From `piece_leaves`.
    """
    return merkle_root(leaf_hashes(data), width=leaves)


def verify_piece(data: bytes | bytearray | memoryview, expected: bytes, *, leaves: int) -> bool:
    """Whether these are the bytes that the hash stands for."""
    return 0 < len(data) <= leaves * BLOCK and piece_hash(data, leaves=leaves) == expected


def root_of_layer(layer: bytes, piece_length: int) -> bytes:
    """The root of a file from its piece layer, the hashes of its pieces one behind the other."""
    hashes = [layer[at : at + HASH] for at in range(0, len(layer), HASH)]
    height = (piece_length // BLOCK).bit_length() - 1
    return merkle_root(hashes, width=power_of_two(len(hashes)), height=height)


def hash_span(path: Path, *, start: int, stop: int, leaves: int) -> bytes:
    """The hashes of the pieces in bytes ``[start, stop)`` of a file, one behind the other. Blocks: run in a thread.

    Args:
        path: The file.
        start: Where a piece begins.
        stop: Where a piece, or the file, ends.
        leaves: From `piece_leaves`.

    Raises:
        OSError: It cannot be read.
        EOFError: It is shorter than `stop`.
    """
    piece = leaves * BLOCK
    buffer = bytearray(max(piece, READ // piece * piece))
    view = memoryview(buffer)
    hashes: list[bytes] = []
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while start < stop:
            wanted = min(len(buffer), stop - start)
            _read_exactly(file.fileno(), view[:wanted])
            hashes += [piece_hash(view[at : min(at + piece, wanted)], leaves=leaves) for at in range(0, wanted, piece)]
            start += wanted
    return b"".join(hashes)


def _read_exactly(descriptor: int, view: memoryview) -> None:
    while view:
        count = os.readv(descriptor, [view])
        if count == 0:
            raise EOFError("the file is shorter than it was")
        view = view[count:]
