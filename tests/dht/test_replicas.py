"""How records get to their replicas, stay there, and come back: on a memory network."""

from collections import Counter
from functools import partial

import pytest
import trio

from hivemind_p2p.dht import channels, ids, placements, publisher, signatures, wire
from hivemind_p2p.dht.lookup import READ_WIDTH
from hivemind_p2p.dht.messages import FindPeers, FindRecords, ReadMany, Store
from hivemind_p2p.dht.service import DirectoryService
from hivemind_p2p.errors import RecordError
from hivemind_p2p.net.clock import serve_clock

KEYS = [f"key {number}" for number in range(60)]


@pytest.fixture
def questions(monkeypatch):
    """How often each kind of question was asked."""
    from hivemind_p2p.dht.asker import Asker

    asked = Counter()
    request = Asker.request

    async def count(self, info, question, *arguments):
        asked[type(question)] += 1
        return await request(self, info, question, *arguments)

    monkeypatch.setattr(Asker, "request", count)
    return asked


def values(found):
    return sorted(record.value for record in found)


async def test_publishing_asks_each_peer_once(autojump_clock, hive, questions):
    members = await hive.grow(12)
    questions.clear()
    await members[3].service.publish("key", b"v", lifetime=600)
    assert questions == {Store: 11}


async def test_publishing_again_shares_requests_and_needs_no_lookups(autojump_clock, hive, questions):
    members = await hive.grow(8)
    for key in KEYS:
        await members[2].service.publish(key, b"v", lifetime=300)
    questions.clear()
    await trio.sleep(101)
    # Sixty keys at seven replicas each: a message or two for each replica, not one for each key.
    assert 7 <= questions[Store] <= 21
    assert FindPeers not in questions or questions[FindPeers] < 30
    await trio.sleep(250)
    assert [values(await members[5].service.lookup(key)) for key in KEYS[:3]] == [[b"v"]] * 3


async def test_replicas_that_died_are_looked_up_anew(autojump_clock, hive):
    members = await hive.grow(10)
    await members[2].service.publish("key", b"v", lifetime=300)
    for member in members[5:]:
        hive.kill(member)
    newcomers = [await hive.start(hive.add(100 + number)) for number in range(4)]
    await trio.sleep(placements.PLACED_FOR)
    for member in (members[3], *newcomers):
        assert [one.record.value for one in member.service._node.store.originals("key", trio.current_time())] == [b"v"]


async def test_newcomers_are_given_the_records_that_they_should_keep(autojump_clock, hive):
    members = await hive.grow(6)
    await members[2].service.publish("key", b"v", lifetime=3600)
    hive.kill(members[2])
    newcomer = await hive.start(hive.add(50))
    await trio.sleep(5)
    (kept,) = newcomer.service._node.store.originals("key", trio.current_time())
    assert kept.record.value == b"v"
    for member in members[3:]:
        hive.kill(member)
    hive.kill(members[0])
    assert values(await newcomer.service.lookup("key")) == [b"v"]


async def test_many_keys_are_read_together(autojump_clock, hive, questions):
    members = await hive.grow(6)
    for key in KEYS:
        await members[2].service.publish(key, key.encode(), lifetime=3600)
    await members[3].service.publish(KEYS[0], b"another", lifetime=3600)
    questions.clear()
    found = await members[4].service.lookup_many([*KEYS, *KEYS])
    assert list(found) == KEYS
    assert {key: values(records) for key, records in found.items()} == {
        key: sorted([key.encode(), b"another"] if key == KEYS[0] else [key.encode()]) for key in KEYS
    }
    assert questions[ReadMany] <= 6
    assert FindRecords not in questions


async def test_of_many_keys_those_that_are_not_settled_are_looked_up(autojump_clock, hive):
    members = await hive.grow(6)
    await members[2].service.publish("there", b"v", lifetime=3600)
    found = await members[4].service.lookup_many(["there", "nowhere"])
    assert values(found["there"]) == [b"v"]
    assert found["nowhere"] == ()
    with pytest.raises(RecordError, match="key"):
        await members[4].service.lookup_many(["k" * 300])


async def test_records_that_are_known_are_not_sent_again(autojump_clock, hive):
    members = await hive.grow(10)
    for member in members:
        await member.service.publish("key", member.peer_id.encode() * 100, lifetime=3600)
    sent = Counter()
    for member in members:
        node = member.service._node
        find = node._find

        def watched(asker, question, now, find=find):
            response = find(asker, question, now)
            sent[bool(question.known)] += len(response.records)
            return response

        node._find = watched
    newcomer = hive.add(77)
    assert len(await newcomer.service.lookup("key")) == 10
    assert len(await members[4].service.lookup("key")) == 10
    assert sent[True] == 0
    assert sent[False] <= 80


async def test_a_node_that_starts_again_still_has_what_it_kept(hive, tmp_path):
    """Without a mock clock: threads read and write the file, and trio's mock clock does not wait for them."""
    seed = hive.add(1)
    seed.service = DirectoryService(seed.router, seed.identity, clock=trio.current_time, folder=tmp_path)
    await hive.start(seed)
    publisher = await hive.start(hive.add(2, seeds=[seed.info]))
    await publisher.service.publish("key", b"v", lifetime=3600)
    hive.kill(publisher)
    seed.scope.cancel()
    with trio.fail_after(10):
        while list(tmp_path.glob("*-wal")):  # noqa: ASYNC110 - a thread closes it
            await trio.sleep(0.01)
    again = DirectoryService(seed.router, seed.identity, clock=trio.current_time, folder=tmp_path)
    await hive.nursery.start(again.run)
    with trio.fail_after(10):
        while not again.statistics().records:  # noqa: ASYNC110 - a thread reads it
            await trio.sleep(0.01)
    assert values(await again.lookup("key")) == [b"v"]


async def test_a_machine_whose_clock_is_off_goes_by_the_hives(autojump_clock, hive):
    members = await hive.grow(3)
    serve_clock(members[0].router, trio.current_time)
    late = hive.add(9, seeds=[members[0].info])
    late.service = DirectoryService(
        late.router, late.identity, clock=lambda: trio.current_time() - 7200.0, seeds=[members[0].info]
    )
    await hive.start(late)
    await trio.sleep(1)
    assert late.service.statistics().clock_correction == pytest.approx(7200.0, abs=1)
    await late.service.publish("key", b"from yesterday", lifetime=30)
    assert values(await members[1].service.lookup("key")) == [b"from yesterday"]
    assert members[1].service.statistics().refused == 0


async def test_sequences_go_on_above_those_of_a_former_life(autojump_clock, hive):
    members = await hive.grow(3)
    now = trio.current_time()
    publisher = members[1].service._publisher
    publisher._publications.above(int(now * 1000) + 10**9)
    await members[1].service.publish("key", b"before the clock was set back", lifetime=600)
    publisher._publications._sequence = 0
    await members[1].service.publish("key", b"after", lifetime=600)
    assert values(await members[2].service.lookup("key")) == [b"after"]


async def test_a_big_batch_does_not_hold_up_others(autojump_clock, hive):
    members = await hive.grow(3)
    for key in [f"big {number}" for number in range(100)]:
        await members[1].service.publish(key, b"v", lifetime=300)
    turns = 0

    async def others():
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    kept = members[1].service._node.store
    keys = kept.keys()
    batch = [one for key in keys for one in kept.originals(key, trio.current_time())]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await signatures.check_signatures([wire.as_bytes(one) for one in batch])
        nursery.cancel_scope.cancel()
    assert turns >= len(batch) // signatures.CHECKED_AT_ONCE // 2


def farthest(members, key):
    """Who is not this publisher (2), and lies farthest from the key."""
    point = ids.of_key(key)
    return max((*members[:2], *members[3:]), key=lambda member: ids.of_peer(member.peer_id) ^ point)


def kept(member, key):
    return [one.record.value for one in member.service._node.store.originals(key, trio.current_time())]


async def test_a_stalled_replica_that_no_read_asks_is_not_waited_for(autojump_clock, hive):
    members = await hive.grow(12)
    await members[2].service.publish("key", b"first", lifetime=600)
    await trio.sleep(1)
    stalled = farthest(members, "key")
    hive.network.partition([[stalled.peer_id]])
    started = trio.current_time()
    await members[2].service.publish("key", b"second", lifetime=600)
    assert trio.current_time() - started < channels.REQUEST_DEADLINE / 3
    assert sum(kept(member, "key") == [b"second"] for member in members) >= READ_WIDTH
    reader = next(member for member in members[3:] if member is not stalled)
    assert values(await reader.service.lookup("key")) == [b"second"]


async def test_the_farther_replicas_are_given_a_record_in_the_background(autojump_clock, hive):
    members = await hive.grow(12)
    await members[2].service.publish("key", b"v", lifetime=600)
    await trio.sleep(1)
    assert [kept(member, "key") for member in members] == [[b"v"]] * 12
    assert members[2].service._publisher._unfinished == 0


async def test_too_many_unfinished_publications_are_waited_for(autojump_clock, hive, monkeypatch):
    members = await hive.grow(12)
    monkeypatch.setattr(publisher, "MOST_UNFINISHED", 0)
    await members[2].service.publish("key", b"v", lifetime=600)
    assert [kept(member, "key") for member in members] == [[b"v"]] * 12


async def test_what_is_given_in_the_background_undoes_nothing_newer(autojump_clock, hive):
    members = await hive.grow(12)
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(partial(members[2].service.publish, "key", b"%d" % number, lifetime=600))
    await members[2].service.withdraw("key")
    await trio.sleep(1)
    assert [kept(member, "key") for member in members] == [[b""]] * 12
    assert await members[5].service.lookup("key") == ()


async def test_a_publication_that_the_end_of_a_peer_cuts_short_returns(autojump_clock, hive):
    members = await hive.grow(12)
    hive.network.partition([[members[2].peer_id]])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(members[2].service.publish, "key", b"v", lifetime=600))
        await trio.sleep(0.5)
        members[2].scope.cancel()
