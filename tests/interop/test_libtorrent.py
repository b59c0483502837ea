"""libtorrent, the library behind many BitTorrent clients, agrees with us on what a content is."""

import pytest

from hivemind_p2p.bt.concurrency import inline
from hivemind_p2p.bt.hash_book import HashBook
from hivemind_p2p.bt.hashing import BLOCK
from hivemind_p2p.bt.link import infohash_of
from hivemind_p2p.bt.metainfo_codec import parse
from hivemind_p2p.bt.sharing import make_manifest, scan
from tests.bt.swarms import make_folder, some_bytes

libtorrent = pytest.importorskip("libtorrent", reason="libtorrent is not installed: pip install libtorrent")

FILES = {
    "config.json": b"{}",
    "empty": b"",
    "model-1.safetensors": some_bytes(40 * BLOCK + 1),
    "model-2.safetensors": some_bytes(3 * BLOCK, 1),
    "sub/exact.bin": some_bytes(BLOCK, 2),
    "sub/deeper/two.bin": some_bytes(2 * BLOCK, 3),
}


@pytest.fixture(params=["folder", "file"])
def content(request, tmp_path):
    folder = make_folder(tmp_path / "content", FILES)
    return folder if request.param == "folder" else folder / "model-1.safetensors"


async def ours(content):
    manifest, _ = await make_manifest(scan(content), book=HashBook(None), run_sync=inline)
    return manifest


async def test_libtorrent_reads_our_manifest(content):
    manifest = await ours(content)
    info = libtorrent.torrent_info(libtorrent.bdecode(manifest.encode()))
    assert info.info_hashes().v2.to_bytes() == manifest.infohash
    assert info.name() == manifest.name
    assert info.piece_length() == manifest.piece_length
    magnet = libtorrent.parse_magnet_uri(manifest.link)
    assert magnet.info_hashes.v2.to_bytes() == infohash_of(manifest.link) == manifest.infohash


async def test_we_read_what_libtorrent_made(content):
    manifest = await ours(content)
    files = libtorrent.list_files(str(content))
    torrent = libtorrent.create_torrent(files, manifest.piece_length, libtorrent.create_torrent.v2_only)
    libtorrent.set_piece_hashes(torrent, str(content.parent))
    theirs = parse(libtorrent.bencode(torrent.generate()), infohash=manifest.infohash)
    assert theirs.files == manifest.files
    assert theirs.layers == manifest.layers
    assert theirs.is_file == manifest.is_file
