"""The contents of this peer as its tasks see them: the store of each, and what was moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hivemind_p2p.bt.storage import ContentStore
from hivemind_p2p.types import PeerId


@dataclass(frozen=True, slots=True)
class ContentStatistics:
    """One content.

    Attributes:
        link: Which.
        name: Of its file or folder.
        pieces: How many it has.
        held_pieces: How many of them are here.
        downloaded_bytes: Bytes of pieces taken from others since the start, checked and stored.
        uploaded_bytes: Bytes of pieces given to others since the start.
    """

    link: str
    name: str
    pieces: int
    held_pieces: int
    downloaded_bytes: int
    uploaded_bytes: int


class Content:
    """A content that this peer has, wholly or in part."""

    def __init__(self, store: ContentStore) -> None:
        self.store = store
        self.downloaded_bytes = 0
        self.uploaded_bytes = 0
        self.banned: dict[PeerId, str] = {}
        self.on_arrival: Callable[[Sequence[int]], None] | None = None

    def arrived(self, pieces: Sequence[int]) -> None:
        """Tells whoever exchanges the content that these pieces can be given out."""
        if pieces and self.on_arrival is not None:
            self.on_arrival(pieces)

    def replace(self, store: ContentStore) -> None:
        """The same content lies somewhere else now."""
        new = [piece for piece in store.held if piece not in self.store.held]
        self.store = store
        self.arrived(new)

    def statistics(self) -> ContentStatistics:
        """The figures of this content."""
        manifest = self.store.manifest
        return ContentStatistics(
            link=manifest.link,
            name=manifest.name,
            pieces=manifest.pieces,
            held_pieces=len(self.store.held),
            downloaded_bytes=self.downloaded_bytes,
            uploaded_bytes=self.uploaded_bytes,
        )


class Contents:
    """All contents of this peer, by info hash."""

    def __init__(self) -> None:
        self._by_infohash: dict[bytes, Content] = {}

    def __iter__(self) -> Iterator[Content]:
        return iter(tuple(self._by_infohash.values()))

    def get(self, infohash: bytes) -> Content | None:
        """The content, if this peer has any of it."""
        return self._by_infohash.get(infohash)

    def put(self, store: ContentStore) -> Content:
        """Adds a store, or puts it in place of the one that its content had."""
        infohash = store.manifest.infohash
        content = self._by_infohash.get(infohash)
        if content is None:
            content = self._by_infohash[infohash] = Content(store)
        elif content.store is not store:
            content.replace(store)
        return content
