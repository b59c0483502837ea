"""The contents that this peer has, remembered across restarts: one small folder for each.

    catalogue/<info hash>/manifest.torrent   what it is
                          pieces             which pieces are there (`piece_log`)
                          content.json       where it lies; written last, so an entry without it does not count

Everything here blocks and is run in threads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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

_events = telemetry.source("swarm")


class Catalogue:
    """Keeps the entries below a folder.

    Args:
        folder: This peer's folder for contents, made on first use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "catalogue"

    def load(self) -> list[ContentStore]:
        """Every content that was added. An entry that cannot be read is left out, and told as an event."""
        stores: list[ContentStore] = []
        for entry in sorted(self._folder.glob(f"*/{_ENTRY}")):
            try:
                stores.append(_load(entry.parent))
            except (HivemindError, OSError, ValueError, KeyError, TypeError) as error:
                _events.warning("catalogue_entry_unreadable", entry=str(entry.parent), error=str(error))
        return stores

    def add(
        self,
        manifest: Manifest,
        location: Path,
        *,
        now: float,
        shared: bool = False,
        stamps: Mapping[str, int] | None = None,
    ) -> ContentStore:
        """Adds a content, in place of an entry that it may have had.

        Args:
            manifest: What it is.
            location: The folder in which its file or folder lies, or will lie.
            now: Seconds since the epoch, for people who look into the entry.
            shared: Whether these are the user's own files.
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
        store = ContentStore(manifest, location, log, shared=shared)
        if stamps:
            store.adopt(stamps)
        entry = {"name": manifest.name, "location": str(location), "shared": shared, "added_at": now}
        write_atomically(folder / _ENTRY, json.dumps(entry, indent=2).encode())
        return store


def _load(folder: Path) -> ContentStore:
    entry = json.loads((folder / _ENTRY).read_bytes())
    if not isinstance(entry["location"], str) or not isinstance(entry["shared"], bool):
        raise ContentError(f"{folder / _ENTRY} is damaged")
    manifest = parse((folder / _MANIFEST).read_bytes(), infohash=bytes.fromhex(folder.name))
    return ContentStore(manifest, Path(entry["location"]), PieceLog(folder / _PIECES), shared=entry["shared"])
