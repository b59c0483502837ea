"""Manifests from hashed files and from the bytes of a ``.torrent`` file; nothing unchecked becomes a `Manifest`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from hivemind_p2p.bt import bencode
from hivemind_p2p.bt.hashing import BLOCK, HASH, root_of_layer
from hivemind_p2p.bt.metainfo import LARGEST_MANIFEST, LONGEST_FILE, LONGEST_PIECE, MOST_FILES, Manifest, ManifestFile
from hivemind_p2p.bt.paths import DEEPEST_PATH, check_name, check_path, check_siblings
from hivemind_p2p.errors import ContentError, ManifestError

META_VERSION = 2


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
    tree: dict[bytes, bencode.Value] = {}
    layers: dict[bytes, bencode.Value] = {}
    for file in files:
        check_path(file.parts)
        described: dict[bytes, bencode.Value] = {b"length": file.length}
        if file.length:
            root = root_of_layer(file.layer, piece_length) if file.length > piece_length else file.layer
            described[b"pieces root"] = root
            if file.length > piece_length:
                layers[root] = file.layer
        _insert(tree, file.parts, described)
    info: dict[bytes, bencode.Value] = {
        b"file tree": tree,
        b"meta version": META_VERSION,
        b"name": name.encode(),
        b"piece length": piece_length,
    }
    encoded = bencode.encode({b"info": info, b"piece layers": layers})
    if not files or len(files) > MOST_FILES or len(encoded) > LARGEST_MANIFEST:
        raise ContentError(
            f"{name!r} has {len(files)} files and a manifest of {len(encoded)} bytes; allowed are 1 to {MOST_FILES} "
            f"files and {LARGEST_MANIFEST} bytes",
            hint="Share parts of it, or pack small files into an archive.",
        )
    manifest = parse(encoded)
    if manifest.is_file is not is_file:
        raise ContentError(f"{name!r} is a folder that holds only a file of its own name", hint="Share the file.")
    return manifest


def _insert(tree: dict[bytes, bencode.Value], parts: Sequence[str], described: bencode.Value) -> None:
    for part in parts:
        below = tree.setdefault(part.encode(), {})
        assert isinstance(below, dict)
        tree = below
    tree[b""] = described


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
    try:
        torrent = bencode.decode(data, most_bytes=LARGEST_MANIFEST)
    except bencode.BencodeError as error:
        raise ManifestError(f"a manifest is malformed: {error}") from error
    info = _dictionary(torrent, b"info")
    info_bytes = bencode.encode(info)
    if infohash is not None and sha256(info_bytes).digest() != infohash:
        raise ManifestError(f"a manifest does not match its link: it is not {infohash.hex()}")
    if info.get(b"meta version") != META_VERSION:
        raise ManifestError(
            "a manifest is not of BitTorrent version 2", hint="Make the torrent anew as version 2 or hybrid."
        )
    piece_length = info.get(b"piece length")
    if not isinstance(piece_length, int) or piece_length not in _allowed_piece_lengths():
        raise ManifestError(f"a manifest has a piece length of {piece_length!r}")
    name = check_name(_text(info.get(b"name")))
    tree = _dictionary(info, b"file tree")
    files = _number(_walk(tree, ()), piece_length)
    is_file = len(tree) == 1 and len(files) == 1 and files[0].path == name
    layers = _checked_layers(torrent, files, piece_length)
    return Manifest(name, piece_length, files, layers, info_bytes, is_file)


def _allowed_piece_lengths() -> set[int]:
    return {BLOCK << shift for shift in range((LONGEST_PIECE // BLOCK).bit_length())}


def _dictionary(value: bencode.Value, key: bytes) -> dict[bytes, bencode.Value]:
    inner = value.get(key) if isinstance(value, dict) else None
    if not isinstance(inner, dict):
        raise ManifestError(f"a manifest has no {key.decode()!r}")
    return inner


def _text(value: bencode.Value | None) -> str:
    if not isinstance(value, bytes):
        raise ManifestError("a manifest has a name that is no text")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ManifestError(f"a manifest has a name that is no UTF-8: {value[:40]!r}") from error


def _walk(tree: dict[bytes, bencode.Value], parts: tuple[str, ...]) -> Iterator[tuple[str, int, bytes]]:
    """Path, length and root of each file, in the order of the tree."""
    names = [_text(name) for name in tree]
    if not names or len(parts) >= DEEPEST_PATH:
        raise ManifestError(f"a folder in a manifest is empty or too deep: {'/'.join(parts)[:80]!r}")
    check_siblings(names)
    for name, below in zip(names, tree.values(), strict=True):
        if not isinstance(below, dict):
            raise ManifestError(f"{name[:80]!r} in a manifest is neither file nor folder")
        if b"" not in below:
            yield from _walk(below, (*parts, name))
            continue
        if len(below) > 1:
            raise ManifestError(f"{name[:80]!r} in a manifest is both file and folder")
        path = check_path((*parts, name))
        yield path, *_described(path, below[b""])


def _described(path: str, described: bencode.Value) -> tuple[int, bytes]:
    if not isinstance(described, dict):
        raise ManifestError(f"the file {path!r} in a manifest has no description")
    length, root = described.get(b"length"), described.get(b"pieces root", b"")
    if not isinstance(length, int) or not 0 <= length <= LONGEST_FILE:
        raise ManifestError(f"the file {path!r} in a manifest has a length of {length!r}")
    if not isinstance(root, bytes) or len(root) != (HASH if length else 0):
        raise ManifestError(f"the file {path!r} in a manifest has no proper pieces root")
    if b"symlink path" in described:
        raise ManifestError(f"{path!r} in a manifest is a symbolic link")
    return length, root


def _number(found: Iterator[tuple[str, int, bytes]], piece_length: int) -> tuple[ManifestFile, ...]:
    files: list[ManifestFile] = []
    first = 0
    for path, length, root in found:
        if len(files) == MOST_FILES:
            raise ManifestError(f"a manifest has more than {MOST_FILES} files")
        count = -(-length // piece_length)
        files.append(ManifestFile(path, length, root, first, count))
        first += count
    return tuple(files)


def _checked_layers(torrent: bencode.Value, files: Sequence[ManifestFile], piece_length: int) -> dict[bytes, bytes]:
    given = _dictionary(torrent, b"piece layers")
    layers: dict[bytes, bytes] = {}
    for file in files:
        if file.pieces < 2 or file.root in layers:
            continue
        layer = given.get(file.root)
        if not isinstance(layer, bytes) or len(layer) != file.pieces * HASH:
            raise ManifestError(f"a manifest lacks the piece layer of {file.path!r}, or it has a wrong length")
        if root_of_layer(layer, piece_length) != file.root:
            raise ManifestError(f"the piece layer of {file.path!r} in a manifest does not match its root")
        layers[file.root] = layer
    return layers
