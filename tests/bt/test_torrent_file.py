import os
from random import Random

import pytest

from hivemind_p2p.bt import bencode
from hivemind_p2p.bt.hashing import BLOCK
from hivemind_p2p.bt.metainfo import LARGEST_MANIFEST
from hivemind_p2p.bt.torrent_file import Torrent, decode, read_torrent, write_torrent
from hivemind_p2p.errors import ContentError, HivemindError, ManifestError, UnsafePathError
from tests.bt.swarms import contents_of, hive, make_folder, manifest_of, some_bytes

FILES = {"a.bin": some_bytes(3 * BLOCK + 1), "sub/b": b"b", "empty": b""}
TRACKERS = ("http://192.0.2.7:8080/announce", "udp://tracker.example:1337/announce")


@pytest.fixture
def manifest(tmp_path):
    return manifest_of(make_folder(tmp_path / "content", FILES), BLOCK)


@pytest.mark.parametrize("trackers", [(), TRACKERS[:1], TRACKERS])
def test_reading_undoes_writing(manifest, tmp_path, trackers):
    path = tmp_path / "content.torrent"
    path.write_bytes(b"old")
    write_torrent(path, manifest, trackers)
    assert read_torrent(path) == Torrent(manifest, trackers)
    assert bencode.encode(bencode.decode(path.read_bytes())) == path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o644
    assert str(read_torrent(path).magnet).startswith(manifest.link)


def test_what_others_say_beside_the_manifest_is_taken_with_care(manifest):
    torrent = bencode.decode(manifest.encode())
    torrent |= {
        b"announce": b"http://one.example/a",
        b"announce-list": [[b"http://one.example/a", b"udp://two.example:1", 7, b"\xff"], b"x", [], [b"file:///x"]],
        b"nodes": [[b"router.example", 6881]],
        b"zzz": {},
    }
    assert decode(bencode.encode(torrent)) == Torrent(manifest, ("http://one.example/a", "udp://two.example:1"))


def test_what_is_no_torrent_is_told_with_its_path(tmp_path):
    path = tmp_path / "x.torrent"
    with pytest.raises(ContentError, match="cannot use"):
        read_torrent(path)
    path.write_bytes(b"hello")
    with pytest.raises(ManifestError, match=r"x\.torrent is no \.torrent file"):
        read_torrent(path)
    path.write_bytes(bencode.encode({b"info": {b"name": b"x", b"piece length": BLOCK, b"pieces": bytes(20)}}))
    with pytest.raises(ManifestError, match="not of BitTorrent version 2") as caught:
        read_torrent(path)
    assert "version 2 or hybrid" in caught.value.hint
    with path.open("wb") as file:
        os.truncate(file.fileno(), 50 * LARGEST_MANIFEST)
    with pytest.raises(ManifestError, match="larger than"):
        read_torrent(path)
    with pytest.raises(ContentError):
        read_torrent(tmp_path)


def test_fuzz_trackers(manifest):
    random = Random(1)
    data = Torrent(manifest, TRACKERS).encode()
    for _ in range(2_000):
        changed = bytearray(data)
        changed[random.randrange(160)] = random.randrange(256)
        try:
            assert len(decode(bytes(changed)).trackers) <= 3
        except HivemindError:
            continue


async def test_a_torrent_file_stands_for_the_link(autojump_clock, tmp_path):
    content = make_folder(tmp_path / "shared" / "content", FILES)
    path = tmp_path / "content.torrent"
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(content)
        await seed.swarm.write_torrent(link, path, trackers=TRACKERS)
        assert read_torrent(path).trackers == TRACKERS
        assert await peer.swarm.read_torrent(path) == link
        # The manifest is known: nobody is asked for it, and nobody could be.
        records, members.board.records = members.board.records, {}
        assert {entry.path for entry in await peer.swarm.files(link)} == set(FILES)
        members.board.records = records
        assert contents_of(await peer.swarm.fetch(link)) == FILES


async def test_a_torrent_with_unsafe_paths_is_refused(autojump_clock, manifest, tmp_path):
    torrent = bencode.decode(manifest.encode())
    torrent[b"info"][b"name"] = b".."
    path = tmp_path / "evil.torrent"
    path.write_bytes(bencode.encode(torrent))
    async with hive(tmp_path) as members:
        with pytest.raises(UnsafePathError):
            await members.member("peer").swarm.read_torrent(path)
