import pytest

from hivemind_p2p.dht import ids
from hivemind_p2p.dht.lookup import QUORUM, READ_WIDTH, Lookup
from hivemind_p2p.dht.replication import (
    HANDED_BY,
    LONGEST_COPY,
    SHORTEST_COPY,
    copy_along_path,
    is_placed,
    to_hand_over,
)
from hivemind_p2p.dht.routing_table import BUCKET_SIZE, RoutingTable
from hivemind_p2p.types import PeerId, PeerInfo

OWN = PeerId("own")
KEY = "key"
TARGET = ids.of_key(KEY)


def by_distance(count):
    """Peers, the closest to the key first."""
    peers = [PeerInfo(PeerId(f"peer {number}"), (f"/memory/{number}",)) for number in range(count)]
    return sorted(peers, key=lambda info: ids.of_peer(info.peer_id) ^ TARGET)


def read(asked, holders):
    """A lookup that asked these peers, of which some had records."""
    lookup = Lookup(TARGET, asked, own=OWN, quorum=QUORUM, parallel=len(asked))
    assert len(lookup.next()) == len(asked)
    for info in reversed(asked):
        if info in holders:
            lookup.holds(info.peer_id, agrees=True, news=False)
        lookup.answered(info.peer_id, ())
    return lookup


def test_a_copy_goes_to_the_closest_that_had_none_and_lives_shorter_the_farther_it_is():
    peers = by_distance(200)
    lives = []
    for near in range(3, 199):
        copy = copy_along_path(read([*peers[:3], peers[near], peers[199]], peers[:3]))
        if copy is None:
            continue
        assert copy.peer == peers[near]
        lives.append(copy.seconds)
    assert lives == sorted(lives, reverse=True)
    assert SHORTEST_COPY <= lives[-1] < lives[0] <= LONGEST_COPY
    assert len(lives) < 190, "there is no copy far away"


def test_no_copy_where_nobody_had_any_or_everybody_did():
    peers = by_distance(5)
    assert copy_along_path(read(peers, ())) is None
    assert copy_along_path(read(peers, peers)) is None


def test_no_copy_for_a_newcomer_among_the_replicas():
    peers = by_distance(5)
    assert copy_along_path(read(peers, peers[1:])) is None


@pytest.mark.parametrize("newcomer", [0, 10, BUCKET_SIZE - 1, BUCKET_SIZE, BUCKET_SIZE + 5])
def test_exactly_so_many_replicas_hand_a_record_to_a_newcomer_among_the_closest(newcomer):
    peers = by_distance(BUCKET_SIZE + 10)
    handing = []
    for info in peers:
        if info is peers[newcomer]:
            continue
        table = RoutingTable(info.peer_id, bucket_size=100)
        for other in peers:
            table.seen(other, 0.0)
        if to_hand_over(table, info.peer_id, peers[newcomer], [KEY]) == (KEY,):
            handing.append(info)
    expected = [info for info in peers if info is not peers[newcomer]][:HANDED_BY]
    assert handing == (expected if newcomer < BUCKET_SIZE else [])


def test_a_newcomer_gets_only_what_it_is_close_to():
    peers = by_distance(BUCKET_SIZE + 10)
    own = peers[0].peer_id
    table = RoutingTable(own, bucket_size=100)
    for other in peers:
        table.seen(other, 0.0)
    assert to_hand_over(table, own, peers[3], []) == ()
    keys = [f"key {number}" for number in range(200)]
    handed = to_hand_over(table, own, peers[3], keys)
    assert 0 < len(handed) < len(keys)


def test_a_record_is_placed_once_the_replicas_that_a_read_asks_have_answered():
    replicas = by_distance(BUCKET_SIZE)
    answered = {info.peer_id: True for info in replicas[:READ_WIDTH]}
    assert is_placed(replicas, answered)
    for info in replicas[:READ_WIDTH]:
        rest = {peer: True for peer in answered if peer != info.peer_id}
        assert not is_placed(replicas, rest | {replicas[-1].peer_id: True})
        assert not is_placed(replicas, rest | {info.peer_id: False})
        assert is_placed(replicas, rest | {info.peer_id: False, replicas[READ_WIDTH].peer_id: True})


def test_of_few_replicas_all_have_to_answer():
    replicas = by_distance(3)
    assert is_placed(replicas, {info.peer_id: True for info in replicas})
    assert not is_placed(replicas, {info.peer_id: True for info in replicas[:2]})
    assert not is_placed(replicas, {replicas[0].peer_id: True, replicas[1].peer_id: True, replicas[2].peer_id: False})
