"""The caller's decisions: a lost route changes nothing about the text."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hivemind_p2p.errors import StreamClosedError
from hivemind_p2p.sharding.generation import (
    AVOID_SECONDS,
    MOST_ROUTES,
    Emit,
    Fail,
    Feed,
    Finish,
    GenerationState,
    TakeRoute,
)
from hivemind_p2p.types import PeerId

A, B, C = PeerId("a"), PeerId("b"), PeerId("c")
LOST = StreamClosedError("it left")


def test_a_generation_from_start_to_end() -> None:
    state = GenerationState([1, 2], 2)
    assert state.start(0) == [TakeRoute(1, frozenset())]
    assert state.opened(1) == [Feed(2)]
    assert state.tokens(1, A, 2, [7], 0) == [Emit(7)]
    assert state.tokens(1, A, 3, [8], 0) == [Emit(8), Finish()]
    assert state.tokens(1, A, 4, [9], 0) == []


def test_an_end_token_is_part_of_the_text() -> None:
    state = GenerationState([1], 9, ends={5})
    state.start(0)
    assert state.tokens(1, A, 1, [5], 0) == [Emit(5), Finish()]


def test_nothing_is_wanted() -> None:
    assert GenerationState([1], 0).start(0) == [Finish()]


def test_another_route_is_fed_all_that_was_written() -> None:
    state = GenerationState([1, 2], 9)
    state.start(0)
    state.tokens(1, A, 2, [7], 0)
    assert state.lost(1, [B], LOST, 5) == [TakeRoute(2, frozenset({B}))]
    assert state.opened(2) == [Feed(3)]
    assert state.text == [1, 2, 7]


def test_what_a_lost_route_still_says_is_passed_over() -> None:
    state = GenerationState([1], 9)
    state.start(0)
    state.lost(1, [B], LOST, 0)
    assert state.tokens(1, A, 1, [7], 0) == []
    assert state.lost(1, [A], LOST, 0) == []
    assert state.opened(1) == []


def test_a_token_in_the_wrong_place_loses_the_route() -> None:
    state = GenerationState([1], 9)
    state.start(0)
    assert state.tokens(1, A, 3, [7], 0) == [TakeRoute(2, frozenset({A}))]


def test_a_peer_is_avoided_for_a_while() -> None:
    state = GenerationState([1], 9)
    state.start(0)
    state.lost(1, [A], LOST, 10)
    assert state.avoid(10 + AVOID_SECONDS - 1) == {A}
    assert state.avoid(10 + AVOID_SECONDS) == frozenset()


def test_it_ends_after_many_routes() -> None:
    state = GenerationState([1], 9)
    state.start(0)
    for attempt in range(1, MOST_ROUTES):
        assert isinstance(state.lost(attempt, [A], LOST, 0)[0], TakeRoute)
    (last,) = state.lost(MOST_ROUTES, [A], LOST, 0)
    assert isinstance(last, Fail)
    assert "it left" in last.error.message


def test_several_tokens_at_once_end_where_the_text_does() -> None:
    state = GenerationState([1], 9, ends={5})
    state.start(0)
    assert state.tokens(1, A, 1, [7, 8], 0) == [Emit(7), Emit(8)]
    assert state.tokens(1, A, 3, [9, 5, 6], 0) == [Emit(9), Emit(5), Finish()]
    assert state.written == [7, 8, 9, 5]


def test_no_tokens_are_no_answer() -> None:
    state = GenerationState([1], 9)
    state.start(0)
    assert state.tokens(1, A, 1, [], 0) == [TakeRoute(2, frozenset({A}))]


class Lossy(RuleBasedStateMachine):
    """Routes are lost at any moment, and late words of old ones come in; what is emitted is the one text."""

    def __init__(self) -> None:
        super().__init__()
        self.state = GenerationState([0, 1, 2], 20)
        (first,) = self.state.start(0.0)
        assert isinstance(first, TakeRoute)
        self.attempt, self.now = first.attempt, 0.0
        self.fed = 0
        self.emitted: list[int] = []
        self.over = False

    def follow(self, actions: list[object]) -> None:
        for action in actions:
            assert not self.over
            if isinstance(action, Emit):
                self.emitted.append(action.token)
            elif isinstance(action, TakeRoute):
                assert action.attempt == self.attempt + 1
                self.attempt, self.fed = action.attempt, 0
            elif isinstance(action, Feed):
                assert self.state.text == list(range(3 + len(self.emitted)))
                self.fed = action.tokens
            else:
                self.over = True

    @rule()
    def open(self) -> None:
        self.follow([*self.state.opened(self.attempt)])

    @precondition(lambda self: self.fed)
    @rule(count=st.integers(1, 4))
    def tokens(self, count: int) -> None:
        position, self.fed = self.fed, self.fed + count
        self.follow([*self.state.tokens(self.attempt, A, position, range(position, self.fed), self.now)])

    @rule(peer=st.sampled_from([A, B, C]), seconds=st.floats(0, 30))
    def lose(self, peer: PeerId, seconds: float) -> None:
        self.now += seconds
        self.follow([*self.state.lost(self.attempt, [peer], LOST, self.now)])

    @rule(age=st.integers(1, 3), position=st.integers(0, 30))
    def late(self, age: int, position: int) -> None:
        assert self.state.tokens(self.attempt - age, A, position, [99], self.now) == []

    @invariant()
    def the_text_is_one(self) -> None:
        assert self.emitted == list(range(3, 3 + len(self.emitted)))


Lossy.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestLossy = Lossy.TestCase
