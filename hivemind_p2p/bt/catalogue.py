"""The contents that this peer has, remembered across restarts: one small folder for each.

    catalogue/<info hash>/manifest.torrent   what it is
                          pieces             which pieces are there (`piece_log`)
                          content.json       where it lies; written last, so an entry without it does not count;
                                             its modification time says when the content was last used
                          pinned             is there if it must not be dropped to make room

Everything here blocks and is run in threads.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hivemind_p2p import telemetry
from hivemind_p2p.bt.files import translated, write_atomically
from hivemind_p2p.bt.metainfo import Manifest
from hivemind_p2p.bt.metainfo_codec import parse
from hivemind_p2p.bt.piece_log import PieceLog
from hivemind_p2p.bt.storage import ContentStore
from hivemind_p2p.errors import ContentError, HivemindError

_ENTRY = "content.json"
_MANIFEST = "manifest.torrent"
_PIECES = "pieces"
_PINNED = "pinned"

_events = telemetry.source("swarm")


@dataclass(frozen=True, slots=True)
class Entry:
    """A content that is remembered.

    Attributes:
        store: What is there of it, and where.
        pinned: Whether it must not be dropped to make room.
        used_at: When it was last used, in seconds since the epoch.
    """

    store: ContentStore
    pinned: bool
    used_at: float


class Catalogue:
    """Keeps the entries below a folder.

    Args:
        folder: This peer's folder for contents, made on first use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "catalogue"

    def load(self) -> list[ContentStore]:
        """Every content that was added. An entry that cannot be read is left out, and told as an event."""
        return [entry.store for entry in self.entries()]

    def entries(self) -> list[Entry]:
        """The same, with what else is known of each."""
        entries: list[Entry] = []
        for entry in sorted(self._folder.glob(f"*/{_ENTRY}")):
            try:
                store = _load(entry.parent)
                entries.append(Entry(store, self.is_pinned(store.manifest.infohash), entry.stat().st_mtime))
            except (HivemindError, OSError, ValueError, KeyError, TypeError) as error:
                _events.warning("catalogue_entry_unreadable", entry=str(entry.parent), error=str(error))
        return entries

    def add(
        self,
        manifest: Manifest,
        location: Path,
        *,
        now: float,
        shared: bool = False,
        staged: bool = False,
        stamps: Mapping[str, int] | None = None,
    ) -> ContentStore:
        """Adds a content, in place of an entry that it may have had.

        Args:
            manifest: What it is.
            location: The folder in which its file or folder lies, or will lie.
            now: Seconds since the epoch, for people who look into the entry.
            shared: Whether these are the user's own files.
            staged: Whether they arrive beside their place.
            stamps: Modification times of the files that are there in whole.

        Raises:
            DiskFullError: There is no room.
            ContentError: The folder cannot be written.
        """
        folder = self._folder / manifest.infohash.hex()
        with translated(str(folder)):
            (folder / _ENTRY).unlink(missing_ok=True)
        write_atomically(folder / _MANIFEST, manifest.encode())
        log = PieceLog(folder / _PIECES)
        log.replace([])
        store = ContentStore(manifest, location, log, shared=shared, staged=staged)
        if stamps:
            store.adopt(stamps)
        entry = {"name": manifest.name, "location": str(location), "shared": shared, "staged": staged, "added_at": now}
        write_atomically(folder / _ENTRY, json.dumps(entry, indent=2).encode())
        return store

    def used(self, infohash: bytes, now: float) -> None:
        """Remembers that a content was used. Forgotten is no harm: it is only told again later."""
        with suppress(OSError):
            os.utime(self._folder / infohash.hex() / _ENTRY, (now, now))

    def pin(self, infohash: bytes, *, pinned: bool) -> None:
        """Remembers whether a content must not be dropped to make room.

        Raises:
            ContentError: It cannot be written.
        """
        path = self._folder / infohash.hex() / _PINNED
        with translated(str(path)):
            path.touch() if pinned else path.unlink(missing_ok=True)

    def is_pinned(self, infohash: bytes) -> bool:
        """Whether it must not be dropped to make room."""
        return (self._folder / infohash.hex() / _PINNED).exists()

    def remove(self, infohash: bytes) -> None:
        """Forgets a content.

        Raises:
            ContentError: It cannot be removed.
        """
        folder = self._folder / infohash.hex()
        with translated(str(folder)):
            # First the part without which the rest does not count.
            (folder / _ENTRY).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)


def _load(folder: Path) -> ContentStore:
    entry = json.loads((folder / _ENTRY).read_bytes())
    if not isinstance(entry["location"], str) or not isinstance(entry["shared"], bool):
        raise ContentError(f"{folder / _ENTRY} is damaged")
    manifest = parse((folder / _MANIFEST).read_bytes(), infohash=bytes.fromhex(folder.name))
    log, staged = PieceLog(folder / _PIECES), entry.get("staged") is True
    return ContentStore(manifest, Path(entry["location"]), log, shared=entry["shared"], staged=staged)
