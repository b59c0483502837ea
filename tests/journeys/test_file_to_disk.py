"""A folder, its pieces, another disk; sources that vanish, and fetches that are killed."""

import json
import os
import random
import signal
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
import trio

import hivemind_p2p as hm
from hivemind_p2p import errors
from hivemind_p2p.bt.torrent_file import read_torrent
from tests.journeys.programs import DEADLINE, PEER, Program, allocated, environment, run, until

MIB = 2**20


def make_folder(folder: Path, sizes: dict[str, int]) -> Path:
    numbers = random.Random(7)
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(numbers.randbytes(size))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "data", {"large.bin": 3 * MIB + 17, "deep/er/small.txt": 5, "empty": 0})


@pytest.fixture
def large(tmp_path):
    """Enough for a fetch to be interrupted."""
    return make_folder(tmp_path / "large", {"one.bin": 48 * MIB, "two.bin": 16 * MIB + 3})


def test_share_and_fetch_between_processes(joined, folder, tmp_path):
    env = environment(joined)
    with Program(["-m", PEER, "share", str(folder), "--json"], env) as seed:
        link = seed.ready()["link"]
        assert link.startswith("magnet:?xt=urn:btmh:1220")
        code, out, err = run(PEER, "fetch", link, "--to", str(tmp_path / "to"), "--json", env=joined)
        assert (code, err) == (0, "")
        assert json.loads(out) == {"path": str(tmp_path / "to" / "data")}
        assert contents(tmp_path / "to") == {f"data/{name}": data for name, data in contents(folder).items()}
        # Fetching again what is there is no error, and a second peer can have it by now.
        assert run(PEER, "fetch", link, "--to", str(tmp_path / "to"), "--json", env=joined)[0] == 0
        assert seed.end(signal.SIGTERM) == 0


def test_a_notebook_reads_a_file_while_it_arrives(hive, joined, folder, tmp_path):
    large = (folder / "large.bin").read_bytes()
    with hm.connect(joined["HIVEMIND_P2P_BOOTSTRAP"]) as seed:
        link = seed.share(folder)
        assert [entry.path for entry in hive.files(link)] == ["deep/er/small.txt", "empty", "large.bin"]
        with hive.open(link, "large.bin") as file:
            file.seek(-17, os.SEEK_END)
            assert file.read() == large[-17:]
            file.seek(0)
            assert file.read() == large
        with hive.open(link, "empty") as file:
            assert file.read() == b""
        part = hive.fetch(link, tmp_path / "part", wanted={"large.bin": [hm.ByteRange(MIB, MIB + 1)]})
        assert allocated(part / "large.bin") < MIB
        assert contents(hive.fetch(link, first={"large.bin": [hm.ByteRange(MIB, MIB + 1)]})) == contents(folder)


def test_limits_of_a_fetch_and_of_a_share(joined, folder, tmp_path):
    env = environment(joined)
    with Program(["-m", PEER, "share", str(folder), "--upload-limit", "50MB/s", "--json"], env) as seed:
        link = seed.ready()["link"]
        limits = ("--upload-limit", "1MB/s", "--download-limit", "50MB/s")
        code, _, err = run(PEER, "fetch", link, "--to", str(tmp_path / "to"), *limits, "--json", env=joined)
        assert (code, err) == (0, "")
        assert contents(tmp_path / "to" / "data") == contents(folder)
        code, _, err = run(PEER, "fetch", link, "--to", str(tmp_path), "--upload-limit", "fast", env=joined)
        assert code == 1
        assert "upload_limit" in err


def test_a_torrent_file_stands_for_a_link(joined, folder, tmp_path):
    torrent = tmp_path / "data.torrent"
    with Program(["-m", PEER, "share", str(folder), "--torrent", str(torrent), "--json"], environment(joined)) as seed:
        link = seed.ready()["link"]
        written = read_torrent(torrent)
        assert written.manifest.link == link
        assert [url.rpartition("/")[2] for url in written.trackers] == ["announce"]
        code, _, err = run(PEER, "fetch", str(torrent), "--to", str(tmp_path / "to"), "--json", env=joined)
        assert (code, err) == (0, "")
        assert contents(tmp_path / "to") == {f"data/{name}": data for name, data in contents(folder).items()}


def test_a_notebook_shares_and_fetches_by_torrent_file(hive, joined, folder, tmp_path):
    torrent = tmp_path / "data.torrent"
    with hm.connect(joined["HIVEMIND_P2P_BOOTSTRAP"]) as seed:
        link = seed.share(folder, torrent=torrent)
        with urlopen(f"{read_torrent(torrent).trackers[0]}?info_hash=x", timeout=DEADLINE) as answer:
            assert b"failure reason" in answer.read()
        magnet = str(read_torrent(torrent).magnet)
        assert magnet.startswith(f"{link}&tr=http")
        for source in (torrent, str(torrent), magnet):
            assert contents(hive.fetch(source)) == contents(folder)
    with pytest.raises(errors.ManifestError, match=r"no \.torrent file"):
        hive.fetch(folder / "deep" / "er" / "small.txt")
    with pytest.raises(errors.LinkError):
        hive.fetch("missing.torrent")


def test_a_second_peer_serves_after_the_first_has_left(hive, joined, folder, tmp_path):
    with Program(["-m", PEER, "share", str(folder), "--json"], environment(joined)) as seed:
        link = seed.ready()["link"]
        first = hive.fetch(link)
        assert seed.end(signal.SIGINT) == 0
    code, out, err = run(PEER, "fetch", link, "--to", str(tmp_path / "to"), "--json", env=joined)
    assert (code, err) == (0, "")
    assert contents(Path(json.loads(out)["path"])) == contents(folder) == contents(first)


async def test_a_fetch_goes_on_when_its_source_was_killed_and_comes_back(hive, joined, large, tmp_path):
    env = environment(joined)
    with Program(["-m", PEER, "share", str(large), "--json"], env) as seed:
        link = seed.ready()["link"]
        missing_at_the_kill, second = [], []

        def kill_once(progress):
            if seed.running and progress.done_bytes > 0:
                missing_at_the_kill.append(progress.wanted_bytes - progress.done_bytes)
                os.kill(seed.pid, signal.SIGKILL)
                seed.end()
                second.append(Program(["-m", PEER, "share", str(large), "--json"], env))

        # A program that runs trio itself.
        async with hm.open_hive(hive.nodes.bootstrap_address) as own:
            with trio.fail_after(DEADLINE):
                path = await own.fetch(link, tmp_path / "to", progress=kill_once)
            assert missing_at_the_kill[0] > 16 * MIB
            with second[0] as again:
                assert again.ready()["link"] == link
                assert contents(path) == contents(large)


def test_a_fetch_that_was_killed_goes_on_where_it_was(joined, large, tmp_path):
    env = environment(joined)
    to = tmp_path / "to"
    with Program(["-m", PEER, "share", str(large), "--json"], env) as seed:
        link = seed.ready()["link"]
        with Program(["-m", PEER, "fetch", link, "--to", str(to), "--json"], env) as fetch:
            until(lambda: not fetch.running or allocated(to) > 8 * MIB, "some pieces have arrived")
            assert fetch.running
            assert fetch.end(signal.SIGKILL) == -9
        assert allocated(to) > 8 * MIB
        code, out, err = run(PEER, "fetch", link, "--to", str(to), "--json", env=joined)
        assert (code, err) == (0, "")
        assert contents(Path(json.loads(out)["path"])) == contents(large)
        # Nothing but the content is left.
        assert [path.name for path in to.iterdir()] == ["large"]
    assert seed.end() != 0


ON_A_SMALL_DISK = """
mount -t tmpfs -o size=5m none "$0" && head -c 4194304 /dev/zero > "$0/filler" || exit 99
"$@" && cp -r "$0/to" "$0.copied"
"""


def test_a_real_disk_that_is_full_is_waited_for(joined, folder, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    with Program(["-m", PEER, "share", str(folder), "--json"], environment(joined)) as seed:
        fetch = (sys.executable, "-m", PEER, "fetch", seed.ready()["link"], "--to", str(disk / "to"), "--json")
        become = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
        small = ("unshare", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, str(disk))
        with Program(["-c", become, *small, *fetch], environment(joined)) as fetching:
            until(lambda: "fetch_paused" in fetching.errors or not fetching.running, "the disk is full")
            assert "no room" in fetching.errors
            os.unlink(f"/proc/{fetching.pid}/root{disk}/filler")
            assert fetching.end() == 0, fetching.errors
            assert "fetch_goes_on" in fetching.errors
    assert contents(tmp_path / "disk.copied" / "data") == contents(folder)


def damage_unnoticed(folder: Path) -> None:
    """Changes a byte of each block, as a failing disk does: sizes and times stay what they were."""
    for path in folder.rglob("*"):
        if path.is_file():
            times = path.stat()
            path.write_bytes(bytes(byte ^ 1 if at % 2**14 == 0 else byte for at, byte in enumerate(path.read_bytes())))
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


async def test_who_sends_wrong_bytes_is_banned_and_gets_no_tasks_either(hive, joined, folder, tmp_path):
    with Program(["-m", PEER, "share", str(folder), "--json"], environment(joined)) as liar:
        link = liar.ready()["link"]
        damage_unnoticed(folder)
        async with hm.open_hive(hive.nodes.bootstrap_address) as own, trio.open_nursery() as nursery:
            nursery.start_soon(own.fetch, link, tmp_path / "to")
            tasks = own.peer.tasks
            await trio.to_thread.run_sync(until, lambda: tasks.statistics().get("mistrusted") == 1, "it is mistrusted")
            nursery.cancel_scope.cancel()
            assert own.peer.content.statistics().misbehaved == 1


async def test_a_program_that_runs_trio_itself(hive, folder, tmp_path):
    credentials = hive.nodes.credentials("ben")
    async with hm.open_hive(
        hive.nodes.bootstrap_address,
        username="ben",
        password=credentials["HIVEMIND_P2P_PASSWORD"],
        register=True,
    ) as own:
        assert await own.submit(pow, 2, 10) == 1024
        assert await own.map(abs, [-1, 2, -3]) == [1, 2, 3]
        with trio.move_on_after(0.2) as scope:
            await own.submit(_sleep_long)
        assert scope.cancelled_caught
        link = await own.share(folder)
        assert contents(await trio.to_thread.run_sync(hive.fetch, link)) == contents(folder)
        assert {row.name for row in await own.peers()} >= {"peer-1", "peer-2", "peer-3"}
        assert (await own.balance()).available > 0


def _sleep_long():
    import time

    time.sleep(60)


def test_what_is_no_link(hive):
    with pytest.raises(errors.LinkError):
        hive.fetch("magnet:?xt=urn:btih:abc")


def test_what_is_not_there_cannot_be_shared(hive, tmp_path):
    with pytest.raises(errors.ContentError, match="missing"):
        hive.share(tmp_path / "missing")
