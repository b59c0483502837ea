from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_p2p.dht import ids
from hivemind_p2p.dht.lookup import ENOUGH, MOST_ASKED, Lookup
from hivemind_p2p.types import PeerId, PeerInfo

OWN = PeerId("own")
TARGET = ids.of_key("key")


def by_distance(count):
    """Peers, the closest to the target first."""
    peers = [PeerInfo(PeerId(f"peer {number}"), (f"/memory/{number}",)) for number in range(count)]
    return sorted(peers, key=lambda info: ids.of_peer(info.peer_id) ^ TARGET)


def finish(lookup, closer=lambda info: ()):
    while asked := lookup.next():
        for info in asked:
            lookup.answered(info.peer_id, closer(info))
    assert lookup.finished


def test_nobody_to_ask():
    lookup = Lookup(TARGET, (), own=OWN)
    assert lookup.finished
    assert lookup.next() == ()
    assert lookup.closest() == ()


def test_the_closest_are_asked_first_and_only_so_many_at_once():
    peers = by_distance(10)
    lookup = Lookup(TARGET, reversed(peers), own=OWN, parallel=3, paths=1)
    assert lookup.next() == tuple(peers[:3])
    assert lookup.next() == ()
    lookup.failed(peers[1].peer_id)
    assert lookup.next() == (peers[3],)


def test_it_never_asks_itself_nor_anybody_twice():
    peers = by_distance(5)
    lookup = Lookup(TARGET, (peers[4], PeerInfo(OWN, ("/memory/own",))), own=OWN)
    asked = []

    def closer(info):
        asked.append(info)
        return (*peers, PeerInfo(OWN, ("/memory/own",)))

    finish(lookup, closer)
    assert sorted(asked, key=peers.index) == peers


def test_it_ends_when_the_closest_have_answered():
    peers = by_distance(30)
    lookup = Lookup(TARGET, peers, own=OWN, width=4, paths=1)
    finish(lookup)
    assert lookup.closest() == tuple(peers[:4])
    assert lookup.asked == 4


def test_failed_peers_make_room_for_the_next():
    peers = by_distance(10)
    lookup = Lookup(TARGET, peers, own=OWN, width=3)
    dead = {info.peer_id for info in peers[:2]}
    while asked := lookup.next():
        for info in asked:
            if info.peer_id in dead:
                lookup.failed(info.peer_id)
            else:
                lookup.answered(info.peer_id, ())
    assert lookup.closest() == tuple(peers[2:5])
    assert lookup.info(peers[0].peer_id) is None
    assert lookup.info(peers[9].peer_id) == peers[9]


def test_a_slow_peer_is_not_waited_for_once_enough_have_answered():
    peers = by_distance(1 + ENOUGH)
    lookup = Lookup(TARGET, peers, own=OWN, parallel=10)
    lookup.next()
    lookup.slow(peers[0].peer_id)
    for info in peers[1:ENOUGH]:
        lookup.answered(info.peer_id, ())
    assert not lookup.finished
    lookup.answered(peers[ENOUGH].peer_id, ())
    assert lookup.finished
    assert lookup.slow_peers() == (peers[0].peer_id,)


def test_a_slow_peer_is_waited_for_where_there_are_no_others():
    (only,) = by_distance(1)
    lookup = Lookup(TARGET, (only,), own=OWN)
    lookup.next()
    lookup.slow(only.peer_id)
    assert not lookup.finished
    lookup.answered(only.peer_id, ())
    assert lookup.finished
    assert lookup.closest() == (only,)


def test_a_slow_peer_frees_its_place_and_one_more():
    peers = by_distance(4)
    lookup = Lookup(TARGET, peers, own=OWN, parallel=1)
    assert lookup.next() == (peers[0],)
    lookup.slow(peers[0].peer_id)
    assert lookup.next() == (peers[1], peers[2])


def test_answers_of_peers_that_were_not_asked_count_for_nothing():
    peers = by_distance(3)
    lookup = Lookup(TARGET, peers[:1], own=OWN)
    lookup.answered(peers[0].peer_id, peers[1:])
    lookup.answered(peers[2].peer_id, ())
    assert lookup.closest() == ()
    assert lookup.info(peers[1].peer_id) is None


def test_a_liar_that_always_knows_somebody_closer_is_left_after_so_many():
    peers = by_distance(MOST_ASKED + 100)
    lookup = Lookup(TARGET, peers[-1:], own=OWN)
    finish(lookup, lambda info: peers[max(peers.index(info) - 1, 0) :][:1])
    assert lookup.asked == MOST_ASKED


@settings(max_examples=60)
@given(st.data())
def test_the_closest_living_peers_are_found_whoever_fails(data):
    """Everybody knows its neighbours in order of distance, and three others: enough to walk down to the target."""
    count = data.draw(st.integers(1, 40))
    peers = by_distance(count)
    dead = data.draw(st.sets(st.integers(0, count - 2), max_size=count // 3)) if count > 2 else set()
    living = [info for number, info in enumerate(peers) if number not in dead]
    lookup = Lookup(TARGET, living[-1:], own=OWN, width=5)
    while asked := lookup.next():
        for info in data.draw(st.permutations(asked)):
            number = peers.index(info)
            if number in dead:
                lookup.failed(info.peer_id)
            else:
                lookup.answered(info.peer_id, peers[max(0, number - 20) : number + 3])
    assert lookup.finished
    assert lookup.closest() == tuple(living[:5])
