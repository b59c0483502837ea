"""What is kept on the disk, what is dropped, and what happens when it is full."""

import errno
import os

import pytest

from hivemind_p2p.bt import files
from hivemind_p2p.bt.exchange import Limits
from hivemind_p2p.bt.hashing import BLOCK
from hivemind_p2p.errors import ContentError, DiskFullError, NoSourceError, QuotaError
from tests.bt.swarms import contents_of, hive, make_folder, some_bytes

FILES = {"config.json": b"{}", "model.safetensors": some_bytes(12 * BLOCK + 100), "sub/empty": b""}


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "shared" / "model", FILES)


@pytest.fixture
def disk(monkeypatch):
    """Bytes that can still be written, after which the disk is full."""
    room, write = [5 * BLOCK], os.pwrite

    def limited(descriptor, data, offset):
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data, offset)

    monkeypatch.setattr(files.os, "pwrite", limited)
    return room


async def test_a_full_disk_pauses_a_fetch_until_there_is_room(autojump_clock, folder, tmp_path, disk):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        told = []

        def make_room_in_a_while(progress):
            told.append(progress)
            if progress.paused and len(told) > 20:
                (statistics,) = peer.swarm.statistics().contents
                assert "no room" in statistics.paused
                disk[0] = 10**9

        path = await peer.swarm.fetch(link, progress=make_room_in_a_while)
        assert contents_of(path) == FILES
        assert any(progress.paused for progress in told)
        assert not told[-1].paused
        assert set(told[-1].pieces) == {255}
        assert told[-1].name == path.name
        assert peer.swarm.statistics().contents[0].paused == ""
        assert peer.swarm.statistics().downloaded_bytes == sum(map(len, FILES.values()))


async def test_a_failed_fetch_leaves_nothing_under_the_name_and_goes_on(autojump_clock, folder, tmp_path, disk):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer", limits=Limits(wait_for_room=0))
        link = await seed.swarm.share(folder)
        to = tmp_path / "to"
        with pytest.raises(DiskFullError):
            await peer.swarm.fetch(link, to=to)
        disk[0] = 10**9
        (arriving,) = to.iterdir()
        assert arriving.name.startswith(".fetching-")
        # Another peer that was told the same folder goes on with what is there, and knows nothing of the first.
        other = members.member("other")
        path = await other.swarm.fetch(link, to=to)
        assert [entry.name for entry in to.iterdir()] == [path.name]
        assert contents_of(path) == FILES
        assert 0 < other.swarm.statistics().downloaded_bytes < sum(map(len, FILES.values()))


async def test_the_least_recently_used_contents_make_room(autojump_clock, tmp_path):
    async with hive(tmp_path) as members:
        now = [1e9]
        size = 8 * BLOCK
        seed = members.member("seed")
        limits = Limits(storage=2 * size + BLOCK)
        peer = members.member("peer", limits=limits, clock=lambda: now[0])
        links = []
        for number in range(4):
            path = make_folder(tmp_path / f"content-{number}", {"data": some_bytes(size, number)})
            links.append(await seed.swarm.share(path))
        paths = []
        for number in (0, 1):
            now[0] += 100
            paths.append(await peer.swarm.fetch(links[number]))
        now[0] += 100
        await peer.swarm.fetch(links[0])  # used again: the other one is older now
        now[0] += 100
        paths.append(await peer.swarm.fetch(links[2]))
        assert [path.exists() for path in paths] == [True, False, True]
        assert {content.link for content in peer.swarm.statistics().contents} == {links[0], links[2]}
        assert peer.swarm.statistics().stored_bytes == 2 * size
        assert peer.peer_id not in await seed.swarm.sources(links[1])
        await peer.swarm.pin(links[0])
        now[0] += 30  # the last one was used just now
        with pytest.raises(QuotaError, match="do not fit"):
            await peer.swarm.fetch(links[3])
        assert paths[0].exists()
        assert paths[2].exists()
        now[0] += 100
        await peer.swarm.fetch(links[3])
        assert [path.exists() for path in paths] == [True, False, False]
        # What the user wanted elsewhere does not count.
        elsewhere = await peer.swarm.fetch(links[1], to=tmp_path / "elsewhere")
        assert elsewhere.exists()
        assert paths[0].exists()


async def test_a_content_is_removed(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        assert (await seed.swarm.has(link), await peer.swarm.has(link)) == (True, False)
        path = await peer.swarm.fetch(link)
        assert await peer.swarm.has(link)
        await peer.swarm.remove(link)
        assert not path.exists()
        assert not await peer.swarm.has(link)
        assert peer.swarm.statistics().contents == ()
        await seed.swarm.remove(link)
        assert contents_of(folder) == FILES, "a user's own files stay"
        with pytest.raises(ContentError, match="nothing of"):
            await seed.swarm.remove(link)
        with pytest.raises(NoSourceError):
            await members.member("late").swarm.fetch(link)
