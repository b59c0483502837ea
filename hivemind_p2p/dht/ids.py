"""Where peers and keys lie: both are hashed to points of one 256-bit space, and closeness is the XOR of two points.

Source: Maymounkov and Mazières, "Kademlia: A Peer-to-peer Information System Based on the XOR Metric", 2002.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import NewType

import base58

from hivemind_p2p.types import PeerId

NodeId = NewType("NodeId", int)
"""A point of the space, in [0, 2^256)."""

ID_BITS = 256
ID_BYTES = ID_BITS // 8

FARTHEST = (1 << ID_BITS) - 1
"""No two points are farther apart."""


@lru_cache(maxsize=32768)
def of_peer(peer: PeerId) -> NodeId:
    """Where a peer lies: the SHA-256 of the bytes of its id (the libp2p Kademlia specification).

    What is no base58, as the made-up names of simulations, is hashed as text.
    """
    try:
        raw = base58.b58decode(peer)
    except ValueError:
        raw = peer.encode()
    return of_bytes(raw)


def of_bytes(key: bytes) -> NodeId:
    """Where a key of the standard's messages lies: its SHA-256."""
    return from_bytes(hashlib.sha256(key).digest())


def of_key(key: str) -> NodeId:
    """Where a key lies: the SHA-256 of its text."""
    return of_bytes(key.encode())


def from_bytes(data: bytes) -> NodeId:
    """The point that 32 bytes, most significant first, stand for."""
    if len(data) != ID_BYTES:
        raise ValueError(f"a point has {ID_BYTES} bytes, this has {len(data)}")
    return NodeId(int.from_bytes(data, "big"))


def to_bytes(point: NodeId) -> bytes:
    """The 32 bytes of a point, most significant first."""
    return point.to_bytes(ID_BYTES, "big")


def distance(one: NodeId, other: NodeId) -> int:
    """How far apart two points are: their XOR as a number."""
    return one ^ other


def bucket_index(own: NodeId, other: NodeId) -> int:
    """How many leading bits two points share: bucket 0 holds the far half of the space, 255 the nearest neighbour.

    Raises:
        ValueError: They are the same point.
    """
    if own == other:
        raise ValueError("a point is in none of its own buckets")
    return ID_BITS - distance(own, other).bit_length()


def in_bucket(own: NodeId, index: int, random_bits: int) -> NodeId:
    """A point in a bucket of `own`: it shares `index` bits, differs in the next, and is random after that.

    Args:
        own: Whose bucket.
        index: Which bucket, in [0, 256).
        random_bits: At least 256 random bits, as a number.
    """
    below = ID_BITS - index - 1
    difference = (1 << below) | (random_bits & ((1 << below) - 1))
    return NodeId(own ^ difference)
