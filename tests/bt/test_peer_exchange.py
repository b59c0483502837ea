from hivemind_p2p.bt.peer_exchange import FIRST_NEWS, MOST_OF_ONE, MOST_TOLD, TELL_EVERY, TRUST, PeerExchange
from hivemind_p2p.types import PeerId, PeerInfo

ME = PeerId("me")


def info(name):
    return PeerInfo(PeerId(str(name)), (f"/{name}",))


def exchange(*members):
    made = PeerExchange(ME)
    for member in members:
        made.joined(info(member))
    return made


def test_a_newcomer_hears_of_all_at_once_and_the_others_of_it_soon():
    made = exchange("a", "b")
    made.joined(info("new"))
    assert made.tell(PeerId("new"), 0.0) == (info("a"), info("b"))
    assert made.tell(PeerId("a"), 0.0) == (info("b"), info("new"))
    made.joined(info("later"))
    assert made.tell(PeerId("a"), 0.1) is None
    assert made.tell(PeerId("a"), FIRST_NEWS) == (info("later"),)


def test_without_news_there_is_a_sign_of_life_every_minute():
    made = exchange("a", "b")
    assert made.tell(PeerId("a"), 0.0) == (info("b"),)
    assert made.tell(PeerId("a"), TELL_EVERY - 1) is None
    assert made.tell(PeerId("a"), TELL_EVERY) == ()
    alone = exchange("a")
    assert alone.tell(PeerId("a"), 0.0) is None
    assert alone.tell(PeerId("a"), TELL_EVERY) == ()


def test_a_message_is_bounded():
    made = exchange("a", *range(100))
    assert len(made.tell(PeerId("a"), 0.0)) == MOST_TOLD


def test_who_was_heard_of_is_tried_once_and_known_ones_are_not():
    made = exchange("a", "b")
    made.heard(PeerId("a"), [info("b"), info("me"), info("a"), info("c")])
    assert made.next_to_try() == info("c")
    assert made.next_to_try() is None
    made.heard(PeerId("b"), [info("c")])
    assert made.next_to_try() is None


def test_one_peer_cannot_fill_the_list():
    made = exchange("liar", "honest")
    made.heard(PeerId("liar"), [info(f"made up {number}") for number in range(1000)])
    assert made.heard_of == MOST_OF_ONE
    made.heard(PeerId("honest"), [info("real")])
    tips = [made.next_to_try() for _ in range(MOST_OF_ONE + 1)]
    assert info("real") in tips


def test_who_tells_of_nobody_real_is_not_listened_to_any_more():
    made = exchange("liar", "honest")
    for number in range(TRUST):
        made.heard(PeerId("liar"), [info(number), info(f"spare {number}")])
        made.tried(made.next_to_try().peer_id, reached=False)
    assert made.next_to_try() is None, "what is left of its word is not believed either"
    made.heard(PeerId("liar"), [info("another")])
    assert made.next_to_try() is None
    made.heard(PeerId("honest"), [info("real")])
    assert made.next_to_try() == info("real")


def test_a_teller_whose_peers_are_real_may_err_now_and_then():
    made = exchange("a")
    for number in range(100):
        made.heard(PeerId("a"), [info(number)])
        made.tried(made.next_to_try().peer_id, reached=number % 2 == 0)
    made.heard(PeerId("a"), [info("one more")])
    assert made.next_to_try() == info("one more")


def test_nobody_listens_to_a_stranger():
    made = exchange()
    made.heard(PeerId("stranger"), [info("x")])
    assert made.next_to_try() is None
