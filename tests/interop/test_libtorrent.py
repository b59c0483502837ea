"""libtorrent, the library behind many BitTorrent clients, agrees with us on what a content is."""

import time
from contextlib import asynccontextmanager

import pytest
import trio
from starlette.applications import Starlette

from hivemind_bootstrap.tracker import Tracker
from hivemind_bootstrap.web.tracker_pages import ANNOUNCE, tracker_routes
from hivemind_p2p.bt.concurrency import inline
from hivemind_p2p.bt.hash_book import HashBook
from hivemind_p2p.bt.hashing import BLOCK
from hivemind_p2p.bt.link import infohash_of, parse_magnet
from hivemind_p2p.bt.metainfo_codec import parse
from hivemind_p2p.bt.sharing import make_manifest, scan
from hivemind_p2p.bt.torrent_file import decode, write_torrent
from tests.bt.swarms import make_folder, manifest_of, some_bytes

libtorrent = pytest.importorskip("libtorrent", reason="libtorrent is not installed: pip install libtorrent")

FILES = {
    "config.json": b"{}",
    "empty": b"",
    "model-1.safetensors": some_bytes(40 * BLOCK + 1),
    "model-2.safetensors": some_bytes(3 * BLOCK, 1),
    "sub/exact.bin": some_bytes(BLOCK, 2),
    "sub/deeper/two.bin": some_bytes(2 * BLOCK, 3),
    "sub/deeper/漢字.bin": some_bytes(5 * BLOCK - 1, 4),
}
ALONE = {
    "one byte": b"x",
    "a block": some_bytes(BLOCK),
    "a block and a byte": some_bytes(BLOCK + 1),
    "a thousand pieces": some_bytes(1025 * BLOCK + 3),
}
PATIENCE = 30.0


@pytest.fixture(params=["folder", *ALONE])
def content(request, tmp_path):
    files = FILES if request.param == "folder" else ALONE
    folder = make_folder(tmp_path / "content", files)
    return folder if request.param == "folder" else folder / request.param


@pytest.fixture
def open_session():
    sessions = []

    def opened(folder, torrent):
        """A session of its own that finds others by trackers only, and its torrent."""
        session = libtorrent.session(
            {
                "listen_interfaces": "127.0.0.1:0",
                "enable_dht": False,
                "enable_lsd": False,
                "enable_upnp": False,
                "enable_natpmp": False,
                "allow_multiple_connections_per_ip": True,
                "alert_mask": 0,
            }
        )
        sessions.append(session)
        folder.mkdir(exist_ok=True)
        parameters = libtorrent.load_torrent_file(str(torrent))
        parameters.save_path = str(folder)
        return session.add_torrent(parameters)

    yield opened
    for session in sessions:
        session.pause()


async def ours(content):
    manifest, _ = await make_manifest(scan(content), book=HashBook(None), run_sync=inline)
    return manifest


async def until(true, handle):
    with trio.move_on_after(PATIENCE):
        while not true(handle.status()):  # noqa: ASYNC110 - it tells nobody when something has changed
            await trio.sleep(0.02)
    return true(handle.status())


async def test_libtorrent_reads_our_manifest(content):
    manifest = await ours(content)
    info = libtorrent.torrent_info(libtorrent.bdecode(manifest.encode()))
    assert info.info_hashes().v2.to_bytes() == manifest.infohash
    assert info.name() == manifest.name
    assert info.piece_length() == manifest.piece_length
    magnet = libtorrent.parse_magnet_uri(manifest.link)
    assert magnet.info_hashes.v2.to_bytes() == infohash_of(manifest.link) == manifest.infohash


async def test_libtorrent_finds_our_files_complete(content, tmp_path, open_session):
    manifest = await ours(content)
    path = tmp_path / "content.torrent"
    write_torrent(path, manifest, ["http://127.0.0.1:9/announce"])
    info = libtorrent.torrent_info(str(path))
    assert info.info_hashes().v2.to_bytes() == manifest.infohash
    assert libtorrent.load_torrent_file(str(path)).trackers == ["http://127.0.0.1:9/announce"]
    handle = open_session(content.parent, path)
    assert await until(lambda status: status.is_seeding, handle)
    assert handle.status().total_done == manifest.length


async def test_libtorrent_finds_a_changed_byte(tmp_path, open_session):
    content = make_folder(tmp_path / "content", FILES)
    manifest = await ours(content)
    data = bytearray(FILES["model-1.safetensors"])
    data[20 * BLOCK] ^= 1
    (content / "model-1.safetensors").write_bytes(data)
    write_torrent(tmp_path / "content.torrent", manifest)
    handle = open_session(content.parent, tmp_path / "content.torrent")
    assert await until(lambda status: status.state == libtorrent.torrent_status.downloading, handle)
    assert handle.status().num_pieces == handle.torrent_file().num_pieces() - 1


@pytest.mark.parametrize("kind", ["v2_only", "hybrid"])
@pytest.mark.parametrize("piece_length", [BLOCK, 4 * BLOCK, 64 * BLOCK])
async def test_we_read_what_libtorrent_made(content, kind, piece_length):
    flags = libtorrent.create_torrent.v2_only if kind == "v2_only" else 0
    torrent = libtorrent.create_torrent(libtorrent.list_files(str(content)), piece_length, flags)
    torrent.add_tracker("http://tracker.example/announce")
    libtorrent.set_piece_hashes(torrent, str(content.parent))
    encoded = libtorrent.bencode(torrent.generate())
    infohash = libtorrent.torrent_info(libtorrent.bdecode(encoded)).info_hashes().v2.to_bytes()
    theirs = parse(encoded, infohash=infohash)
    if content.is_dir():
        mine = manifest_of(content, piece_length)
        assert theirs.files == mine.files
        assert theirs.layers == mine.layers
        assert not theirs.is_file
    else:
        assert [(file.path, file.length) for file in theirs.files] == [(content.name, content.stat().st_size)]
        assert theirs.is_file
    assert decode(encoded).trackers == ("http://tracker.example/announce",)
    if kind == "v2_only" and piece_length == (await ours(content)).piece_length:
        assert theirs.infohash == (await ours(content)).infohash


async def test_a_magnet_link_of_libtorrents_is_ours(tmp_path):
    manifest = await ours(make_folder(tmp_path / "content", FILES))
    info = libtorrent.torrent_info(libtorrent.bdecode(manifest.encode()))
    info.add_tracker("http://tracker.example/announce")
    magnet = parse_magnet(libtorrent.make_magnet_uri(info))
    assert magnet.link == manifest.link
    assert magnet.trackers == ("http://tracker.example/announce",)


# -- our tracker -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served_tracker(tracker):
    """Serves it on loopback as the bootstrap does; the URL."""
    from hypercorn.config import Config
    from hypercorn.trio import serve

    config = Config()
    config.bind = ["127.0.0.1:0"]
    app = Starlette(routes=tracker_routes(tracker, time.monotonic))
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(lambda task_status: serve(app, config, task_status=task_status))
        yield url + ANNOUNCE
        nursery.cancel_scope.cancel()


async def test_libtorrent_finds_peers_through_our_tracker(tmp_path, open_session):
    content = make_folder(tmp_path / "seed" / "content", FILES)
    manifest = await ours(content)
    path = tmp_path / "content.torrent"
    tracker = Tracker()
    tracker.register(manifest.infohash, "a peer", time.monotonic())
    async with served_tracker(tracker) as url:
        write_torrent(path, manifest, [url])
        seed = open_session(tmp_path / "seed", path)
        assert await until(lambda status: status.is_seeding and tracker.statistics().peers == 1, seed)
        peer = open_session(tmp_path / "peer", path)
        assert await until(lambda status: status.is_seeding, peer)
        for name, data in FILES.items():
            assert (tmp_path / "peer" / "content" / name).read_bytes() == data
        peer.scrape_tracker()
        assert await until(lambda status: status.num_complete >= 1, peer)
        swarm = manifest.infohash[:20]
        assert await until(lambda status: tracker._swarms[swarm].completed == 1, peer)
