"""``.torrent`` files: a manifest, and beside it what is no part of the content, such as trackers.

    d 8:announce <URL> 13:announce-list <lists of URLs> 10:created by <who> 4:info <info dictionary>
      12:piece layers <layers by root> e

Reading and writing block: run in threads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hivemind_p2p.bt import bencode
from hivemind_p2p.bt.bencode import Reader
from hivemind_p2p.bt.files import translated, write_atomically
from hivemind_p2p.bt.link import Magnet, trackers_among
from hivemind_p2p.bt.metainfo import LARGEST_MANIFEST, Manifest
from hivemind_p2p.bt.metainfo_codec import parse
from hivemind_p2p.errors import ManifestError

CREATOR = "hivemind_p2p"
"""What stands under ``created by``."""


@dataclass(frozen=True, slots=True)
class Torrent:
    """What a ``.torrent`` file says.

    Attributes:
        manifest: The content.
        trackers: Where clients announce themselves; the first is asked first.
    """

    manifest: Manifest
    trackers: tuple[str, ...] = ()

    @property
    def magnet(self) -> Magnet:
        """The same without the manifest."""
        return Magnet(self.manifest.infohash, self.manifest.name, self.trackers)

    def encode(self) -> bytes:
        """The bytes of the file."""
        outside: dict[bytes, bencode.Value] = {b"created by": CREATOR.encode()}
        if self.trackers:
            outside[b"announce"] = self.trackers[0].encode()
        if len(self.trackers) > 1:
            outside[b"announce-list"] = [[tracker.encode()] for tracker in self.trackers]
        # Every key of these comes before "info" and "piece layers" in the order of their bytes.
        return bencode.encode(outside)[:-1] + self.manifest.encode()[1:]


def decode(data: bytes) -> Torrent:
    """What the bytes of a ``.torrent`` file say.

    Raises:
        ManifestError: It is none, or none of BitTorrent version 2.
        UnsafePathError: A path in it would leave the folder, or is not one on every system.
    """
    return Torrent(parse(data), trackers_among(_announced(data)))


def _announced(data: bytes) -> list[str]:
    """The texts that stand where trackers do, in a file whose encoding was checked."""
    found: list[bencode.Value] = []
    reader = Reader(data)
    for key in reader.each_key():
        if key == b"announce":
            found.append(reader.value())
        elif key == b"announce-list":
            tiers = reader.value()
            for tier in tiers if isinstance(tiers, list) else []:
                found += tier if isinstance(tier, list) else []
        else:
            reader.skip()
    return [text.decode(errors="replace") for text in found if isinstance(text, bytes)]


def read_torrent(path: Path) -> Torrent:
    """What a ``.torrent`` file says.

    Raises:
        ContentError: It cannot be read.
        ManifestError: It is no ``.torrent`` file, or none of BitTorrent version 2.
        UnsafePathError: A path in it would leave the folder, or is not one on every system.
    """
    with translated(str(path)):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(LARGEST_MANIFEST + 1)
    try:
        return decode(data)
    except ManifestError as error:
        raise ManifestError(f"{path} is no .torrent file that can be used: {error.message}", hint=error.hint) from error


def write_torrent(path: Path, manifest: Manifest, trackers: Sequence[str] = ()) -> None:
    """Writes a ``.torrent`` file, whole or not at all, in place of one that is there.

    Raises:
        ContentError: It cannot be written.
        DiskFullError: There is no room.
    """
    write_atomically(path, Torrent(manifest, tuple(trackers)).encode())
    with translated(str(path)):
        path.chmod(0o644)  # it is made to be handed on, and was a temporary file of its owner's alone
