"""Several members of one swarm over a memory network: both ways on one channel, hearsay, limits, who is reported."""

from functools import partial

import pytest
import trio

from hivemind_p2p.bt.exchange import Limits
from hivemind_p2p.bt.hashing import BLOCK
from hivemind_p2p.bt.link import infohash_of
from hivemind_p2p.bt.rate_limit import TokenBucket
from hivemind_p2p.types import ByteRange
from tests.bt.swarms import contents_of, hive, make_folder, some_bytes
from tests.bt.test_service import Rogue, lie, manifest_of_member

LENGTH = 64 * BLOCK
FILES = {"data": some_bytes(LENGTH)}


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "shared" / "big", FILES)


async def test_two_halves_become_whole_over_one_channel(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, left, right = (members.member(name) for name in ("seed", "left", "right"))
        link = await seed.swarm.share(folder)
        await left.swarm.fetch(link, wanted={"data": [ByteRange(0, LENGTH // 2)]})
        await right.swarm.fetch(link, wanted={"data": [ByteRange(LENGTH // 2, LENGTH)]})
        members.network.kill(seed.peer_id)
        await trio.sleep(1)
        members.board.records[f"content:{infohash_of(link).hex()}"].pop(left.peer_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(left.swarm.fetch, link)
            await trio.sleep(1)
            await right.swarm.fetch(link)
        assert left.swarm.statistics().contents[0].held_pieces == 64
        assert left.swarm.statistics().uploaded_bytes == right.swarm.statistics().uploaded_bytes == LENGTH // 2
        assert left.transport.statistics().accepted == 1, "that which the right one opened when it had nothing"
        assert right.transport.statistics().accepted == 0


async def test_members_that_the_directory_does_not_know_are_found_through_others(autojump_clock, folder, tmp_path):
    async with hive(tmp_path, bandwidth=100_000) as members:
        seed, first, second = (members.member(name, seed=n) for n, name in enumerate(("seed", "first", "second")))
        link = await seed.swarm.share(folder)
        records = members.board.records[f"content:{infohash_of(link).hex()}"]

        async def keep_them_out():
            while True:
                for peer in (first.peer_id, second.peer_id):
                    records.pop(peer, None)
                    members.board.addresses.pop(peer, None)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_them_out)
            async with trio.open_nursery() as fetches:
                for peer in (first, second):
                    fetches.start_soon(peer.swarm.fetch, link)
            nursery.cancel_scope.cancel()
        assert first.swarm.statistics().uploaded_bytes + second.swarm.statistics().uploaded_bytes > 0


async def test_a_seed_that_is_alone_sends_little_more_than_one_copy(autojump_clock, folder, tmp_path):
    async with hive(tmp_path, bandwidth=200_000) as members:
        seed = members.member("seed")
        link = await seed.swarm.share(folder)
        peers = [members.member(f"peer{number}", seed=number) for number in range(4)]
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(peer.swarm.fetch, link)
        assert seed.swarm.statistics().uploaded_bytes <= 1.5 * LENGTH


@pytest.mark.parametrize("who", ["seed", "peer"])
async def test_a_limit_holds(autojump_clock, folder, tmp_path, who):
    async with hive(tmp_path) as members:
        rate = LENGTH / 8
        limits = {
            "seed": Limits(upload=TokenBucket(rate)) if who == "seed" else None,
            "peer": Limits(download=TokenBucket(rate)) if who == "peer" else None,
        }
        seed, peer = (members.member(name, limits=limits[name]) for name in ("seed", "peer"))
        link = await seed.swarm.share(folder)
        started = trio.current_time()
        assert contents_of(await peer.swarm.fetch(link)) == FILES
        assert 5.5 < trio.current_time() - started < 9.0, "a burst of a second, and the last message, count for nothing"


async def test_slots_and_conversations_are_bounded_and_everybody_ends_complete(autojump_clock, folder, tmp_path):
    async with hive(tmp_path, bandwidth=200_000) as members:
        seed = members.member("seed", limits=Limits(slots=1, conversations=2))
        link = await seed.swarm.share(folder)
        peers = [members.member(f"peer{number}", seed=number) for number in range(4)]
        seen = []

        def look(_):
            (content,) = seed.swarm.statistics().contents
            seen.append((content.peers, content.served))

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(partial(peer.swarm.fetch, link, progress=look))
        assert max(peers for peers, _ in seen) == 2
        assert max(served for _, served in seen) == 1
        assert all(peer.swarm.statistics().contents[0].held_pieces == 64 for peer in peers)


async def test_who_sent_wrong_bytes_is_reported_and_nobody_else(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        reports = []
        seed = members.member("seed")
        peer = members.member("peer", on_misbehaviour=lambda who, what: reports.append((who, what)))
        link = await seed.swarm.share(folder)
        rogue = Rogue(members, await manifest_of_member(seed, link), lie)
        assert contents_of(await peer.swarm.fetch(link)) == FILES
        assert [who for who, _ in reports] == [rogue.peer_id], "once, however many wrong pieces were on their way"
        assert "does not match the hash tree" in reports[0][1]


async def test_conversations_end_once_nobody_wants_anything(autojump_clock, folder, tmp_path):
    async with hive(tmp_path) as members:
        seed, peer, half = (members.member(name) for name in ("seed", "peer", "half"))
        link = await seed.swarm.share(folder)
        await peer.swarm.fetch(link)
        await trio.sleep(3)
        assert seed.swarm.statistics().serving == 0, "both have everything"
        members.network.kill(peer.peer_id)
        await half.swarm.fetch(link, wanted={"data": [ByteRange(0, 1)]})
        await trio.sleep(3)
        assert seed.swarm.statistics().serving == 1
        await trio.sleep(60)
        assert seed.swarm.statistics().serving == 0
