"""What a content is: BitTorrent v2 metainfo (BEP 52), which this project calls the manifest, and the link to it.

The *info dictionary* names the files, their lengths and the root of each one's hash tree. Its SHA-256 is the info
hash, and the link is little more than that:

    magnet:?xt=urn:btmh:1220<64 hexadecimal digits>&dn=<name>

The piece layers stand beside the info dictionary and are checked against the roots in it. Who holds a link can thus
check every byte of manifest and content, whoever sent it. `Manifest.encode` gives the bytes of a ``.torrent`` file.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

from hivemind_p2p.bt import bencode
from hivemind_p2p.bt.hashing import BLOCK, HASH, piece_leaves, power_of_two
from hivemind_p2p.bt.link import make_link
from hivemind_p2p.errors import ContentError
from hivemind_p2p.types import ByteRange, FileEntry, Link

LONGEST_PIECE = 16 * 1024 * 1024
"""Bytes of the longest piece that is accepted: one is held in memory until it is checked."""

LARGEST_MANIFEST = bencode.MOST_BYTES
"""Bytes of an encoded manifest."""

LONGEST_FILE = 1 << 50
"""Bytes of the longest file that is believed (a pebibyte): keeps all sums within 64 bits."""

MOST_FILES = 100_000
"""Files of a content: each costs memory before anything of it has arrived."""

_USUAL_LONGEST_PIECE = 4 * 1024 * 1024
_USUAL_PIECES = 1024
_MOST_PIECES = 1 << 18


def choose_piece_length(content_bytes: int) -> int:
    """Bytes of a piece for a content of this size: a power of two.

    About a thousand pieces, so that a peer that wants a third of a small checkpoint fetches little more than a
    third; between 16 KiB (the block of BEP 52) and 4 MiB (what is lost when a source fails). Contents above a
    terabyte get longer ones, so that their manifest stays small.
    """
    usual = min(power_of_two(-(-content_bytes // _USUAL_PIECES)), _USUAL_LONGEST_PIECE)
    return max(BLOCK, usual, power_of_two(-(-content_bytes // _MOST_PIECES)))


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A file of a content.

    Attributes:
        path: Inside the content, ``/`` between the parts; for a content that is one file, the name of that.
        length: Bytes.
        root: The root of its hash tree; empty for an empty file.
        first_piece: The number of its first piece; the pieces of all files are numbered through.
        pieces: How many it has. A piece never spans two files.
    """

    path: str
    length: int
    root: bytes
    first_piece: int
    pieces: int


@dataclass(frozen=True, slots=True)
class PieceSpan:
    """Where a piece lies, and what it must hash to."""

    file: ManifestFile
    offset: int
    length: int
    leaves: int
    expected: bytes


@dataclass(frozen=True)
class Manifest:
    """A content's metainfo. Made by `metainfo_codec`, which checks it; immutable.

    Attributes:
        name: Of the file or folder.
        piece_length: Bytes; a power of two.
        files: In the order of the file tree.
        layers: Piece layers by root, for the files that are longer than a piece.
        info_bytes: The encoded info dictionary.
        is_file: Whether the content is a single file and no folder.
    """

    name: str
    piece_length: int
    files: tuple[ManifestFile, ...] = field(repr=False)
    layers: Mapping[bytes, bytes] = field(repr=False, compare=False)
    info_bytes: bytes = field(repr=False)
    is_file: bool

    @cached_property
    def infohash(self) -> bytes:
        """SHA-256 of the info dictionary."""
        return sha256(self.info_bytes).digest()

    @property
    def link(self) -> Link:
        """The magnet URI."""
        return make_link(self.infohash, self.name)

    @property
    def pieces(self) -> int:
        """How many pieces there are."""
        return self.files[-1].first_piece + self.files[-1].pieces

    @property
    def length(self) -> int:
        """Bytes of all files."""
        return sum(file.length for file in self.files)

    @cached_property
    def entries(self) -> tuple[FileEntry, ...]:
        """The files as the rest of the house sees them."""
        return tuple(FileEntry(file.path, file.length) for file in self.files)

    @cached_property
    def _filled(self) -> tuple[ManifestFile, ...]:
        return tuple(file for file in self.files if file.pieces)

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        return tuple(file.first_piece for file in self._filled)

    @cached_property
    def _by_path(self) -> dict[str, ManifestFile]:
        return {file.path: file for file in self.files}

    def piece(self, number: int) -> PieceSpan:
        """Where piece `number` lies.

        Raises:
            IndexError: There is no such piece.
        """
        if not 0 <= number < self.pieces:
            raise IndexError(f"there is no piece {number} of {self.pieces}")
        file = self._filled[bisect_right(self._starts, number) - 1]
        index = number - file.first_piece
        offset = index * self.piece_length
        layer = self.layers[file.root] if file.pieces > 1 else file.root
        return PieceSpan(
            file=file,
            offset=offset,
            length=min(self.piece_length, file.length - offset),
            leaves=piece_leaves(file.length, self.piece_length),
            expected=layer[index * HASH : (index + 1) * HASH],
        )

    def length_of(self, number: int) -> int:
        """Bytes of piece `number`: what `piece` says, and quicker.

        Raises:
            IndexError: There is no such piece.
        """
        file = self._filled[bisect_right(self._starts, number) - 1]
        index = number - file.first_piece
        if not 0 <= index < file.pieces:
            raise IndexError(f"there is no piece {number} of {self.pieces}")
        return min(self.piece_length, file.length - index * self.piece_length)

    def has(self, path: str) -> bool:
        """Whether there is a file at a path."""
        return path in self._by_path

    def file(self, path: str) -> ManifestFile:
        """The file at a path.

        Raises:
            ContentError: The content has none there.
        """
        file = self._by_path.get(path)
        if file is None:
            raise ContentError(
                f"the content {self.name!r} has no file {path!r}", hint="files(link) lists the files that it has."
            )
        return file

    def pieces_of(self, wanted: Mapping[str, Sequence[ByteRange]] | None) -> list[int]:
        """The numbers of the pieces that hold the wanted ranges, ascending; all of them for None.

        Raises:
            ContentError: A path is not in the content, or a range begins below zero. What lies behind the end of a
                file is left out.
        """
        if wanted is None:
            return list(range(self.pieces))
        numbers: set[int] = set()
        for path, ranges in wanted.items():
            file = self.file(path)
            for span in ranges:
                numbers.update(self._pieces_of_range(file, span))
        return sorted(numbers)

    def _pieces_of_range(self, file: ManifestFile, span: ByteRange) -> range:
        if span.start < 0:
            raise ContentError(f"a byte range of {file.path!r} begins at {span.start}")
        stop = min(span.stop, file.length)
        if stop <= span.start:
            return range(0)
        first = file.first_piece + span.start // self.piece_length
        return range(first, file.first_piece + (stop - 1) // self.piece_length + 1)

    def encode(self) -> bytes:
        """The bytes of a ``.torrent`` file: canonical bencoding, so parsing gives the same manifest."""
        layers: dict[bytes, bencode.Value] = dict(self.layers)
        # The info dictionary goes in as it came, byte for byte: its hash must not depend on what this version knows.
        return b"d4:info" + self.info_bytes + b"12:piece layers" + bencode.encode(layers) + b"e"
