import pytest
import trio

from hivemind_p2p.dht import channels, ids, routing_table, service, walk
from hivemind_p2p.dht.records import MAX_VALUE
from hivemind_p2p.errors import BootstrapUnreachableError, PeerUnreachableError, RecordError
from hivemind_p2p.types import PeerInfo


def values(found):
    return sorted(record.value for record in found)


async def test_everybody_finds_what_everybody_published(autojump_clock, hive):
    members = await hive.grow(5)
    for number, member in enumerate(members):
        await member.service.publish("offers", b"offer %d" % number, lifetime=30)
    for member in members:
        found = await member.service.lookup("offers")
        assert values(found) == [b"offer %d" % number for number in range(5)]
        assert {record.signer for record in found} == {other.peer_id for other in members}
        assert {record.key for record in found} == {"offers"}


async def test_a_hive_of_one_finds_its_own_records(autojump_clock, hive):
    (alone,) = await hive.grow(1)
    await alone.service.publish("key", b"v", lifetime=30)
    assert values(await alone.service.lookup("key")) == [b"v"]
    assert alone.service.statistics().requests == 0


async def test_a_key_that_nobody_uses_has_no_records(autojump_clock, hive):
    members = await hive.grow(3)
    assert await members[0].service.lookup("nothing") == ()


async def test_a_value_published_again_replaces_the_former(autojump_clock, hive):
    members = await hive.grow(4)
    for value in (b"first", b"second", b"third"):
        await members[1].service.publish("key", value, lifetime=30)
        assert values(await members[3].service.lookup("key")) == [value]


async def test_records_live_as_long_as_they_are_republished(autojump_clock, hive):
    members = await hive.grow(4)
    await members[1].service.publish("key", b"v", lifetime=30)
    await trio.sleep(1000)
    assert values(await members[2].service.lookup("key")) == [b"v"]
    hive.kill(members[1])
    await trio.sleep(31)
    assert await members[2].service.lookup("key") == ()
    await trio.sleep(2 * service.SWEEP_EVERY)
    assert members[2].service.statistics().records == 0


async def test_withdrawn_records_are_gone_at_once_and_for_good(autojump_clock, hive):
    members = await hive.grow(4)
    await members[1].service.publish("key", b"v", lifetime=30)
    await members[1].service.withdraw("key")
    await members[1].service.withdraw("never published")
    for member in members:
        assert await member.service.lookup("key") == ()
    for _ in range(10):
        await trio.sleep(5)
        assert await members[2].service.lookup("key") == ()
    await members[1].service.publish("key", b"again", lifetime=30)
    assert values(await members[2].service.lookup("key")) == [b"again"]


async def test_a_withdrawal_that_one_replica_missed_holds(autojump_clock, hive):
    members = await hive.grow(4)
    await members[1].service.publish("key", b"v", lifetime=300)
    hive.network.partition([[members[3].peer_id]])
    await members[1].service.withdraw("key")
    hive.network.heal()
    await trio.sleep(service.SEEDS_EVERY * 2)
    assert await members[2].service.lookup("key") == ()
    assert await members[3].service.lookup("key") == ()


async def test_what_cannot_be_stored_is_refused_at_once(autojump_clock, hive):
    (me,) = await hive.grow(1)
    with pytest.raises(RecordError, match="too large"):
        await me.service.publish("key", bytes(MAX_VALUE + 1), lifetime=30)
    with pytest.raises(RecordError, match="key"):
        await me.service.publish("k" * 300, b"v", lifetime=30)
    with pytest.raises(RecordError, match="key"):
        await me.service.lookup("k" * 300)
    assert me.service.statistics().published == 0


async def test_more_records_than_fit_into_one_answer(autojump_clock, hive):
    members = await hive.grow(3)
    large = bytes(range(256)) * 62
    for number in range(40):
        other = hive.add(100 + number)
        await other.service.publish("key", large + b"%d" % number, lifetime=600)
    found = await members[2].service.lookup("key")
    assert len(values(found)) == 40


async def test_peers_are_found_by_their_id(autojump_clock, hive):
    members = await hive.grow(5)
    assert await members[1].service.find_peer(members[4].peer_id) == members[4].info
    assert await members[2].service.find_peer(members[2].peer_id) == members[2].info


async def test_a_peer_that_is_not_in_the_table_is_found_through_others(autojump_clock, hive):
    members = await hive.grow(3)
    newcomer = await hive.start(hive.add(9, seeds=[members[0].info]))
    members[2].service._node.table.failed(newcomer.peer_id, -1000.0)
    assert newcomer.peer_id not in members[2].service._node.table
    assert await members[2].service.find_peer(newcomer.peer_id) == newcomer.info


async def test_a_peer_that_nobody_knows_is_not_found(autojump_clock, hive, identity):
    members = await hive.grow(3)
    with pytest.raises(PeerUnreachableError, match="nobody in the hive knows"):
        await members[1].service.find_peer(identity(99).peer_id)


async def test_a_seed_that_does_not_answer_is_named(autojump_clock, hive, identity):
    seed = PeerInfo(identity(99).peer_id, ("/memory/99",))
    me = hive.add(1, seeds=[seed])
    with pytest.raises(BootstrapUnreachableError, match=f"/memory/99/p2p/{seed.peer_id}"):
        await me.service.join()
    with pytest.raises(BootstrapUnreachableError):
        await me.service.run()


async def test_one_living_seed_is_enough(autojump_clock, hive, identity):
    (seed,) = await hive.grow(1)
    dead = PeerInfo(identity(99).peer_id, ("/memory/99",))
    me = await hive.start(hive.add(2, seeds=[dead, seed.info]))
    assert me.service.statistics().peers == 1


async def test_joining_tells_the_neighbours(autojump_clock, hive):
    members = await hive.grow(6)
    assert [member.service.statistics().peers for member in members] == [5] * 6


async def test_records_survive_the_death_of_replicas(autojump_clock, hive):
    members = await hive.grow(8)
    await members[1].service.publish("key", b"v", lifetime=600)
    for member in (members[0], members[3], members[5]):
        hive.kill(member)
    for member in (members[2], members[4], members[6], members[7]):
        assert values(await member.service.lookup("key")) == [b"v"]


async def test_a_seed_that_starts_again_with_nothing_is_found_again(autojump_clock, hive):
    members = await hive.grow(3)
    seed = members[0]
    await members[1].service.publish("key", b"v", lifetime=30)
    hive.kill(seed)
    await trio.sleep(60)
    assert values(await members[2].service.lookup("key")) == [b"v"]
    again = await hive.start(hive.add(1, seeds=[]))
    # The memory network gives a peer that joins again a new address; a bootstrap keeps its port.
    hive.network._by_address[seed.router.addresses[0]] = seed.peer_id
    await trio.sleep(service.SEEDS_EVERY * 2 + 40)
    assert again.service.statistics().peers == 2
    newcomer = await hive.start(hive.add(7, seeds=[again.info]))
    assert values(await newcomer.service.lookup("key")) == [b"v"]


async def test_the_parts_of_a_hive_find_each_other_again(autojump_clock, hive):
    members = await hive.grow(5)
    island = [member.peer_id for member in members[3:]]
    hive.network.partition([island])
    await members[1].service.publish("key", b"main", lifetime=30)
    await members[4].service.publish("key", b"island", lifetime=30)
    await trio.sleep(120)
    assert values(await members[3].service.lookup("key")) == [b"island"]
    hive.network.heal()
    await trio.sleep(service.SEEDS_EVERY * 2 + 10)
    assert values(await members[3].service.lookup("key")) == [b"island", b"main"]
    assert values(await members[0].service.lookup("key")) == [b"island", b"main"]


async def test_publishing_while_the_hive_is_away_is_made_up_for(autojump_clock, hive):
    members = await hive.grow(2)
    hive.network.partition([[members[1].peer_id]])
    await members[1].service.publish("key", b"v", lifetime=3600)
    assert await members[0].service.lookup("key") == ()
    hive.network.heal()
    await trio.sleep(30)
    assert members[0].service.statistics().records == 1
    assert values(await members[0].service.lookup("key")) == [b"v"]


async def test_a_stalled_peer_costs_a_second_and_only_once(autojump_clock, hive):
    members = await hive.grow(6)
    for member in members:
        await member.service.publish("key", member.peer_id.encode(), lifetime=3600)
    hive.network.partition([[members[4].peer_id]])
    started = trio.current_time()
    assert len(await members[1].service.lookup("key")) == 6
    assert trio.current_time() - started < walk.SLOW_AFTER + 0.5
    started = trio.current_time()
    assert len(await members[1].service.lookup("key")) == 6
    assert trio.current_time() - started < 0.5


async def test_channels_are_used_again_and_closed_in_the_end(autojump_clock, hive):
    members = await hive.grow(2)
    router = members[1].router
    for _ in range(20):
        await members[1].service.lookup("key")
    assert router.statistics().opened == 1
    await trio.sleep(channels.KEPT_IDLE + service.SWEEP_EVERY + 1)
    assert members[0].router.statistics().answering[channels.PROTOCOL] == 0


async def test_a_channel_that_died_while_idle_is_replaced(autojump_clock, hive):
    members = await hive.grow(2)
    await members[1].service.lookup("key")
    (idle,) = members[1].service._asker._channels._idle.values()
    await idle.channel.aclose()
    await members[0].service.publish("key", b"v", lifetime=30)
    assert values(await members[1].service.lookup("key")) == [b"v"]
    assert members[1].service.statistics().failures == 0


async def test_a_silent_peer_makes_room_for_a_newcomer(autojump_clock, hive, identity):
    members = await hive.grow(2)
    table = members[0].service._node.table
    crowded = ids.bucket_index(ids.of_peer(members[0].peer_id), ids.of_peer(members[1].peer_id))
    await trio.sleep(routing_table.DOUBT_AFTER + 10)
    silent = same_bucket(identity, members[0].peer_id, crowded, 2 * routing_table.BUCKET_SIZE)
    for peer in silent[: routing_table.BUCKET_SIZE]:
        table.seen(PeerInfo(peer, ("/memory/999",)), 0.0)
    table.failed(members[1].peer_id, trio.current_time())
    table.seen(PeerInfo(silent[-1], ("/memory/999",)), 0.0)
    assert members[1].peer_id not in table
    await members[1].service.lookup("key")
    await trio.sleep(channels.REQUEST_DEADLINE + 1)
    assert members[1].peer_id in table


def same_bucket(identity, own, index, count):
    """Peers in one bucket of `own`."""
    peers = (identity(number).peer_id for number in range(1000, 9000))
    there = (peer for peer in peers if ids.bucket_index(ids.of_peer(own), ids.of_peer(peer)) == index)
    return [next(there) for _ in range(count)]


async def test_buckets_are_refreshed(autojump_clock, hive):
    members = await hive.grow(3)
    before = members[1].service.statistics().lookups
    await trio.sleep(service.REFRESH_EVERY + 1)
    assert members[1].service.statistics().lookups > before


async def test_statistics_count(autojump_clock, hive):
    members = await hive.grow(3)
    await members[1].service.publish("key", b"v", lifetime=30)
    await members[2].service.lookup("key")
    statistics = members[1].service.statistics()
    assert (statistics.peers, statistics.records, statistics.published) == (2, 1, 1)
    assert statistics.requests > 0
    assert statistics.answered > 0
    assert (statistics.failures, statistics.refused) == (0, 0)
    assert statistics.record_bytes > 0


def behind_a_relay(member):
    """Has a peer say that it can be called through a relay only."""
    addresses = tuple(f"{address}/p2p/{member.peer_id}/p2p-circuit" for address in member.router.addresses)
    kind = type("Relayed", (type(member.router),), {"addresses": property(lambda _: addresses)})
    member.router.__class__ = kind


async def test_a_client_uses_the_directory_and_bears_no_part_of_it(autojump_clock, hive):
    members = await hive.grow(6)
    client = hive.add(7)
    behind_a_relay(client)
    await hive.start(client)
    await client.service.publish("key", b"the client's", lifetime=600)
    await members[2].service.publish("other", b"value", lifetime=600)
    await trio.sleep(1)
    assert [record.value for record in await members[4].service.lookup("key")] == [b"the client's"]
    assert [record.value for record in await client.service.lookup("other")] == [b"value"]
    assert client.service._node.store.keys() == ("key",)
    assert not any(client.peer_id in member.service._node.table for member in members)
    assert (await members[3].service.find_peer(client.peer_id)).addresses == client.router.addresses
