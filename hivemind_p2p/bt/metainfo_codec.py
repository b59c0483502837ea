"""Manifests from hashed files and from the bytes of a ``.torrent`` file; nothing unchecked becomes a `Manifest`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

from hivemind_p2p.bt import bencode
from hivemind_p2p.bt.bencode import Reader
from hivemind_p2p.bt.hashing import BLOCK, HASH, root_of_layer
from hivemind_p2p.bt.metainfo import LARGEST_MANIFEST, LONGEST_FILE, LONGEST_PIECE, MOST_FILES, Manifest, ManifestFile
from hivemind_p2p.bt.paths import DEEPEST_PATH, check_name, check_path, check_siblings
from hivemind_p2p.errors import ContentError, ManifestError

META_VERSION = 2

MOST_PIECES = 1 << 19
"""Pieces of a content: as many hashes as the largest manifest holds; each costs memory in whoever fetches it."""

_VERSION_HINT = "Make the torrent anew as version 2 or hybrid."
_USED = {b"meta version", b"name", b"piece length"}
# What nearly every file looks like: read in one step, which is what makes many files quick.
_USUAL_FILE = re.compile(rb"d0:d6:lengthi([1-9][0-9]{0,17})e11:pieces root32:(.{32})ee", re.DOTALL)
_Found: TypeAlias = tuple[str, int, bytes]  # path, length and root of a file


@dataclass(frozen=True, slots=True)
class HashedFile:
    """A file that was hashed, ready for `build`.

    Attributes:
        parts: Its path inside the content; for a content that is one file, its name alone.
        length: Bytes.
        layer: The hashes of its pieces, one behind the other; of a file that fits in one piece, its root.
    """

    parts: tuple[str, ...]
    length: int
    layer: bytes


def build(name: str, piece_length: int, files: Sequence[HashedFile], *, is_file: bool = False) -> Manifest:
    """The manifest of hashed files.

    Raises:
        UnsafePathError: A path is not fit to be shared.
        ContentError: There are no files, or the manifest would be too large.
    """
    layers: dict[bytes, bencode.Value] = {}
    described: list[tuple[list[bytes], bytes]] = []
    for file in files:
        root = root_of_layer(file.layer, piece_length) if file.length > piece_length else file.layer
        if file.length > piece_length:
            layers[root] = file.layer
        description: dict[bytes, bencode.Value] = {b"length": file.length}
        if file.length:
            description[b"pieces root"] = root
        described.append(([_encoded(part) for part in file.parts], bencode.encode({b"": description})))
    info = b"".join(_info_parts(_encoded(name), piece_length, sorted(described)))
    encoded = b"d4:info" + info + b"12:piece layers" + bencode.encode(layers) + b"e"
    if not files or len(files) > MOST_FILES or len(encoded) > LARGEST_MANIFEST:
        raise ContentError(
            f"{name!r} has {len(files)} files and a manifest of {len(encoded)} bytes; allowed are 1 to {MOST_FILES} "
            f"files and {LARGEST_MANIFEST} bytes",
            hint="Share parts of it, or pack small files into an archive.",
        )
    del info, described
    manifest = parse(encoded)
    if manifest.is_file is not is_file:
        raise ContentError(f"{name!r} is a folder that holds only a file of its own name", hint="Share the file.")
    return manifest


def _encoded(name: str) -> bytes:
    try:
        return name.encode()
    except UnicodeEncodeError:
        # A file name on the disk can be bytes that are no text.
        return check_name(name).encode()


def _info_parts(name: bytes, piece_length: int, files: Sequence[tuple[list[bytes], bytes]]) -> Iterator[bytes]:
    """The encoded info dictionary in parts: as nested values, a tree of many files would take ten times its size."""
    yield b"d9:file treed"
    folder: list[bytes] = []
    for parts, description in files:
        shared = 0
        while shared < min(len(folder), len(parts) - 1) and folder[shared] == parts[shared]:
            shared += 1
        yield b"e" * (len(folder) - shared)
        for part in parts[shared:-1]:
            yield b"%d:%sd" % (len(part), part)
        folder = parts[:-1]
        yield b"%d:%s%s" % (len(parts[-1]), parts[-1], description)
    yield b"e" * (len(folder) + 1)
    yield bencode.encode({b"meta version": META_VERSION, b"name": name, b"piece length": piece_length})[1:]


def parse(data: bytes, *, infohash: bytes | None = None) -> Manifest:
    """The manifest in the bytes of a ``.torrent`` file, checked in every way that needs no content.

    Args:
        data: Canonical bencoding. Keys that this version does not know stay in the info hash and mean nothing.
        infohash: What the info dictionary must hash to.

    Raises:
        ManifestError: It is malformed, is no BitTorrent v2, does not match the info hash, or its layers do not match
            their roots.
        UnsafePathError: A path would leave the folder, or is not one on every system.
    """
    if len(data) > LARGEST_MANIFEST:
        raise ManifestError(f"a manifest of {len(data)} bytes is larger than the {LARGEST_MANIFEST} allowed")
    try:
        return _parse(data, infohash)
    except bencode.BencodeError as error:
        raise ManifestError(f"a manifest is malformed: {error}") from error


def _parse(data: bytes, infohash: bytes | None) -> Manifest:
    spans = _spans(data)
    if b"info" not in spans:
        raise ManifestError("a manifest has no 'info'")
    info_bytes = data[spans[b"info"]]
    # Before all else: what is in a manifest that nobody asked for is not worth an error of its own.
    if infohash is not None and sha256(info_bytes).digest() != infohash:
        raise ManifestError(f"a manifest does not match its link: it is not {infohash.hex()}")
    info, found = _read_info(info_bytes)
    if info.get(b"meta version") != META_VERSION or found is None:
        raise ManifestError("a manifest is not of BitTorrent version 2", hint=_VERSION_HINT)
    piece_length = info.get(b"piece length")
    if not isinstance(piece_length, int) or piece_length not in _allowed_piece_lengths():
        raise ManifestError(f"a manifest has a piece length of {piece_length!r}")
    name = check_name(_text(info.get(b"name")))
    files = _number(found, piece_length)
    is_file = len(files) == 1 and files[0].path == name
    given = spans.get(b"piece layers")
    layers = _checked_layers(Reader(data, start=given.start) if given else Reader(b"de"), files, piece_length)
    return Manifest(name, piece_length, files, layers, info_bytes, is_file)


def _spans(data: bytes) -> dict[bytes, slice]:
    """Where the values of the outermost dictionary lie, all of which is well-formed."""
    reader = Reader(data)
    spans = {}
    for key in reader.each_key():
        start = reader.position
        reader.skip()
        spans[key] = slice(start, reader.position)
    reader.finish()
    return spans


def _read_info(data: bytes) -> tuple[dict[bytes, bencode.Value], list[_Found] | None]:
    """The short values of an info dictionary, and its files in the order of the tree."""
    reader = Reader(data)
    info: dict[bytes, bencode.Value] = {}
    found: list[_Found] | None = None
    for key in reader.each_key():
        if key == b"file tree":
            found = []
            _read_folder(reader, (), found)
        elif key in _USED:
            info[key] = reader.value()
        else:
            reader.skip()
    return info, found


def _allowed_piece_lengths() -> set[int]:
    return {BLOCK << shift for shift in range((LONGEST_PIECE // BLOCK).bit_length())}


def _text(value: bencode.Value | None) -> str:
    if not isinstance(value, bytes):
        raise ManifestError("a manifest has a name that is no text")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ManifestError(f"a manifest has a name that is no UTF-8: {value[:40]!r}") from error


def _read_folder(reader: Reader, parts: tuple[str, ...], found: list[_Found]) -> None:
    if len(parts) >= DEEPEST_PATH:
        raise ManifestError(f"a folder in a manifest is too deep: {'/'.join(parts)[:80]!r}")
    names = []
    for key in reader.each_key():
        name = _text(key)
        names.append(name)
        _read_entry(reader, (*parts, name), found)
    if not names:
        raise ManifestError(f"a folder in a manifest is empty: {'/'.join(parts)[:80]!r}")
    check_siblings(names)


def _read_entry(reader: Reader, parts: tuple[str, ...], found: list[_Found]) -> None:
    """A file, whose only key is empty, or a folder."""
    if not reader.comes_next(b"d0:"):
        _read_folder(reader, parts, found)
        return
    path = check_path(parts)
    if len(found) == MOST_FILES:
        raise ManifestError(f"a manifest has more than {MOST_FILES} files")
    if usual := _USUAL_FILE.match(reader.data, reader.position):
        reader.position = usual.end()
        found.append((path, _checked_length(path, int(usual[1])), usual[2]))
        return
    for key in reader.each_key():
        if key:
            raise ManifestError(f"{path[:80]!r} in a manifest is both file and folder")
        found.append((path, *_described(path, reader.value())))


def _described(path: str, described: bencode.Value) -> tuple[int, bytes]:
    if not isinstance(described, dict):
        raise ManifestError(f"the file {path!r} in a manifest has no description")
    length, root = described.get(b"length"), described.get(b"pieces root", b"")
    if not isinstance(length, int):
        raise ManifestError(f"the file {path!r} in a manifest has no length")
    _checked_length(path, length)
    if not isinstance(root, bytes) or len(root) != (HASH if length else 0):
        raise ManifestError(f"the file {path!r} in a manifest has no proper pieces root")
    if b"symlink path" in described:
        raise ManifestError(f"{path!r} in a manifest is a symbolic link")
    return length, root


def _checked_length(path: str, length: int) -> int:
    if not 0 <= length <= LONGEST_FILE:
        raise ManifestError(f"the file {path!r} in a manifest has a length of {length}")
    return length


def _number(found: Sequence[_Found], piece_length: int) -> tuple[ManifestFile, ...]:
    files: list[ManifestFile] = []
    first = 0
    for path, length, root in found:
        count = -(-length // piece_length)
        files.append(ManifestFile(path, length, root, first, count))
        first += count
    if first > MOST_PIECES:
        raise ManifestError(f"a manifest has {first} pieces, more than the {MOST_PIECES} allowed")
    return tuple(files)


def _checked_layers(reader: Reader, files: Sequence[ManifestFile], piece_length: int) -> dict[bytes, bytes]:
    """The layers of the files that are longer than a piece; others that are given are left out."""
    needed: dict[bytes, ManifestFile] = {}
    for file in files:
        if file.pieces > 1 and needed.setdefault(file.root, file).pieces != file.pieces:
            raise ManifestError(f"{file.path!r} in a manifest has the root of a file of another length")
    layers: dict[bytes, bytes] = {}
    for root in reader.each_key():
        if root not in needed:
            reader.skip()
            continue
        file, layer = needed[root], reader.value()
        if not isinstance(layer, bytes) or len(layer) != file.pieces * HASH:
            raise ManifestError(f"the piece layer of {file.path!r} in a manifest has a wrong length")
        if root_of_layer(layer, piece_length) != root:
            raise ManifestError(f"the piece layer of {file.path!r} in a manifest does not match its root")
        layers[root] = layer
    for root, file in needed.items():
        if root not in layers:
            raise ManifestError(f"a manifest lacks the piece layer of {file.path!r}")
    return layers
