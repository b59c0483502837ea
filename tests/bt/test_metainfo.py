from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_p2p.bt import bencode
from hivemind_p2p.bt.hashing import BLOCK, root_of_layer
from hivemind_p2p.bt.link import infohash_of
from hivemind_p2p.bt.metainfo import LARGEST_MANIFEST, choose_piece_length
from hivemind_p2p.bt.metainfo_codec import HashedFile, build, parse
from hivemind_p2p.errors import ContentError, HivemindError, LinkError, ManifestError, UnsafePathError
from hivemind_p2p.types import ByteRange
from tests.bt.swarms import make_folder, manifest_of, some_bytes

FILES = {"b.bin": some_bytes(5 * BLOCK + 1), "a/deep.bin": some_bytes(BLOCK), "empty": b"", "z": some_bytes(2 * BLOCK)}


@pytest.fixture
def manifest(tmp_path):
    return manifest_of(make_folder(tmp_path / "content", FILES), BLOCK)


def changed(manifest, **changes):
    """The encoded manifest with keys of its info dictionary replaced; None takes one out."""
    torrent = bencode.decode(manifest.encode())
    for key, value in changes.items():
        name = key.replace("_", " ").encode()
        torrent[b"info"].pop(name, None)
        if value is not None:
            torrent[b"info"][name] = value
    return bencode.encode(torrent)


def tree_with(path: list[bytes]) -> dict:
    tree: dict = {b"": {b"length": 0}}
    for part in reversed(path):
        tree = {part: tree}
    return tree


def test_parsing_undoes_encoding(manifest):
    again = parse(manifest.encode(), infohash=manifest.infohash)
    assert again == manifest
    assert again.layers == manifest.layers
    assert again.encode() == manifest.encode()


def test_pieces_are_numbered_through_and_never_span_files(manifest):
    assert [(file.path, file.first_piece, file.pieces) for file in manifest.files] == [
        ("a/deep.bin", 0, 1),
        ("b.bin", 1, 6),
        ("empty", 7, 0),
        ("z", 7, 2),
    ]
    assert manifest.pieces == 9
    assert manifest.length == sum(map(len, FILES.values()))
    spans = [manifest.piece(number) for number in range(9)]
    assert [(span.file.path, span.offset, span.length) for span in spans[5:8]] == [
        ("b.bin", 4 * BLOCK, BLOCK),
        ("b.bin", 5 * BLOCK, 1),
        ("z", 0, BLOCK),
    ]
    assert [manifest.length_of(number) for number in range(9)] == [span.length for span in spans]
    for number in (-1, 9):
        with pytest.raises(IndexError):
            manifest.piece(number)
        with pytest.raises(IndexError):
            manifest.length_of(number)


def test_wanted_ranges_become_pieces(manifest):
    def pieces(*spans):
        return manifest.pieces_of({"b.bin": [ByteRange(*span) for span in spans]})

    assert manifest.pieces_of(None) == list(range(9))
    assert manifest.pieces_of({}) == []
    assert pieces((0, 1)) == [1]
    assert pieces((BLOCK - 1, BLOCK + 1), (5 * BLOCK, 10**9)) == [1, 2, 6]
    assert pieces((3, 3), (10**9, 2 * 10**9)) == []
    assert manifest.pieces_of({"empty": [ByteRange(0, 5)]}) == []
    with pytest.raises(ContentError, match="begins at -1"):
        pieces((-1, 4))
    with pytest.raises(ContentError, match="no file 'nothing'"):
        manifest.pieces_of({"nothing": []})


@pytest.mark.parametrize("size", [0, 1, 8_000_000, 256 * 2**20, 2**30, 100 * 10**9, 10**13])
def test_piece_lengths_fit_the_size(size):
    length = choose_piece_length(size)
    assert length & (length - 1) == 0
    assert length >= BLOCK
    assert size // length * 32 <= LARGEST_MANIFEST // 2
    if size <= 8_000_000:
        assert length == BLOCK
    if size <= 10**12:
        assert length <= 4 * 2**20


def test_a_link_stands_for_the_info_dictionary(manifest):
    assert manifest.link == f"magnet:?xt=urn:btmh:1220{manifest.infohash.hex()}&dn=content"
    assert infohash_of(manifest.link) == manifest.infohash
    assert infohash_of(f" {manifest.link}&tr=http%3A%2F%2Fexample.org&x.pe=1.2.3.4:5\n") == manifest.infohash
    with pytest.raises(ManifestError, match="does not match its link"):
        parse(manifest.encode(), infohash=bytes(32))


@pytest.mark.parametrize(
    "link",
    [
        "",
        "content",
        "http://example.org/?xt=urn:btmh:1220" + "0" * 64,
        "magnet:?xt=urn:btih:" + "0" * 40,
        "magnet:?xt=urn:btmh:1220" + "0" * 63,
        "magnet:?xt=urn:btmh:1220" + "g" * 64,
        "magnet:?xt=urn:btmh:1220" + "0" * 64 + "&xt=urn:btmh:1220" + "1" * 64,
        "magnet:?dn=name",
        "magnet://[",
        "magnet:?xt=urn:btmh:1220" + "0" * 64 + "&dn=" + "x" * 5000,
        "magnet:?" + "a=1&" * 200,
    ],
)
def test_what_is_no_link_is_refused(link):
    with pytest.raises(LinkError):
        infohash_of(link)


@pytest.mark.parametrize(
    "path",
    [
        [b".."],
        [b"."],
        [b"a", b"..", b"b"],
        [b"/etc"],
        [b"a/b"],
        [b"a\\b"],
        [b"C:"],
        [b"a\x00b"],
        [b"a\nb"],
        [b"nul.txt"],
        [b"COM1"],
        [b"trailing."],
        [b"trailing "],
        [b"x" * 256],
        [b"d" * 250] * 5,
    ],
)
def test_unsafe_paths_are_refused(manifest, path):
    with pytest.raises(UnsafePathError):
        parse(changed(manifest, file_tree=tree_with(path)))


@pytest.mark.parametrize("name", [b"..", b"a/b", b"", b"con"])
def test_unsafe_names_are_refused(manifest, name):
    with pytest.raises(UnsafePathError):
        parse(changed(manifest, name=name))


@pytest.mark.parametrize("names", [("Data", "data"), ("caf\u00e9", "cafe\u0301"), ("stra\u00dfe", "STRASSE")])
def test_names_that_clash_on_some_systems_are_refused(manifest, names):
    tree = {name.encode(): {b"": {b"length": 0}} for name in names}
    with pytest.raises(UnsafePathError, match="one file on some systems"):
        parse(changed(manifest, file_tree=tree))


@pytest.mark.parametrize(
    "changes",
    [
        {"meta_version": 1},
        {"meta_version": None},
        {"piece_length": None},
        {"piece_length": BLOCK // 2},
        {"piece_length": BLOCK + 1},
        {"piece_length": 1 << 30},
        {"piece_length": 2 * BLOCK},
        {"name": None},
        {"name": b"\xff"},
        {"file_tree": None},
        {"file_tree": {}},
        {"file_tree": {b"a": 1}},
        {"file_tree": {b"a": {}}},
        {"file_tree": {b"a": {b"": 1}}},
        {"file_tree": {b"a": {b"": {b"length": -1}}}},
        {"file_tree": {b"a": {b"": {b"length": 1}}}},
        {"file_tree": {b"a": {b"": {b"length": 1, b"pieces root": b"x"}}}},
        {"file_tree": {b"a": {b"": {b"length": 0, b"pieces root": bytes(32)}}}},
        {"file_tree": {b"a": {b"": {b"length": 0}, b"b": {}}}},
        {"file_tree": {b"a": {b"": {b"length": 1 << 60, b"pieces root": bytes(32)}}}},
        {"file_tree": {b"a": {b"": {b"length": 0, b"symlink path": [b"x"]}}}},
        {"file_tree": tree_with([b"d"] * 50)},
        {"file_tree": {b"a": {b"": {b"length": 3 * BLOCK, b"pieces root": bytes(32)}}}},
        {"file_tree": {b"a": {b"": {b"length": BLOCK << 20, b"pieces root": bytes(32)}}}},
        {"file_tree": []},
        {"file_tree": {b"\xff": {b"": {b"length": 0}}}},
    ],
)
def test_malformed_manifests_are_refused(manifest, changes):
    with pytest.raises(ManifestError):
        parse(changed(manifest, **changes))


@pytest.mark.parametrize("damage", ["missing", "short", "wrong"])
def test_piece_layers_must_match_their_roots(manifest, damage):
    torrent = bencode.decode(manifest.encode())
    root = next(file.root for file in manifest.files if file.pieces > 1)
    layer = torrent[b"piece layers"].pop(root)
    if damage != "missing":
        torrent[b"piece layers"][root] = layer[:-32] if damage == "short" else layer[:-1] + bytes([layer[-1] ^ 1])
    with pytest.raises(ManifestError, match="piece layer"):
        parse(bencode.encode(torrent))


def test_unknown_keys_stay_in_the_info_hash(manifest):
    strange = parse(changed(manifest, private=1))
    assert strange.infohash != manifest.infohash
    assert parse(strange.encode()).infohash == strange.infohash
    assert strange.files == manifest.files


def test_a_single_file_is_told_from_a_folder():
    file = HashedFile(("model.bin",), 3, b"r" * 32)
    assert build("model.bin", BLOCK, [file], is_file=True).is_file
    assert not build("folder", BLOCK, [file]).is_file
    with pytest.raises(ContentError, match="only a file of its own name"):
        build("model.bin", BLOCK, [file])


def test_nothing_and_unsafe_names_are_not_built():
    with pytest.raises(ContentError):
        build("empty", BLOCK, [])
    with pytest.raises(UnsafePathError):
        build("folder", BLOCK, [HashedFile(("..", "x"), 0, b"")])


@settings(max_examples=200)
@given(st.data())
def test_fuzz_the_parser_raises_only_its_own_errors(data):
    file = HashedFile(("a", "b"), 2 * BLOCK, bytes(64))
    encoded = bytearray(build("name", BLOCK, [file, HashedFile(("c",), 1, bytes(32))]).encode())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(encoded) - 1))
        change = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if change == "flip":
            encoded[at] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del encoded[at : at + data.draw(st.integers(1, 40))]
        else:
            encoded[at:at] = data.draw(st.sampled_from([b"i1e", b"d", b"e", b"l", b"1:a", b"99999:"]))
        if not encoded:
            break
    try:
        manifest = parse(bytes(encoded))
    except HivemindError:
        return
    assert parse(manifest.encode()) == manifest


def test_two_files_with_one_root_have_one_length(manifest):
    tree = bencode.decode(manifest.encode())[b"info"][b"file tree"]
    description = tree[b"b.bin"][b""]
    parse(changed(manifest, file_tree={**tree, b"y": {b"": description}}))
    with pytest.raises(ManifestError, match="root of a file of another length"):
        parse(changed(manifest, file_tree={**tree, b"y": {b"": {**description, b"length": 7 * BLOCK}}}))


def test_the_hash_is_looked_at_before_all_else(manifest):
    with pytest.raises(ManifestError, match="does not match its link"):
        parse(changed(manifest, name=b"..", meta_version=1), infohash=manifest.infohash)


def test_layers_may_be_missing_where_none_is_needed():
    small = build("name", BLOCK, [HashedFile(("a",), 1, bytes(32))])
    torrent = bencode.decode(small.encode())
    del torrent[b"piece layers"]
    assert parse(bencode.encode(torrent)) == small


def test_names_that_are_no_text_are_not_built():
    with pytest.raises(UnsafePathError, match="no UTF-8"):
        build("folder", BLOCK, [HashedFile((b"\xff".decode(errors="surrogateescape"),), 0, b"")])


names = st.text(alphabet="abcdeé漢.-_ 0", min_size=1, max_size=5).map(lambda text: f"x{text.casefold()}x")
trees = st.recursive(st.integers(0, 5 * BLOCK), lambda below: st.dictionaries(names, below, min_size=1, max_size=4))


def hashed_files(tree, parts=()):
    if isinstance(tree, int):
        return [HashedFile(parts, tree, b"h" * 32 * max(1, -(-tree // BLOCK)) if tree else b"")]
    return [file for name, below in tree.items() for file in hashed_files(below, (*parts, name))]


def plain_tree(tree):
    if isinstance(tree, int):
        layer = b"h" * 32 * max(1, -(-tree // BLOCK))
        root = {b"pieces root": root_of_layer(layer, BLOCK)} if tree else {}
        return {b"": {b"length": tree, **root}}
    return {name.encode(): plain_tree(below) for name, below in tree.items()}


@given(st.dictionaries(names, trees, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_any_tree_is_written_as_nested_dictionaries_and_read_back(tree, order):
    files = hashed_files(tree)
    order.shuffle(files)
    manifest = build("content", BLOCK, files)
    info = {b"file tree": plain_tree(tree), b"meta version": 2, b"name": b"content", b"piece length": BLOCK}
    assert manifest.info_bytes == bencode.encode(info)
    assert {(file.path, file.length) for file in manifest.files} == {("/".join(f.parts), f.length) for f in files}
    assert parse(manifest.encode(), infohash=manifest.infohash) == manifest


def mutated(data: bytes, random: Random) -> bytes:
    torrent = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        at, size = random.randrange(len(torrent)), random.choice((1, 1, 2, 8, 40))
        match random.randrange(5):
            case 0:
                torrent[at] = random.randrange(256)
            case 1:
                del torrent[at : at + size]
            case 2:
                torrent[at:at] = random.choice((b"d", b"l", b"e", b"i1e", b"i-1e", b"0:", b"1:a", b"99999999:", b"d0:"))
            case 3:
                torrent[at:at] = torrent[at : at + size]
            case 4:
                other = random.randrange(len(torrent))
                torrent[at : at + size], torrent[other : other + size] = (
                    torrent[other : other + size],
                    torrent[at : at + size],
                )
        torrent = torrent or bytearray(b"x")
    return bytes(torrent)


def test_fuzz_ten_thousand_mutations_of_real_torrents(manifest, tmp_path):
    random = Random(4)
    folder = manifest.encode()
    file = manifest_of(make_folder(tmp_path / "other", {"one": some_bytes(3 * BLOCK)}), BLOCK).encode()
    outside = b"d8:announce22:http://example.org/ann10:created by1:x" + folder[1:]
    parsed = 0
    for number in range(12_000):
        data = mutated((folder, file, outside)[number % 3], random)
        try:
            found = parse(data)
        except HivemindError:
            continue
        parsed += 1
        assert parse(found.encode(), infohash=found.infohash) == found
        assert found.pieces <= 1 << 19
    # Some changes do no harm (a letter of a name, a key outside of the info dictionary); most have to be found.
    assert 0 < parsed < 4_000
