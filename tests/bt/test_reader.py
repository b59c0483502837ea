"""Reading a file while it arrives; what is wanted first comes first."""

import io

import pytest
import trio

from hivemind_p2p.bt.link import infohash_of
from hivemind_p2p.bt.plan import make_plan, take_turns
from hivemind_p2p.errors import ContentError, LinkError, NoSourceError
from hivemind_p2p.types import ByteRange
from tests.bt.swarms import hive, make_folder, some_bytes

BLOCK = 16 * 1024
PIECES = 256
FILM = some_bytes(PIECES * BLOCK - 100, seed=1)
FILES = {"film": FILM, "cover": some_bytes(3 * BLOCK, seed=2), "empty": b""}


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "shared" / "evening", FILES)


async def test_a_file_is_read_while_it_arrives(autojump_clock, folder, tmp_path):
    async with hive(tmp_path, bandwidth=500_000) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        started = trio.current_time()
        async with await peer.swarm.open(link, "film") as film:
            assert await film.read(1000) == FILM[:1000]
            assert trio.current_time() - started < 3, "the whole takes eight seconds"
            assert film.tell() == 1000
            assert await film.read() == FILM[1000:]
            assert await film.read() == b""
        (content,) = peer.swarm.statistics().contents
        assert content.downloaded_bytes == len(FILM), "the other files were not wanted"


async def test_a_jump_brings_what_lies_there_next(autojump_clock, folder, tmp_path):
    async with hive(tmp_path, bandwidth=500_000) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        async with await peer.swarm.open(link, "film") as film:
            await film.read(1)
            started = trio.current_time()
            film.seek(-1000, io.SEEK_END)
            assert await film.read(100) == FILM[-1000:-900]
            assert trio.current_time() - started < 4
            film.seek(50, io.SEEK_CUR)
            assert await film.read() == FILM[-850:]
            film.seek(20)
            assert await film.read(5) == FILM[20:25]
            assert peer.swarm.statistics().contents[0].held_pieces < PIECES


async def test_closing_ends_the_fetch_and_keeps_what_has_arrived(autojump_clock, folder, tmp_path):
    async with hive(tmp_path, bandwidth=500_000) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        film = await peer.swarm.open(link, "film")
        await film.read(BLOCK)
        with pytest.raises(ContentError, match="being fetched or read"):
            await peer.swarm.remove(link)
        await film.aclose()
        await trio.sleep(5)
        statistics = peer.swarm.statistics()
        assert 0 < statistics.contents[0].held_pieces < PIECES
        assert statistics.fetching == 0
        with pytest.raises(ContentError, match="closed"):
            await film.read(1)
        await peer.swarm.remove(link)


async def test_readers_and_a_fetch_share_one_content(autojump_clock, folder, tmp_path):
    async with hive(tmp_path, bandwidth=500_000) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        took = {}

        async def read(name, offset):
            started = trio.current_time()
            async with await peer.swarm.open(link, name) as file:
                file.seek(offset)
                assert await file.read(100) == FILES[name][offset : offset + 100]
                took[name, offset] = trio.current_time() - started

        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.swarm.fetch, link)
            await trio.sleep(0.5)
            for place in (("film", 200 * BLOCK), ("film", 100 * BLOCK), ("cover", 0), ("film", 20)):
                nursery.start_soon(read, *place)
        assert len(took) == 4
        assert max(took.values()) < 5, took
        assert peer.swarm.statistics().contents[0].downloaded_bytes == sum(map(len, FILES.values()))


async def test_what_cannot_be_read_is_told(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        with pytest.raises(ContentError, match="has 3 files"):
            await peer.swarm.open(link)
        with pytest.raises(ContentError, match="no file 'nothing'"):
            await peer.swarm.open(link, "nothing")
        with pytest.raises(LinkError):
            await peer.swarm.open("nonsense", "film")
        async with await peer.swarm.open(link, "empty") as empty:
            assert await empty.read() == b""
        film = await peer.swarm.open(link, "film")
        members.network.kill(seed.peer_id)
        with pytest.raises(NoSourceError):
            await film.read()
        await film.aclose()


async def test_what_is_here_is_read_without_anybody(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed = members.member("seed")
        link = await seed.swarm.share(folder)
        async with await seed.swarm.open(link, "cover") as cover:
            assert await cover.read() == FILES["cover"]
            assert await cover.read_at(BLOCK - 1, 10) == FILES["cover"][BLOCK - 1 : BLOCK], "up to the piece's end"
            (folder / "cover").write_bytes(b"changed")
            with pytest.raises(ContentError, match="changed on the disk"):
                await cover.read_at(0, 10)


async def test_what_is_wanted_first_comes_first(autojump_clock, folder, tmp_path):
    async with hive(tmp_path, bandwidth=500_000) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        end, cover = ByteRange(len(FILM) - BLOCK, len(FILM)), ByteRange(0, 3 * BLOCK)
        came = []

        def note(progress):
            held = peer.swarm._contents.get(infohash_of(link)).store.held
            came.extend(piece for piece in held if piece not in came)

        await peer.swarm.fetch(link, first={"film": [end], "cover": [cover]}, progress=note)
        manifest = await seed.swarm._manifest(link)
        first = set(manifest.pieces_of({"film": [end], "cover": [cover]}))
        assert set(came[: len(first) + 2]) >= first
        assert len(came) == manifest.pieces


async def test_first_is_a_part_of_what_is_wanted(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed = members.member("seed")
        manifest = await seed.swarm._manifest(await seed.swarm.share(folder))
        wanted = {"film": [ByteRange(0, 4 * BLOCK)]}
        first = {"film": [ByteRange(3 * BLOCK, 5 * BLOCK), ByteRange(0, 1)]}
        plan = make_plan(manifest, wanted=wanted, first=first, to=None)
        start = manifest.file("film").first_piece
        assert plan.urgent == (start + 3, start)
        with pytest.raises(ContentError, match="no file"):
            make_plan(manifest, wanted=None, first={"nothing": [ByteRange(0, 1)]}, to=None)


def test_readers_take_turns():
    assert take_turns([range(3), range(10, 11), range(1, 4)]) == (0, 10, 1, 2, 3)
    assert take_turns([]) == ()
