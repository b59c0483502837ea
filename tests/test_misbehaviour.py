"""What one service finds out about a peer, handed on to the others."""

from hivemind_p2p.misbehaviour import LONGEST_REASON, Misbehaviour
from hivemind_p2p.types import PeerId

LIAR = PeerId("liar")


def test_whoever_is_there_is_told():
    told, mistrusted = [], []
    misbehaviour = Misbehaviour(lambda *what: told.append(what))
    misbehaviour(LIAR, "early")
    misbehaviour.mistrusted_by(lambda *what: mistrusted.append(what))
    misbehaviour(LIAR, "piece 7 is wrong")
    assert told == [(LIAR, "early"), (LIAR, "piece 7 is wrong")]
    assert mistrusted == [(LIAR, "piece 7 is wrong")]


def test_nobody_needs_to_listen():
    Misbehaviour()(LIAR, "piece 7 is wrong")


def test_a_complaint_is_one_that_the_bootstrap_takes():
    mistrusted = []
    misbehaviour = Misbehaviour()
    misbehaviour.mistrusted_by(lambda _, what: mistrusted.append(what))
    misbehaviour(LIAR, "a\nb" + "c" * 100)
    assert mistrusted == ["ab" + "c" * (LONGEST_REASON - 2)]
