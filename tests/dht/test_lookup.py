from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_p2p.dht import ids
from hivemind_p2p.dht.lookup import ENOUGH, MOST_ASKED, PATH_WIDTH, PATHS, QUORUM, READ_WIDTH, Lookup
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


def holding(lookup, asked, told, merged, closer=()):
    """Has peers answer with records, and name others; `merged` is what was told so far."""
    for info in asked:
        records = told.get(info, set())
        news = bool(records - merged)
        merged |= records
        if records:
            lookup.holds(info.peer_id, agrees=records == merged, news=news)
        lookup.answered(info.peer_id, closer)


def everybody_tells(peers, records):
    return {info: set(records) for info in peers}


def read(told, peers):
    """Reads to the end; returns what was found and how many were asked."""
    lookup = Lookup(TARGET, peers, own=OWN, quorum=QUORUM)
    merged = set()
    while not lookup.finished:
        holding(lookup, lookup.next(), told, merged)
    return merged, lookup.asked


def test_a_read_is_settled_when_enough_replicas_tell_the_same():
    peers = by_distance(20)
    assert read(everybody_tells(peers, {"a"}), peers) == ({"a"}, QUORUM)


def test_replicas_that_differ_are_asked_until_enough_agree_on_the_newest():
    peers = by_distance(20)
    told = everybody_tells(peers, {"a", "b"}) | {peers[0]: {"a"}, peers[2]: {"b"}}
    found, asked = read(told, peers)
    assert found == {"a", "b"}
    assert QUORUM < asked <= READ_WIDTH + PATHS


def test_where_hardly_anybody_has_it_the_closest_few_are_all_asked():
    peers = by_distance(20)
    found, asked = read({peers[6]: {"a"}}, peers)
    assert found == {"a"}
    assert READ_WIDTH <= asked <= len(peers)


def test_where_the_closest_have_nothing_all_replicas_are_asked():
    peers = by_distance(20)
    assert read({peers[-1]: {"a"}}, peers)[0] == {"a"}
    assert read({}, peers) == (set(), 20)


def test_copies_far_away_settle_nothing():
    peers = by_distance(60)
    lookup = Lookup(TARGET, peers[-3:], own=OWN, quorum=QUORUM)
    for info in lookup.next():
        lookup.holds(info.peer_id, agrees=True, news=False)
        lookup.answered(info.peer_id, peers[:10])
    assert not lookup.finished
    assert set(lookup.next()) <= set(peers[:10])


def test_a_liar_misleads_its_own_path_and_no_other():
    """The liar is the closest peer known at the start, and names only accomplices, who lie closer than all others."""
    peers = by_distance(400)
    accomplices, honest, start = peers[:40], peers[40:60], peers[100:104]
    liar, *others = start
    lookup = Lookup(TARGET, start, own=OWN)
    asked = set()
    while not lookup.finished:
        for info in lookup.next():
            assert info not in asked
            asked.add(info)
            lookup.answered(info.peer_id, accomplices if info is liar or info in accomplices else honest)
    assert set(others[:2]) < asked
    assert set(honest[:PATH_WIDTH]) <= asked, "the other paths have gone on"
    assert set(honest[:PATH_WIDTH]) <= set(lookup.replicas())
    assert set(lookup.closest()) <= set(accomplices), "the closest alone would all be accomplices"


def test_in_an_honest_hive_the_replicas_are_the_closest():
    peers = by_distance(200)
    lookup = Lookup(TARGET, peers[100:120], own=OWN)
    finish(lookup, lambda info: peers[max(peers.index(info) // 2 - 5, 0) :][:20])
    assert lookup.replicas() == lookup.closest() == tuple(peers[:20])


def test_a_crowd_around_the_target_makes_the_lookup_wider():
    """30 peers where 5 are expected: all within the distance of 20 honest ones are asked."""
    peers = by_distance(1000)
    crowd, honest = peers[:30], peers[500:520]
    reach = ids.of_peer(honest[-1].peer_id) ^ TARGET
    lookup = Lookup(TARGET, [*crowd, *honest], own=OWN, reach=reach + 1)
    finish(lookup)
    assert lookup.crowded
    assert set(honest) <= set(lookup.closest())
    narrow = Lookup(TARGET, [*crowd, *honest], own=OWN)
    finish(narrow)
    assert not narrow.crowded
    assert not set(honest) <= set(narrow.closest())


def test_no_quorum_settles_a_read_in_a_crowd():
    """Accomplices who all tell the same worthless record are asked, and the honest as well."""
    peers = by_distance(1000)
    crowd, honest = peers[:30], peers[500:520]
    reach = ids.of_peer(honest[-1].peer_id) ^ TARGET
    lookup = Lookup(TARGET, [*crowd, *honest], own=OWN, quorum=QUORUM, reach=reach + 1)
    merged = set()
    told = everybody_tells(crowd, {"junk"}) | everybody_tells(honest, {"true"})
    while not lookup.finished:
        holding(lookup, lookup.next(), told, merged, closer=(*crowd, *honest))
    assert merged == {"junk", "true"}


def test_the_inventions_of_one_liar_are_no_crowd():
    peers = by_distance(1000)
    replicas = peers[500:520]
    lookup = Lookup(TARGET, replicas, own=OWN, quorum=QUORUM, reach=ids.of_peer(replicas[-1].peer_id) ^ TARGET)
    liar, *others = lookup.next()
    lookup.answered(liar.peer_id, peers[:20])
    holding(lookup, others, everybody_tells(replicas, {"true"}), set())
    assert not lookup.crowded


def test_a_path_that_is_let_down_asks_more_at_once():
    peers = by_distance(30)
    lookup = Lookup(TARGET, peers, own=OWN, parallel=1)
    for expected in (1, 2, 3):
        asked = lookup.next()
        assert len(asked) == expected
        for info in asked:
            lookup.slow(info.peer_id)
            if len(asked) > 1:
                break
        for info in asked[1:]:
            lookup.failed(info.peer_id)


def test_accomplices_on_one_path_settle_nothing():
    """Three that lie closest to the target, all on the path of one liar, tell the same junk at once."""
    peers = by_distance(400)
    accomplices, honest, start = peers[:3], peers[40:60], peers[100:103]
    liar = start[0]
    lookup = Lookup(TARGET, start, own=OWN, quorum=QUORUM)
    told = everybody_tells(accomplices, {"junk"}) | everybody_tells(honest, {"true"})
    merged = set()
    while not lookup.finished:
        for info in lookup.next():
            holding(lookup, [info], told, merged, closer=accomplices if info in (liar, *accomplices) else honest)
    assert merged == {"junk", "true"}


def test_where_nothing_was_found_further_paths_are_tried():
    """Those closest to the target at the start are all liars; one that is farther away is not."""
    peers = by_distance(400)
    accomplices, honest = peers[:40], peers[40:60]
    start = [*peers[100:103], *peers[200:203]]
    liars = {*accomplices, *peers[100:103]}
    lookup = Lookup(TARGET, start, own=OWN, quorum=QUORUM)
    merged = set()
    while not lookup.finished:
        for info in lookup.next():
            closer = accomplices if info in liars else honest
            holding(lookup, [info], everybody_tells(honest, {"true"}), merged, closer)
    assert merged == {"true"}


@settings(max_examples=60)
@given(st.data())
def test_whatever_happens_a_lookup_ends_asks_nobody_twice_and_few(data):
    peers = by_distance(60)
    lookup = Lookup(TARGET, peers[40:50], own=OWN, quorum=data.draw(st.sampled_from([0, QUORUM])), reach=2**254)
    asked, on_the_way = [], []
    for _ in range(500):
        chosen = lookup.next()
        asked += chosen
        on_the_way += chosen
        if lookup.finished or not on_the_way:
            break
        info = on_the_way.pop(data.draw(st.integers(0, len(on_the_way) - 1)))
        match data.draw(st.integers(0, 3)):
            case 0:
                lookup.failed(info.peer_id)
            case 1:
                lookup.slow(info.peer_id)
                lookup.failed(info.peer_id)
            case 2:
                lookup.holds(info.peer_id, agrees=True, news=False)
                lookup.answered(info.peer_id, peers[:20])
            case _:
                named = data.draw(st.lists(st.sampled_from(peers), max_size=20))
                lookup.answered(info.peer_id, named)
    assert lookup.finished
    assert len(asked) == len(set(asked)) == lookup.asked <= MOST_ASKED


def test_no_more_replicas_are_asked_than_a_quorum_may_need_until_one_is_slow():
    peers = by_distance(20)
    lookup = Lookup(TARGET, peers, own=OWN, quorum=QUORUM)
    first, second, _ = lookup.next()
    holding(lookup, [first], {first: {"a"}}, set(), closer=peers)
    assert lookup.next() == (), "the two on the way may settle it"
    lookup.slow(second.peer_id)
    assert len(lookup.next()) > 1, "not everybody answers: all paths go on"
