"""The contents of this peer as its tasks see them: the store of each, and what was moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

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
        length: Bytes of all its files.
        held_bytes: Bytes of the pieces that are here.
        path: Where it lies.
        shared: Whether these are the user's own files, served from where they lie.
        pinned: Whether it is never dropped to make room.
        used_at: When it was last used, in seconds since the epoch.
        fetching: Whether it is being fetched.
        paused: Why a fetch of it waits, if it does.
        downloaded_bytes: Bytes of pieces taken from others since the start, checked and stored.
        uploaded_bytes: Bytes of pieces given to others since the start.
        peers: Peers that it is exchanged with now.
        served: Those of them that may ask for pieces now.
    """

    link: str
    name: str
    pieces: int
    held_pieces: int
    length: int
    held_bytes: int
    path: str
    shared: bool
    pinned: bool
    used_at: float
    fetching: bool
    paused: str
    downloaded_bytes: int
    uploaded_bytes: int
    peers: int = 0
    served: int = 0


class Reading(Protocol):
    """Somebody who reads a content while it arrives. `reader.Reader` is it."""

    @property
    def ahead(self) -> range:
        """The pieces that are wanted first, in their order."""

    def arrived(self) -> None:
        """There is more to read than before."""


class Content:
    """A content that this peer has, wholly or in part.

    Attributes:
        store: What is there of it.
        pinned: Whether it must not be dropped to make room.
        used_at: When it was last used, in seconds since the epoch.
        target_bytes: Bytes that will be here once the fetch that is under way is done; 0 while there is none.
        fetches: Fetches of it that are under way.
        readers: Who reads it.
        paused: Why a fetch of it waits, if it does.
    """

    def __init__(self, store: ContentStore, *, pinned: bool = False, used_at: float = 0.0) -> None:
        self.store = store
        self.pinned = pinned
        self.used_at = used_at
        self.target_bytes = 0
        self.fetches = 0
        self.readers: set[Reading] = set()
        self.paused = ""
        self.downloaded_bytes = 0
        self.uploaded_bytes = 0
        self.banned: dict[PeerId, str] = {}
        self.on_arrival: Callable[[Sequence[int]], None] | None = None

    @property
    def in_use(self) -> bool:
        """Whether it is being fetched or read."""
        return self.fetches > 0 or bool(self.readers)

    def arrived(self, pieces: Sequence[int]) -> None:
        """Tells whoever exchanges or reads the content that these pieces are here."""
        if not pieces:
            return
        if self.on_arrival is not None:
            self.on_arrival(pieces)
        for reader in self.readers:
            reader.arrived()

    def replace(self, store: ContentStore) -> None:
        """The same content lies somewhere else now."""
        new = [piece for piece in store.held if piece not in self.store.held]
        self.store = store
        self.arrived(new)

    def statistics(self, *, peers: int = 0, served: int = 0) -> ContentStatistics:
        """The figures of this content, with how many it is exchanged with and how many are served."""
        manifest = self.store.manifest
        return ContentStatistics(
            link=manifest.link,
            name=manifest.name,
            pieces=manifest.pieces,
            held_pieces=len(self.store.held),
            length=manifest.length,
            held_bytes=self.store.held_bytes,
            path=str(self.store.path),
            shared=self.store.shared,
            pinned=self.pinned,
            used_at=self.used_at,
            fetching=self.fetches > 0,
            paused=self.paused,
            downloaded_bytes=self.downloaded_bytes,
            uploaded_bytes=self.uploaded_bytes,
            peers=peers,
            served=served,
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

    def put(self, store: ContentStore, *, pinned: bool = False, used_at: float = 0.0) -> Content:
        """Adds a store, or puts it in place of the one that its content had."""
        infohash = store.manifest.infohash
        content = self._by_infohash.get(infohash)
        if content is None:
            content = self._by_infohash[infohash] = Content(store, pinned=pinned, used_at=used_at)
        elif content.store is not store:
            content.replace(store)
        return content

    def remove(self, infohash: bytes) -> None:
        """Forgets a content."""
        self._by_infohash.pop(infohash, None)
