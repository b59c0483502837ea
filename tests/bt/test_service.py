"""The swarm over a memory network under a mock clock: no test waits for real."""

import errno
import os
import time

import pytest
import trio

from hivemind_p2p.bt import file_hashing, files
from hivemind_p2p.bt.concurrency import in_thread
from hivemind_p2p.bt.exchange import WAIT_FOR_ROOM
from hivemind_p2p.bt.hashing import BLOCK
from hivemind_p2p.bt.link import infohash_of, make_link
from hivemind_p2p.bt.metainfo_codec import build
from hivemind_p2p.bt.wire import (
    MOST_BLOCKS,
    PROTOCOL,
    Block,
    Choking,
    Hello,
    Holding,
    Interest,
    ManifestFollows,
    Piece,
    Request,
    decode,
    encode,
    encode_record,
)
from hivemind_p2p.errors import (
    ContentError,
    DiskFullError,
    LinkError,
    ManifestError,
    NoSourceError,
    PeerUnreachableError,
    ProtocolError,
    StreamClosedError,
    UnsafePathError,
)
from hivemind_p2p.proto import swarm_pb2 as pb
from hivemind_p2p.types import ByteRange, FetchProgress, FileEntry
from tests.bt.swarms import contents_of, hashed_file, hive, make_folder, some_bytes

FILES = {"config.json": b"{}", "model.safetensors": some_bytes(12 * BLOCK + 100), "sub/empty": b""}
PIECES = 14


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "shared" / "model", FILES)


async def receive(channel, max_payload=1 << 24):
    header, payload = await channel.receive(pb.Message, max_payload=max_payload)
    return decode(header), payload


async def receive_to_the_end(channel):
    while True:
        await receive(channel)


# -- sharing and fetching --------------------------------------------------------------------------------------------


async def test_a_shared_folder_arrives_as_it_was(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        told: list[FetchProgress] = []
        path = await peer.swarm.fetch(link, progress=told.append)
        assert path == tmp_path / "peer" / infohash_of(link).hex() / "model"
        assert contents_of(path) == FILES
        assert await peer.swarm.files(link) == tuple(FileEntry(name, len(FILES[name])) for name in sorted(FILES))
        total = sum(map(len, FILES.values()))
        assert (told[0].done_bytes, told[0].wanted_bytes) == (0, total)
        assert (told[-1].done_bytes, told[-1].sources) == (total, 1)
        assert peer.swarm.statistics().downloaded_bytes == seed.swarm.statistics().uploaded_bytes == total
        assert await peer.swarm.sources(link) == (seed.peer_id,)
        assert await seed.swarm.sources(link) == (peer.peer_id,)


async def test_a_single_file_and_a_chosen_folder(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder / "model.safetensors")
        path = await peer.swarm.fetch(link, to=tmp_path / "chosen")
        assert path == tmp_path / "chosen" / "model.safetensors"
        assert path.read_bytes() == FILES["model.safetensors"]
        assert await peer.swarm.fetch(link, to=tmp_path / "chosen") == path
        other = await peer.swarm.fetch(link, to=tmp_path / "other")
        assert other.read_bytes() == FILES["model.safetensors"]
        assert await seed.swarm.fetch(link) == folder / "model.safetensors", "what is shared lies where it lies"
        assert peer.swarm.statistics().downloaded_bytes == len(FILES["model.safetensors"])


async def test_real_threads_do_the_same(autojump_clock, tmp_path, folder):
    autojump_clock.rate = 1.0
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed", run_sync=in_thread), members.member("peer", run_sync=in_thread)
        # Nothing waits for the clock while a thread works, except what could jump ahead: so it is held.
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_keep_awake)
                assert contents_of(await peer.swarm.fetch(await seed.swarm.share(folder))) == FILES
                scope.cancel()


async def _keep_awake():
    while True:
        await trio.lowlevel.checkpoint()


async def test_a_fetched_content_is_served_on_when_the_seed_is_gone(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, first, second = (members.member(name) for name in ("seed", "first", "second"))
        link = await seed.swarm.share(folder)
        await first.swarm.fetch(link)
        members.network.kill(seed.peer_id)
        assert contents_of(await second.swarm.fetch(link)) == FILES


async def test_only_the_wanted_pieces_are_fetched(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        span = ByteRange(3 * BLOCK + 5, 6 * BLOCK + 7)
        wanted = {"config.json": [ByteRange(0, 2)], "model.safetensors": [span]}
        path = await peer.swarm.fetch(link, wanted=wanted)
        data = (path / "model.safetensors").read_bytes()
        assert data[span.start : span.stop] == FILES["model.safetensors"][span.start : span.stop]
        assert len(data) == len(FILES["model.safetensors"])
        assert not any(data[7 * BLOCK :])
        assert not (path / "sub").exists()
        assert peer.swarm.statistics().downloaded_bytes == 4 * BLOCK + 2
        assert contents_of(await peer.swarm.fetch(link)) == FILES
        assert peer.swarm.statistics().downloaded_bytes == sum(map(len, FILES.values()))


async def test_three_peers_with_a_third_each_are_a_full_source(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed = members.member("seed")
        link = await seed.swarm.share(folder)
        length = len(FILES["model.safetensors"])
        cuts = [0, 4 * BLOCK, 8 * BLOCK, length]
        for number in range(3):
            wanted = {
                "model.safetensors": [ByteRange(cuts[number], cuts[number + 1])],
                "config.json": [ByteRange(0, 2)],
            }
            await members.member(f"third{number}").swarm.fetch(link, wanted=wanted)
        members.network.kill(seed.peer_id)
        peer = members.member("peer")
        assert contents_of(await peer.swarm.fetch(link)) == FILES


async def test_a_peer_serves_while_it_fetches(autojump_clock, tmp_path):
    content = make_folder(tmp_path / "shared" / "big", {"data": some_bytes(64 * BLOCK)})
    async with hive(tmp_path, bandwidth=100_000) as members:
        seed, first, second = (members.member(name, seed=n) for n, name in enumerate(("seed", "first", "second")))
        link = await seed.swarm.share(content)
        async with trio.open_nursery() as nursery:
            for peer in (first, second):
                nursery.start_soon(peer.swarm.fetch, link)
        assert first.swarm.statistics().uploaded_bytes + second.swarm.statistics().uploaded_bytes > 0
        assert seed.swarm.statistics().uploaded_bytes < 2 * 64 * BLOCK


async def test_two_fetches_of_one_content_do_not_fetch_twice(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(peer.swarm.fetch, link)
        assert seed.swarm.statistics().uploaded_bytes == sum(map(len, FILES.values()))


async def test_what_has_not_changed_is_not_hashed_again(autojump_clock, folder, tmp_path, monkeypatch):
    hashed = []
    real = file_hashing.hash_span
    monkeypatch.setattr(file_hashing, "hash_span", lambda path, **span: hashed.append(path.name) or real(path, **span))
    async with hive(tmp_path) as members:
        seed = members.member("seed")
        link = await seed.swarm.share(folder)
        assert sorted(hashed) == ["config.json", "model.safetensors"]
        assert await seed.swarm.share(folder) == link
        assert len(hashed) == 2
        (folder / "config.json").write_bytes(b"[]")
        os.utime(folder / "config.json", ns=(1, 1))
        assert await seed.swarm.share(folder) != link
        assert hashed[2:] == ["config.json"]


async def test_a_file_that_changes_while_it_is_hashed_is_told(autojump_clock, folder, tmp_path, monkeypatch):
    real = file_hashing.hash_span

    def changing(path, **span):
        os.utime(path, ns=(1, 1))
        return real(path, **span)

    monkeypatch.setattr(file_hashing, "hash_span", changing)
    async with hive(tmp_path) as members:
        with pytest.raises(ContentError, match="changed while it was hashed"):
            await members.member("seed").swarm.share(folder)


async def test_what_cannot_be_shared_is_told(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        swarm = members.member("seed").swarm
        with pytest.raises(ContentError, match="nothing to share"):
            await swarm.share(tmp_path / "missing")
        (tmp_path / "void" / "sub").mkdir(parents=True)
        with pytest.raises(ContentError, match="no file in"):
            await swarm.share(tmp_path / "void")
        (folder / "link").symlink_to("config.json")
        assert len(await swarm.files(await swarm.share(folder))) == 4
        (tmp_path / "secret").write_bytes(b"secret")
        (folder / "link").unlink()
        (folder / "link").symlink_to(tmp_path / "secret")
        with pytest.raises(UnsafePathError, match="leads out of the folder"):
            await swarm.share(folder)
        (folder / "link").unlink()
        (folder / "aux").write_bytes(b"")
        with pytest.raises(UnsafePathError):
            await swarm.share(folder)
        (folder / "aux").unlink()
        os.mkfifo(folder / "pipe")
        with pytest.raises(ContentError, match="neither a file nor a folder"):
            await swarm.share(folder)


# -- restarts and disks ----------------------------------------------------------------------------------------------


async def test_after_a_restart_everything_is_served_again(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed = members.member("seed")
        link = await seed.swarm.share(folder)
        members.network.kill(seed.peer_id)
        members.board.records.clear()
        members.member("seed")
        await trio.testing.wait_all_tasks_blocked()
        assert contents_of(await members.member("peer").swarm.fetch(link)) == FILES


async def test_a_killed_download_goes_on_where_it_was(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        done = []

        def stop(progress):
            done.append(progress.done_bytes)
            if len(done) == 6:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await peer.swarm.fetch(link, progress=stop)
        members.network.kill(peer.peer_id)
        before = seed.swarm.statistics().uploaded_bytes
        again = members.member("peer")
        assert contents_of(await again.swarm.fetch(link)) == FILES
        fetched = again.swarm.statistics().downloaded_bytes
        total = sum(map(len, FILES.values()))
        assert 0 < fetched <= total - done[-1]
        assert seed.swarm.statistics().uploaded_bytes - before == fetched


async def test_a_full_disk_keeps_what_has_arrived(autojump_clock, folder, tmp_path, monkeypatch):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        room, write = [5 * BLOCK], os.pwrite

        def limited(descriptor, data, offset):
            room[0] -= len(data)
            if room[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, data, offset)

        monkeypatch.setattr(files.os, "pwrite", limited)
        before = trio.current_time()
        with pytest.raises(DiskFullError):
            await peer.swarm.fetch(link)
        assert trio.current_time() - before == pytest.approx(WAIT_FOR_ROOM, abs=1)
        monkeypatch.undo()
        (statistics,) = peer.swarm.statistics().contents
        assert 0 < statistics.held_pieces < PIECES
        had = peer.swarm.statistics().downloaded_bytes
        assert contents_of(await peer.swarm.fetch(link)) == FILES
        assert peer.swarm.statistics().downloaded_bytes == sum(map(len, FILES.values()))
        assert had > 0


async def test_what_did_not_fit_on_one_disk_goes_on_in_another_folder(autojump_clock, folder, tmp_path, monkeypatch):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        small, write, room = tmp_path / "small", os.pwrite, [5 * BLOCK]

        def limited(descriptor, data, offset):
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(small)):
                room[0] -= len(data)
                if room[0] < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, data, offset)

        monkeypatch.setattr(files.os, "pwrite", limited)
        with pytest.raises(DiskFullError):
            await peer.swarm.fetch(link, to=small)
        path = await peer.swarm.fetch(link, to=tmp_path / "large")
        assert path.parent == tmp_path / "large"
        assert contents_of(path) == FILES
        assert peer.swarm.statistics().downloaded_bytes == sum(map(len, FILES.values()))


async def test_a_shared_file_that_changed_is_not_sent(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        data = bytearray(FILES["model.safetensors"])
        data[0] ^= 1
        (folder / "model.safetensors").write_bytes(data)
        os.utime(folder / "model.safetensors", ns=(1, 1))
        with pytest.raises(NoSourceError, match="1 of 14 wanted pieces"):
            await peer.swarm.fetch(link)
        assert peer.swarm.statistics().banned == 0
        (folder / "model.safetensors").write_bytes(FILES["model.safetensors"])
        assert await seed.swarm.share(folder) == link
        assert contents_of(await peer.swarm.fetch(link)) == FILES


async def test_a_seed_whose_files_are_gone_can_fetch_them_anew(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        await peer.swarm.fetch(link)
        (folder / "model.safetensors").unlink()
        path = await seed.swarm.fetch(link)
        assert path.is_relative_to(seed.folder)
        assert contents_of(path) == FILES


# -- links and wishes that cannot be met -----------------------------------------------------------------------------


async def test_what_cannot_be_fetched_is_told(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        with pytest.raises(LinkError):
            await peer.swarm.fetch("magnet:?xt=urn:btih:abc")
        with pytest.raises(ContentError, match="no file 'nothing'"):
            await peer.swarm.fetch(link, wanted={"nothing": [ByteRange(0, 1)]})
        make_folder(tmp_path / "to" / "model", {"config.json": b"my own"})
        with pytest.raises(ContentError, match="something else"):
            await peer.swarm.fetch(link, to=tmp_path / "to")
        assert contents_of(tmp_path / "to" / "model")["config.json"] == b"my own"


async def test_without_a_source_a_fetch_ends_in_time(autojump_clock, tmp_path):
    async with hive(tmp_path) as members:
        peer = members.member("peer")
        before = trio.current_time()
        with pytest.raises(NoSourceError, match="no source was found"):
            await peer.swarm.fetch(make_link(bytes(32), "nothing"))
        assert 25 < trio.current_time() - before < 40


async def test_missing_pieces_are_counted_and_sources_named(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, half, peer = (members.member(name) for name in ("seed", "half", "peer"))
        link = await seed.swarm.share(folder)
        await half.swarm.fetch(link, wanted={"model.safetensors": [ByteRange(0, 5 * BLOCK)]})
        members.network.kill(seed.peer_id)
        with pytest.raises(NoSourceError, match=f"9 of 14 wanted pieces.*{half.peer_id}: it holds 5 of 14"):
            await peer.swarm.fetch(link)
        again = members.member("again")
        (tmp_path / "seed").rename(tmp_path / "gone")
        assert await again.swarm.share(folder) == link
        assert contents_of(await peer.swarm.fetch(link)) == FILES
        assert again.swarm.statistics().uploaded_bytes < 10 * BLOCK


async def test_a_source_that_comes_later_is_found(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, half, peer = (members.member(name) for name in ("seed", "half", "peer"))
        link = await seed.swarm.share(folder)
        await half.swarm.fetch(link, wanted={"model.safetensors": [ByteRange(0, 5 * BLOCK)]})
        members.network.kill(seed.peer_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.swarm.fetch, link)
            await trio.sleep(12)
            late = members.member("late")
            assert await late.swarm.share(folder) == link
        assert peer.swarm.statistics().contents[0].held_pieces == PIECES


# -- peers that lie, stall and flood ---------------------------------------------------------------------------------


class Rogue:
    """A source that holds everything and answers each block as it likes."""

    def __init__(self, members, manifest, answer):
        transport, self.network, _ = members.peer()
        self.peer_id = transport.peer_id
        self.manifest = manifest
        self.answer = answer
        self.channels = 0
        self.network.serve(PROTOCOL, self.serve)
        members.board.records.setdefault(f"content:{manifest.infohash.hex()}", {})[self.peer_id] = encode_record(
            complete=True
        )

    async def serve(self, channel):
        self.channels += 1
        message, _ = await receive(channel)
        if message.want_manifest:
            await channel.send(encode(ManifestFollows()), self.manifest.encode())
        await channel.send(encode(Holding(True)))
        await channel.send(encode(Choking(False)))
        while True:
            message, _ = await receive(channel)
            for block in message.blocks if isinstance(message, Request) else ():
                await self.answer(channel, block)


async def lie(channel, block):
    await channel.send(encode(Piece((block,))), bytes(block.length))


async def stall(channel, block):
    await trio.sleep_forever()


async def send_unasked(channel, block):
    await channel.send(encode(Piece((Block(block.piece ^ 1, 0, block.length),))), bytes(block.length))


async def cut_short(channel, block):
    await channel.send(encode(Piece((block,))), bytes(block.length - 1))


async def talk_nonsense(channel, block):
    await channel.send(encode(Hello(bytes(32))))


async def flood(channel, block):
    await channel.send(encode(Piece((block,))), bytes(1 << 20))


async def manifest_of_member(member, link):
    return await member.swarm._manifest(link)


@pytest.mark.parametrize("answer", [lie, cut_short])
async def test_a_lying_source_is_banned_and_the_file_arrives(autojump_clock, folder, tmp_path, answer):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        rogue = Rogue(members, await manifest_of_member(seed, link), answer)
        assert contents_of(await peer.swarm.fetch(link)) == FILES
        assert peer.swarm.statistics().banned == 1
        assert rogue.channels <= 2


@pytest.mark.parametrize("answer", [stall, send_unasked, talk_nonsense, flood])
async def test_a_broken_source_is_left_and_the_file_arrives(autojump_clock, folder, tmp_path, answer):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        Rogue(members, await manifest_of_member(seed, link), answer)
        before = trio.current_time()
        assert contents_of(await peer.swarm.fetch(link)) == FILES
        assert trio.current_time() - before < 30


async def test_with_liars_alone_nothing_wrong_reaches_the_disk(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        manifest = await manifest_of_member(seed, link)
        members.network.kill(seed.peer_id)
        rogues = [Rogue(members, manifest, lie) for _ in range(3)]
        with pytest.raises(NoSourceError, match="does not match the hash tree"):
            await peer.swarm.fetch(link)
        assert peer.swarm.statistics().banned == len(rogues)
        assert not any(any(data) for data in contents_of(peer.folder / infohash_of(link).hex()).values())


async def test_a_source_that_vanishes_in_the_middle_is_replaced(autojump_clock, tmp_path):
    content = make_folder(tmp_path / "shared" / "big", {"data": some_bytes(40 * BLOCK)})
    async with hive(tmp_path, bandwidth=100_000) as members:
        seeds = [members.member(f"seed{number}") for number in range(2)]
        for seed in seeds:
            link = await seed.swarm.share(content)
        peer = members.member("peer")

        async def kill_one():
            await trio.sleep(2)
            members.network.kill(seeds[0].peer_id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_one)
            path = await peer.swarm.fetch(link)
        assert contents_of(path) == {"data": some_bytes(40 * BLOCK)}
        assert seeds[0].swarm.statistics().uploaded_bytes > 0


async def test_a_wrong_manifest_is_refused_and_another_source_is_asked(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        forged = build("model", BLOCK, [hashed_file(folder / "config.json", ("config.json",), BLOCK)])
        rogue = Rogue(members, forged, lie)
        records = members.board.records[f"content:{infohash_of(link).hex()}"]
        own = records.pop(seed.peer_id)
        records[rogue.peer_id] = encode_record(complete=True)
        with pytest.raises(ManifestError, match="does not match its link"):
            await peer.swarm.fetch(link)
        records[seed.peer_id] = own
        assert contents_of(await peer.swarm.fetch(link)) == FILES


async def test_records_of_peers_that_nobody_knows_are_survived(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        records = members.board.records[f"content:{infohash_of(link).hex()}"]
        for number in range(5):
            records[f"12D3KooWnobody{number}"] = encode_record(complete=True)
        records["12D3KooWmalformed"] = b"\xff\xff"
        records["12D3KooWwithdrawn"] = b""
        assert contents_of(await peer.swarm.fetch(link)) == FILES


async def open_to(members, member, hello):
    _, network, _ = members.peer()
    network.learn(await member.directory.find_peer(member.peer_id))
    channel = await network.open(member.peer_id, PROTOCOL)
    await channel.send(encode(hello))
    return channel


async def ask_for_all(channel, pieces=PIECES):
    """Joins as one that has nothing, and waits until it is served."""
    await channel.send(encode(Holding(False, bytes((pieces + 7) // 8))))
    await channel.send(encode(Interest(True, everything=True)))
    while (await receive(channel))[0] != Choking(False):
        pass


async def test_what_a_source_does_not_have_it_says(autojump_clock, tmp_path):
    async with hive(tmp_path) as members:
        channel = await open_to(members, members.member("seed"), Hello(bytes(32)))
        with pytest.raises(NoSourceError, match="does not have the content"):
            await receive(channel)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (ManifestFollows(), ProtocolError),
        (Hello(bytes(32)), ProtocolError),
        (Interest(True, pieces=b"x"), ProtocolError),
        (Request((Block(PIECES, 0, 1),)), ProtocolError),
        # The answer that is being sent is cut off, so the stream ends without a word.
        (Request((Block(0, 0, 2),) * MOST_BLOCKS), (ProtocolError, StreamClosedError)),
    ],
)
async def test_whoever_breaks_the_rules_is_told_and_the_source_lives(autojump_clock, folder, tmp_path, message, told):
    async with hive(tmp_path) as members:
        seed, peer = members.member("seed"), members.member("peer")
        link = await seed.swarm.share(folder)
        channel = await open_to(members, seed, Hello(infohash_of(link)))
        await ask_for_all(channel)
        await channel.send(encode(message))
        await channel.send(encode(message))
        with pytest.raises(told):
            await receive_to_the_end(channel)
        assert contents_of(await peer.swarm.fetch(link)) == FILES


async def test_ranges_of_a_piece_can_be_asked_for(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed = members.member("seed")
        link = await seed.swarm.share(folder)
        channel = await open_to(members, seed, Hello(infohash_of(link)))
        await ask_for_all(channel)
        block = Block(2, 100, 50)
        await channel.send(encode(Request((block, Block(2, 0, BLOCK * 2)))))
        answers = [await receive(channel) for _ in range(2)]
        sent = {type(message).__name__: bytes(payload) for message, payload in answers}
        assert sent == {"Piece": FILES["model.safetensors"][BLOCK + 100 : BLOCK + 150], "Refusal": b""}


async def test_an_idle_and_a_silent_caller_are_let_go(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed = members.member("seed")
        link = await seed.swarm.share(folder)
        idle = await open_to(members, seed, Hello(infohash_of(link)))
        await receive(idle)
        assert seed.swarm.statistics().serving == 1
        await trio.sleep(130)
        assert seed.swarm.statistics().serving == 0


async def test_a_caller_that_does_not_read_is_let_go(autojump_clock, tmp_path):
    content = make_folder(tmp_path / "shared" / "big", {"data": some_bytes(200 * BLOCK)})
    async with hive(tmp_path) as members:
        seed = members.member("seed")
        link = await seed.swarm.share(content)
        channel = await open_to(members, seed, Hello(infohash_of(link)))
        await ask_for_all(channel, 200)
        for start in (0, 100):
            await channel.send(encode(Request(tuple(Block(start + n, 0, BLOCK) for n in range(100)))))
        await trio.sleep(60)
        assert seed.swarm.statistics().serving == 0


async def test_an_unreachable_directory_does_not_lose_a_share(autojump_clock, folder, tmp_path, monkeypatch):
    async with hive(tmp_path) as members:
        seed = members.member("seed")
        publish, failures = seed.directory.publish, [3]

        async def failing(key, value, *, lifetime):
            if failures[0]:
                failures[0] -= 1
                raise PeerUnreachableError("no directory")
            await publish(key, value, lifetime=lifetime)

        monkeypatch.setattr(seed.directory, "publish", failing)
        with pytest.raises(PeerUnreachableError):
            await seed.swarm.share(folder)
        await members.nursery.start(seed.swarm.run)
        (link,) = (content.link for content in seed.swarm.statistics().contents)
        peer = members.member("peer")
        started = time.monotonic()
        assert contents_of(await peer.swarm.fetch(link)) == FILES
        assert time.monotonic() - started < 10
