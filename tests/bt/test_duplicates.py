import errno
import os

import pytest

from hivemind_p2p.bt import duplicates
from hivemind_p2p.bt.hashing import BLOCK
from hivemind_p2p.errors import DiskFullError
from hivemind_p2p.types import ByteRange
from tests.bt.swarms import contents_of, hive, make_folder, some_bytes

WEIGHTS = some_bytes(9 * BLOCK + 3)
FIRST = {"model.bin": WEIGHTS, "config": b"1", "same/again.bin": some_bytes(2 * BLOCK, 2)}
SECOND = {"renamed/model.bin": WEIGHTS, "config": b"2", "new": some_bytes(3000 * BLOCK, 3), "empty": b""}


@pytest.fixture
def folders(tmp_path):
    return make_folder(tmp_path / "one" / "first", FIRST), make_folder(tmp_path / "two" / "second", SECOND)


async def test_a_file_that_is_here_in_another_content_is_not_fetched(autojump_clock, folders, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        links = [await seed.swarm.share(folder) for folder in folders]
        first = await peer.swarm.fetch(links[0])
        before = seed.swarm.statistics().uploaded_bytes
        second = await peer.swarm.fetch(links[1], to=tmp_path / "to")
        assert contents_of(second) == SECOND
        assert seed.swarm.statistics().uploaded_bytes - before == len(SECOND["new"]) + 1
        # It is a file of its own: who edits one does not change the other.
        (second / "renamed" / "model.bin").write_bytes(b"edited")
        assert contents_of(first) == FIRST
        assert not [name for name in contents_of(tmp_path / "to") if ".copying" in name]


async def test_what_is_shared_here_is_not_fetched(autojump_clock, folders, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        await peer.swarm.share(folders[0])
        link = await seed.swarm.share(folders[1])
        assert contents_of(await peer.swarm.fetch(link)) == SECOND
        assert seed.swarm.statistics().uploaded_bytes == len(SECOND["new"]) + 1


async def test_a_file_that_was_changed_since_is_fetched(autojump_clock, folders, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        links = [await seed.swarm.share(folder) for folder in folders]
        model = await peer.swarm.fetch(links[0]) / "model.bin"
        status = model.stat()
        model.write_bytes(WEIGHTS[:-1] + b"x")
        # The second one deceives everything but the hash.
        for times in (None, (status.st_atime_ns, status.st_mtime_ns)):
            if times:
                os.utime(model, ns=times)
            fetched = await peer.swarm.fetch(links[1], to=tmp_path / f"to {times is None}")
            assert contents_of(fetched) == SECOND


async def test_only_what_is_wanted_whole_is_copied(autojump_clock, folders, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        links = [await seed.swarm.share(folder) for folder in folders]
        await peer.swarm.fetch(links[0])
        before = seed.swarm.statistics().uploaded_bytes
        await peer.swarm.fetch(links[1], wanted={"renamed/model.bin": [ByteRange(0, 1)]})
        assert seed.swarm.statistics().uploaded_bytes > before


@pytest.mark.parametrize("failure", [errno.EXDEV, errno.ENOSYS])
async def test_file_systems_that_cannot_copy_by_themselves(autojump_clock, folders, tmp_path, monkeypatch, failure):
    def refuse(*arguments):
        raise OSError(failure, "no")

    monkeypatch.setattr(duplicates.os, "copy_file_range", refuse)
    monkeypatch.setattr(duplicates.fcntl, "ioctl", refuse)
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        await peer.swarm.share(folders[0])
        assert contents_of(await peer.swarm.fetch(await seed.swarm.share(folders[1]))) == SECOND
        assert seed.swarm.statistics().uploaded_bytes == len(SECOND["new"]) + 1


async def test_a_full_disk_is_told(autojump_clock, folders, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(duplicates.os, "copy_file_range", full)
    monkeypatch.setattr(duplicates.fcntl, "ioctl", full)
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        await peer.swarm.share(folders[0])
        with pytest.raises(DiskFullError):
            await peer.swarm.fetch(await seed.swarm.share(folders[1]), to=tmp_path / "to")
        assert contents_of(tmp_path / "to") == {}
