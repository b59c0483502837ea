from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_p2p.dht import ids
from hivemind_p2p.dht.clients import Clients
from hivemind_p2p.dht.contacts import CHECK_AGAIN_AFTER, MOST_FAILURES, NETWORK_IN_BUCKET
from hivemind_p2p.dht.routing_table import BUCKET_SIZE, DOUBT_AFTER, FIRST_AVOIDANCE, MOST_AVOIDED, RoutingTable
from hivemind_p2p.types import PeerId, PeerInfo

OWN = PeerId("own")


def peer(number):
    return PeerInfo(PeerId(f"peer {number}"), (f"/ip4/10.0.0.1/tcp/{number}",))


def far_peers(count):
    """Peers of bucket 0."""
    own = ids.of_peer(OWN)
    everybody = (peer(number) for number in range(10_000))
    far = (info for info in everybody if ids.bucket_index(own, ids.of_peer(info.peer_id)) == 0)
    return [next(far) for _ in range(count)]


def test_it_never_holds_itself_nor_peers_without_an_address():
    table = RoutingTable(OWN)
    table.seen(PeerInfo(OWN, ("/memory/1",)), 0.0)
    table.seen(PeerInfo(PeerId("nowhere")), 0.0)
    assert len(table) == 0
    assert OWN not in table


@settings(max_examples=40)
@given(st.sets(st.integers(0, 5000), max_size=60), st.integers(0, 2**256 - 1), st.integers(1, 30))
def test_closest_are_the_closest(numbers, target, count):
    table = RoutingTable(OWN, bucket_size=100)
    for number in numbers:
        table.seen(peer(number), 0.0)
    expected = sorted((peer(number) for number in numbers), key=lambda info: ids.of_peer(info.peer_id) ^ target)
    assert table.closest(ids.NodeId(target), count) == tuple(expected[:count])


def test_closest_leaves_out_the_one_that_asks():
    table = RoutingTable(OWN)
    table.seen(peer(1), 0.0)
    table.seen(peer(2), 0.0)
    assert table.closest(ids.of_peer(peer(1).peer_id), 5, without=peer(1).peer_id) == (peer(2),)


def test_a_newcomer_to_a_full_bucket_waits_until_somebody_fails():
    table = RoutingTable(OWN)
    *old, newcomer = far_peers(BUCKET_SIZE + 1)
    for info in old:
        table.seen(info, 0.0)
    assert table.seen(newcomer, 1.0) is None, "nobody has been silent for long"
    assert newcomer.peer_id not in table
    table.failed(old[3].peer_id, 2.0)
    assert newcomer.peer_id in table
    assert old[3].peer_id not in table
    assert len(table) == BUCKET_SIZE


def test_the_peer_heard_from_longest_ago_is_the_one_to_check():
    table = RoutingTable(OWN)
    *old, newcomer = far_peers(BUCKET_SIZE + 1)
    for info in old:
        table.seen(info, 0.0)
    table.seen(old[0], 1.0)
    assert table.seen(newcomer, DOUBT_AFTER + 0.5) == old[1]


def test_the_newest_replacements_are_kept():
    table = RoutingTable(OWN, bucket_size=2)
    first, second, *waiting = far_peers(6)
    for info in (first, second, *waiting):
        table.seen(info, 0.0)
    for info in (first, second):
        table.failed(info.peer_id, 1.0)
    assert set(table.peers()) == set(waiting[-2:])


def test_a_failed_replacement_does_not_move_up():
    table = RoutingTable(OWN, bucket_size=1)
    first, waiting = far_peers(2)
    table.seen(first, 0.0)
    table.seen(waiting, 0.0)
    table.failed(waiting.peer_id, 1.0)
    table.failed(first.peer_id, 1.0)
    assert len(table) == 0


def test_new_addresses_replace_the_old_ones():
    table = RoutingTable(OWN)
    table.seen(peer(1), 0.0)
    moved = replace(peer(1), addresses=("/ip4/10.0.0.2/tcp/1",))
    table.seen(moved, 1.0)
    assert table.get(moved.peer_id) == moved


def test_a_failed_peer_is_avoided_longer_each_time_until_it_is_heard_from():
    table = RoutingTable(OWN)
    table.failed("lost", 100.0)
    assert table.is_avoided("lost", 100.0 + FIRST_AVOIDANCE - 0.1)
    assert not table.is_avoided("lost", 100.0 + FIRST_AVOIDANCE)
    table.failed("lost", 200.0)
    assert table.is_avoided("lost", 200.0 + 2 * FIRST_AVOIDANCE - 0.1)
    table.seen(PeerInfo(PeerId("lost"), ("/memory/1",)), 201.0)
    assert not table.is_avoided("lost", 201.0)


def test_the_memory_of_failures_is_bounded():
    table = RoutingTable(OWN)
    for number in range(MOST_AVOIDED + 1):
        table.failed(peer(number).peer_id, 0.0)
    assert not table.is_avoided(peer(0).peer_id, 0.0)
    assert table.is_avoided(peer(1).peer_id, 0.0)


def test_buckets_without_lookups_grow_stale():
    table = RoutingTable(OWN)
    far = far_peers(1)[0]
    table.seen(far, 0.0)
    assert table.stale_buckets(599.0, 600.0) == ()
    assert table.stale_buckets(600.0, 600.0) == (0,)
    table.refreshed(ids.of_peer(far.peer_id), 600.0)
    assert table.stale_buckets(1199.0, 600.0) == ()


@pytest.mark.parametrize("size", [1, 3])
@settings(max_examples=40)
@given(events=st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=200))
def test_whatever_happens_no_bucket_overflows_and_the_failed_are_gone(size, events):
    table = RoutingTable(OWN, bucket_size=size)
    own = ids.of_peer(OWN)
    for now, (alive, number) in enumerate(events):
        info = peer(number)
        if alive:
            table.seen(info, float(now))
        else:
            table.failed(info.peer_id, float(now))
            assert info.peer_id not in table
        indices = [ids.bucket_index(own, ids.of_peer(info.peer_id)) for info in table.peers()]
        assert all(indices.count(index) <= size for index in indices)


def crowding(infos, network):
    """The same peers at addresses of one network."""
    return [replace(info, addresses=(f"/ip4/{network}.{number}/tcp/1",)) for number, info in enumerate(infos, 1)]


def test_one_network_cannot_keep_others_out_of_a_bucket():
    table = RoutingTable(OWN)
    everybody = far_peers(2 * BUCKET_SIZE)
    crowd = crowding(everybody[:BUCKET_SIZE], "8.8.8")
    others = [
        replace(info, addresses=(f"/ip4/9.9.{number}.1/tcp/1",)) for number, info in enumerate(everybody[BUCKET_SIZE:])
    ]
    for info in crowd:
        table.seen(info, 0.0)
    assert len(table) == BUCKET_SIZE, "where nobody else is, one network may fill the bucket"
    for info in others:
        table.seen(info, 1.0)
    inside = set(table.peers())
    assert len(inside) == BUCKET_SIZE
    assert inside & set(crowd) == set(crowd[:NETWORK_IN_BUCKET]), "those that were there first"


def test_more_of_the_same_network_push_nobody_out():
    table = RoutingTable(OWN)
    everybody = far_peers(2 * BUCKET_SIZE)
    crowd = crowding(everybody, "8.8.8")
    for info in crowd:
        table.seen(info, 0.0)
    assert set(table.peers()) == set(crowd[:BUCKET_SIZE])


def test_private_networks_are_no_crowd():
    table = RoutingTable(OWN)
    everybody = far_peers(BUCKET_SIZE + 1)
    local = crowding(everybody[:-1], "192.168.1")
    for info in local:
        table.seen(info, 0.0)
    newcomer = replace(everybody[-1], addresses=("/ip4/9.9.9.9/tcp/1",))
    table.seen(newcomer, 1.0)
    assert newcomer.peer_id not in table


def test_an_eclipse_by_one_network_leaves_the_long_known_in_place():
    """A flood of newcomers of a rented network, heard from again and again, against peers that are merely there."""
    table = RoutingTable(OWN)
    honest = [
        PeerInfo(PeerId(f"honest {number}"), (f"/ip4/9.{number % 250}.{number // 250}.1/tcp/1",))
        for number in range(300)
    ]
    for info in honest:
        table.seen(info, 0.0)
    before = set(table.peers())
    flood = crowding((peer(number) for number in range(250)), "8.8.8")
    for moment in range(5):
        for info in flood:
            table.seen(info, float(moment))
    assert before <= set(table.peers())
    for info in honest:
        table.seen(info, 10.0)
    closest = table.closest(ids.of_peer(OWN), BUCKET_SIZE)
    assert sum(info in honest for info in closest) >= BUCKET_SIZE // 2


def test_a_silent_peer_is_named_for_one_check_at_a_time_whatever_the_flood():
    table = RoutingTable(OWN)
    *old, _ = everybody = far_peers(200)
    for info in everybody[:BUCKET_SIZE]:
        table.seen(info, 0.0)
    named = [table.seen(info, DOUBT_AFTER + number / 100) for number, info in enumerate(everybody[BUCKET_SIZE:])]
    assert [info for info in named if info] == [old[0]]
    assert table.seen(everybody[-1], DOUBT_AFTER + CHECK_AGAIN_AFTER) == old[0]


def test_a_failed_peer_stays_doubtful_until_it_is_heard_from_or_fails_too_often():
    table = RoutingTable(OWN)
    table.seen(peer(1), 0.0)
    table.seen(peer(2), 0.0)
    table.failed(peer(1).peer_id, 1.0)
    assert table.doubtful(1.0, 10) == (), "it is left alone for a while"
    assert table.doubtful(1.0 + FIRST_AVOIDANCE, 10) == (peer(1),)
    assert table.closest_doubtful(ids.of_key("x"), 5) == (peer(1),)
    assert peer(1) not in table.closest(ids.of_key("x"), 5), "it is named to nobody"
    table.seen(peer(1), 20.0)
    assert peer(1).peer_id in table
    assert table.doubtful(1000.0, 10) == ()
    for moment in range(MOST_FAILURES):
        table.failed(peer(2).peer_id, 1000.0 * (moment + 1))
    assert table.doubtful(1e6, 10) == ()


def test_newcomers_are_told_of_once():
    table = RoutingTable(OWN)
    for _ in range(2):
        table.seen(peer(1), 0.0)
    table.seen(peer(2), 0.0)
    assert table.take_newcomers() == (peer(1), peer(2))
    assert table.take_newcomers() == ()
    table.failed(peer(1).peer_id, 1.0)
    table.seen(peer(1), 2.0)
    assert table.take_newcomers() == (peer(1),), "it may have missed something"


def test_who_has_been_silent_for_the_longest_comes_first(info):
    table = RoutingTable(info(99).peer_id)
    for number in range(1, 6):
        table.seen(info(number), 10.0 * number)
    table.seen(info(1), 60.0)
    assert table.silent(70.0, 30.0, 2) == (info(2), info(3))
    assert table.silent(70.0, 30.0, 9) == (info(2), info(3), info(4))


def relayed(info):
    return PeerInfo(info.peer_id, (*info.addresses, "/ip4/192.0.2.1/tcp/1/p2p/relay/p2p-circuit"))


def test_who_can_be_called_through_a_relay_only_is_in_no_bucket(info):
    table = RoutingTable(info(99).peer_id)
    client = relayed(info(1))
    table.seen(info(2), 0.0)
    assert table.seen(client, 0.0) is None
    assert (len(table), table.peers(), client.peer_id in table) == (1, (info(2),), False)
    assert table.closest(ids.of_key("anything"), 9) == (info(2),)
    # Who looks for this very peer is told.
    point = ids.of_peer(client.peer_id)
    assert table.closest(point, 9) == (client, info(2))
    assert table.closest(point, 9, without=client.peer_id) == (info(2),)
    assert table.get(client.peer_id) == client
    table.failed(client.peer_id, 1.0)
    assert table.get(client.peer_id) is None


def test_a_peer_may_become_a_client_and_a_peer_again(info):
    table = RoutingTable(info(99).peer_id)
    table.seen(info(1), 0.0)
    table.take_newcomers()
    table.seen(relayed(info(1)), 1.0)
    assert len(table) == 0
    table.seen(info(1), 2.0)
    assert table.closest(ids.of_peer(info(1).peer_id), 9) == (info(1),)
    assert table.take_newcomers() == (info(1),)


def test_clients_are_bounded(info):
    clients = Clients(most=2)
    for number in (1, 2, 1, 3):
        clients.seen(info(number))
    assert len(clients) == 2
    assert clients.at(ids.of_peer(info(2).peer_id)) is None
    assert clients.at(ids.of_peer(info(1).peer_id)) == info(1)
