import pytest

from hivemind_p2p.dht import ids, records
from hivemind_p2p.dht.messages import FindPeers, FindRecords, Request, Response, SignedBytes, Store
from hivemind_p2p.dht.node import Node, check_page
from hivemind_p2p.dht.routing_table import BUCKET_SIZE
from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.types import PeerId, PeerInfo

NOW = 1_700_000_000.0


@pytest.fixture
def node(identity):
    return Node(identity(1).peer_id)


def answer(node, sender, question):
    response, _ = node.answer(Request(sender, question), now=NOW, at=0.0)
    return response


def test_the_one_that_asks_is_remembered_but_not_told_about_itself(node, info):
    assert answer(node, info(2), FindPeers(ids.of_key("x"))).peers == ()
    assert info(2).peer_id in node.table
    assert answer(node, info(2), FindPeers(ids.of_key("x"))).peers == ()
    assert answer(node, info(3), FindRecords("x")).peers == (info(2),)
    assert answer(node, info(3), FindRecords("x")).peers == (info(2),)


def test_an_answer_names_so_many_peers(node, info):
    for number in range(2, BUCKET_SIZE * 4):
        node.table.seen(info(number), 0.0)
    assert len(answer(node, info(2), FindPeers(ids.of_key("x"))).peers) == BUCKET_SIZE


def test_what_is_stored_is_found_and_peers_come_with_the_first_page_only(node, info, identity):
    node.table.seen(info(5), 0.0)
    signed = records.sign(identity(2), "key", b"v", sequence=1, expires_at=NOW + 9)
    assert answer(node, info(2), Store((SignedBytes(signed.body, signed.signature),))) == Response()
    first = answer(node, info(3), FindRecords("key"))
    assert [record.body for record in first.records] == [signed.body]
    assert info(5) in first.peers
    after = answer(node, info(3), FindRecords("key", after=signed.record.signer))
    assert after == Response(kept=1)


def test_what_a_peer_said_of_itself_counts_more_than_what_others_say(node, info):
    node.table.seen(info(2), 0.0)
    lie = PeerInfo(info(2).peer_id, ("/ip4/6.6.6.6/tcp/6",))
    unknown = PeerInfo(PeerId("nowhere"))
    assert node.worth_asking((lie, info(3), unknown), 0.0) == (info(2), info(3))


def test_who_has_just_failed_is_not_worth_asking(node, info):
    node.table.failed(info(2).peer_id, 0.0)
    assert node.worth_asking((info(2), info(3)), 1.0) == (info(3),)


def test_seeds_are_asked_where_nobody_else_is_known(info, identity):
    node = Node(identity(1).peer_id, seeds=(info(9),))
    node.table.failed(info(9).peer_id, 0.0)
    assert node.find_records("key", 1.0).next() == (info(9),)
    node.table.seen(info(2), 2.0)
    assert node.find_records("key", 2.0).next() == (info(2),)


@pytest.mark.parametrize(("after", "following"), [("b", "b"), ("b", "a")])
def test_pages_have_to_move_on(after, following):
    with pytest.raises(ProtocolError, match="circles"):
        check_page(FindRecords("key", after), Response(next=following), PeerId("liar"))


def test_pages_that_move_on_or_end_are_right():
    check_page(FindRecords("key", "a"), Response(next="b"), PeerId("honest"))
    check_page(FindRecords("key", "a"), Response(), PeerId("honest"))


def test_after_a_while_without_a_network_those_that_failed_are_asked_beside_the_seeds(info, identity):
    node = Node(identity(1).peer_id, seeds=(info(9),))
    node.table.seen(info(2), 0.0)
    node.table.failed(info(2).peer_id, 1.0)
    assert set(node.find_records("key", 2.0).next()) == {info(2), info(9)}


def test_who_was_too_slow_for_a_lookup_is_left_alone_and_its_bucket_counts_as_refreshed(node, info):
    for number in range(2, 9):
        node.table.seen(info(number), 0.0)
    lookup = node.find_peers(ids.of_key("x"), 0.0)
    slow, *others = lookup.next()
    lookup.slow(slow.peer_id)
    for other in others:
        lookup.answered(other.peer_id, ())
    while asked := lookup.next():
        for other in asked:
            lookup.answered(other.peer_id, ())
    assert lookup.finished
    before = node.table.stale_buckets(600.0, 600.0)
    node.finished(lookup, 600.0)
    assert node.table.is_avoided(slow.peer_id, 600.0)
    assert len(node.table.stale_buckets(600.0, 600.0)) == len(before) - 1


def test_a_node_learns_how_many_peers_there_are_from_its_lookups(node, info):
    assert node.population.peers is None
    for number in range(2, 60):
        node.table.seen(info(number), 0.0)
    for number in range(9):
        lookup = node.find_peers(ids.of_key(f"x {number}"), 0.0)
        while asked := lookup.next():
            for other in asked:
                lookup.answered(other.peer_id, [info(neighbour) for neighbour in range(2, 60)])
        node.finished(lookup, 1.0)
    assert 30 < node.population.peers < 120
