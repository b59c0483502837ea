"""Which contents to drop so that what is wanted has room: the least recently used first.

Only what lies in the peer's own folder counts: files that the user shared, or had put into a folder of theirs, are the
user's. A content that is pinned or in use is never dropped, and nothing is dropped in vain: where all that may go would
not be enough, all stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hivemind_p2p.errors import QuotaError

RECENTLY = 60.0
"""Seconds for which a content counts as in use after its last use: who asked for it has yet to open it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A content in the peer's own folder.

    Attributes:
        infohash: Which.
        size: Bytes that it takes, or will take once what is being fetched of it is there.
        used_at: When it was last used, in seconds since the epoch.
        pinned: Whether it must stay.
        in_use: Whether it is being fetched or given to others.
    """

    infohash: bytes
    size: int
    used_at: float
    pinned: bool = False
    in_use: bool = False


def to_drop(kept: Iterable[Kept], *, wanted: bytes, more: int, quota: int, now: float) -> list[bytes]:
    """The contents to drop, in this order, before `more` bytes of the content `wanted` are fetched.

    Args:
        kept: All contents in the peer's own folder; `wanted` may be among them.
        wanted: What is to be fetched.
        more: Bytes of it that are not there.
        quota: Bytes that this peer may use; 0 for as many as there are.
        now: Seconds since the epoch.

    Raises:
        QuotaError: There would not be room even so.
    """
    if not quota or not more:
        return []
    contents = list(kept)
    over = sum(content.size for content in contents) + more - quota
    chosen: list[bytes] = []
    free = [
        content
        for content in contents
        if content.size and not (content.pinned or content.in_use or content.infohash == wanted)
    ]
    for content in sorted(free, key=lambda content: (content.used_at, content.infohash)):
        if over <= 0:
            break
        if now - content.used_at < RECENTLY:
            continue
        chosen.append(content.infohash)
        over -= content.size
    if over > 0:
        raise QuotaError(
            f"{_mebibytes(more)} more do not fit into the {_mebibytes(quota)} that this peer may use: "
            f"{_mebibytes(over)} are missing even without all contents that are neither pinned nor in use"
        )
    return chosen


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
