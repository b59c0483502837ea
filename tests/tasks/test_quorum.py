"""Which answers agree, who is asked next, and when a vote is over."""

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.tasks.quorum import Agreed, Answer, Ask, Disagreed, Quorum, Vote, alike
from hivemind_p2p.types import PeerId


def said(name, value, error=""):
    return Answer(PeerId(f"peer of {name}"), name, value, error)


def test_two_that_agree_are_enough():
    vote = Vote(Quorum(2, of=3))
    assert vote.begin() == Ask(2, frozenset())
    assert vote.answered(said("ada", 1)) is None
    verdict = vote.answered(said("bob", 1))
    assert isinstance(verdict, Agreed)
    assert (verdict.answer.value, len(verdict.majority), verdict.minority) == (1, 2, ())


def test_a_third_is_asked_only_where_two_disagree_and_the_odd_one_is_named():
    vote = Vote(Quorum(2, of=3))
    vote.begin()
    vote.answered(said("ada", 1))
    assert vote.answered(said("eve", 2)) == Ask(1, frozenset(("ada", "eve")))
    verdict = vote.answered(said("bob", 1))
    assert [answer.account for answer in verdict.minority] == ["eve"]


def test_three_different_answers_are_a_disagreement():
    vote = Vote(Quorum(2, of=3))
    vote.begin()
    for name, value in (("ada", 1), ("bob", 2)):
        vote.answered(said(name, value))
    verdict = vote.answered(said("eve", 3))
    assert isinstance(verdict, Disagreed)
    assert verdict.groups == (1, 1, 1)


def test_it_ends_as_soon_as_nobody_can_win():
    vote = Vote(Quorum(3, of=4))
    vote.begin()
    vote.answered(said("a", 1))
    vote.answered(said("b", 2))
    assert isinstance(vote.answered(said("c", 3)), Disagreed)


def test_one_account_has_one_voice():
    vote = Vote(Quorum(2, of=3))
    vote.begin()
    vote.answered(said("eve", 2))
    assert vote.answered(said("eve", 2)) == Ask(1, frozenset(("eve",)))


def test_a_copy_that_is_lost_is_replaced():
    vote = Vote(Quorum(2, of=2))
    vote.begin()
    assert vote.lost() == Ask(1, frozenset())


def test_an_error_is_an_answer():
    vote = Vote(Quorum(2, of=3))
    vote.begin()
    vote.answered(said("ada", None, "ValueError: no"))
    verdict = vote.answered(said("bob", None, "ValueError: no"))
    assert verdict.answer.error == "ValueError: no"


def test_nothing_follows_the_verdict():
    vote = Vote(Quorum(2, of=3))
    vote.begin()
    vote.answered(said("ada", 1))
    vote.answered(said("bob", 1))
    assert vote.answered(said("eve", 2)) is None
    assert vote.lost() is None


@pytest.mark.parametrize("arguments", [(1, 3), (3, 2), (2, 4), (60, 100)])
def test_what_is_no_quorum(arguments):
    with pytest.raises(ConfigurationError):
        Quorum(*arguments)
    with pytest.raises(ConfigurationError):
        Quorum(2, of=3, tolerance=-1)


@given(st.integers(2, 5), st.integers(0, 4), st.data())
def test_a_vote_always_ends_and_honest_answers_win_where_they_are_enough(agree, spare, data):
    of = min(agree + spare, 2 * agree - 1)
    vote = Vote(Quorum(agree, of=of))
    decision, number, honest = vote.begin(), 0, 0
    running = decision.copies
    while running:
        running -= 1
        number += 1
        right = data.draw(st.booleans())
        honest += right
        decision = vote.answered(said(f"account {number}", 0 if right else number))
        running += decision.copies if isinstance(decision, Ask) else 0
        if isinstance(decision, Agreed | Disagreed):
            break
    assert number <= of
    assert isinstance(vote.verdict, Agreed) == (honest >= agree)
    if isinstance(vote.verdict, Agreed):
        assert vote.verdict.answer.value == 0


def test_what_is_alike():
    assert alike({"a": [1.0, (2.0, "x")]}, {"a": [1.0, (2.0, "x")]})
    assert not alike(1.0, 1.0 + 1e-9)
    assert alike(1.0, 1.0 + 1e-9, 1e-6)
    assert alike(0.0, 1e-12, 0.0, 1e-9)
    assert alike([math.nan], [math.nan])
    assert not alike(1, 1.0)
    assert not alike(True, 1)
    assert not alike([1.0], [1.0, 2.0])
    assert not alike({"a": 1}, {"b": 1})
    assert alike({1.5, 2.5}, {2.5, 1.5})
    assert alike(1 + 2j, 1 + (2 + 1e-9) * 1j, 1e-6)


def test_which_arrays_are_alike():
    one = numpy.linspace(0, 1, 5)
    assert alike(one, one.copy())
    assert not alike(one, one + 1e-9)
    assert alike(one, one + 1e-9, 1e-6, 1e-6)
    assert not alike(one, one.astype("float32"), 1e-3)
    assert not alike(one, one[:4])
    assert alike(numpy.arange(3), numpy.arange(3))
    assert not alike(numpy.arange(3), numpy.arange(3) + 1, 1.0)


def test_which_tensors_are_alike():
    torch = pytest.importorskip("torch")
    one = torch.linspace(0, 1, 5)
    assert alike(one, one.clone())
    assert alike(one, one + 1e-7, 1e-4, 1e-4)
    assert not alike(one, one + 1)
    assert not alike(torch.arange(3), torch.arange(3) + 1, 1.0)
