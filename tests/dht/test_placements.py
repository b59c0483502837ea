import pytest

from hivemind_p2p.dht import ids
from hivemind_p2p.dht.placements import ENOUGH, PLACED_FOR, Placements
from hivemind_p2p.dht.routing_table import BUCKET_SIZE, RoutingTable


@pytest.fixture
def table(identity):
    return RoutingTable(identity(1).peer_id)


def test_replicas_are_remembered_for_a_while(table, info):
    placements = Placements()
    assert placements.replicas("key", table, 0.0) == ()
    placements.found("key", (info(2), info(3)), 0.0)
    assert set(placements.replicas("key", table, PLACED_FOR - 1)) == {info(2), info(3)}
    assert placements.replicas("key", table, PLACED_FOR) == ()


def test_closer_peers_that_were_met_since_are_replicas_too(table, info):
    placements = Placements()
    by_distance = sorted(map(info, range(2, 60)), key=lambda one: ids.of_peer(one.peer_id) ^ ids.of_key("key"))
    closest, *others = by_distance[: BUCKET_SIZE + 1]
    placements.found("key", tuple(others), 0.0)
    table.seen(closest, 0.0)
    table.seen(by_distance[-1], 0.0)
    assert placements.replicas("key", table, 1.0) == (closest, *others[:-1])


def test_who_has_just_failed_is_no_replica(table, info):
    placements = Placements()
    placements.found("key", (info(2), info(3)), 0.0)
    table.failed(info(2).peer_id, 0.0)
    assert placements.replicas("key", table, 1.0) == (info(3),)


def test_too_few_that_take_a_record_mean_a_lookup(table, info):
    placements = Placements()
    peers = tuple(map(info, range(2, 10)))
    placements.found("key", peers, 0.0)
    assert placements.stored("key", int(ENOUGH * len(peers)), len(peers))
    assert placements.replicas("key", table, 1.0)
    assert not placements.stored("key", int(ENOUGH * len(peers)) - 1, len(peers))
    assert placements.replicas("key", table, 1.0) == ()
    assert not placements.stored("never placed", 0, 0)
    placements.forget("never placed")
    assert len(placements) == 0
