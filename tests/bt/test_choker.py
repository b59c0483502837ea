import random

from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_p2p.bt.choker import NEW_ROUNDS, OPTIMISTIC_ROUNDS, Candidate, Choker
from hivemind_p2p.types import PeerId


def someone(name, **said):
    return Candidate(PeerId(name), interested=said.pop("interested", True), rounds=said.pop("rounds", 9), **said)


def choker(slots=3, seed=1):
    return Choker(slots=slots, below=random.Random(seed).randrange)


def test_the_slots_go_to_those_who_gave_most_and_one_goes_round():
    peers = [someone(str(gave), gave=gave) for gave in range(10)]
    judge = choker()
    for _ in range(20):
        served = judge.round(peers, seeding=False)
        assert {"9", "8"} <= served or judge.optimistic in ("9", "8")
        assert len(served) == 3
        assert judge.optimistic in served


def test_everybody_gets_the_optimistic_slot_in_time_and_keeps_it_for_some_rounds():
    peers = [someone(str(number), gave=number) for number in range(6)]
    judge = choker()
    drawn = []
    for _ in range(60 * OPTIMISTIC_ROUNDS):
        judge.round(peers, seeding=False)
        drawn.append(judge.optimistic)
    assert {"0", "1", "2", "3"} <= set(drawn)
    for start in range(0, len(drawn), OPTIMISTIC_ROUNDS):
        assert len(set(drawn[start : start + OPTIMISTIC_ROUNDS])) == 1


def test_newcomers_are_drawn_three_times_as_often():
    peers = [someone("new", rounds=0), someone("old", rounds=NEW_ROUNDS)]
    drawn = []
    for seed in range(200):
        judge = choker(slots=1, seed=seed)
        judge.round(peers, seeding=False)
        drawn.append(judge.optimistic)
    assert 2 < drawn.count("new") / drawn.count("old") < 4.5


def test_who_has_everything_serves_those_who_spread_it_then_those_who_take_fast():
    peers = [someone("spreads", spread=3), someone("fast", took=9), someone("slow", took=1), someone("gives", gave=99)]
    served = choker().round(peers, seeding=True)
    assert {"spreads", "fast"} <= served


def test_who_snubs_gets_the_optimistic_slot_only():
    peers = [someone("snubs", gave=99, snubs=True), *(someone(str(number), gave=number) for number in range(4))]
    judge = choker()
    for _ in range(30):
        served = judge.round(peers, seeding=False)
        assert "snubs" not in served or judge.optimistic == "snubs"


def test_a_newcomer_gets_a_free_slot_at_once_and_none_where_there_is_none():
    judge = choker(slots=2)
    assert judge.newcomer(PeerId("a"))
    assert judge.newcomer(PeerId("b"))
    assert not judge.newcomer(PeerId("c"))
    assert judge.newcomer(PeerId("a"))
    judge.left(PeerId("a"))
    assert judge.newcomer(PeerId("c"))


candidates = st.builds(
    Candidate,
    st.sampled_from([PeerId(letter) for letter in "abcdefghij"]),
    interested=st.booleans(),
    gave=st.floats(0, 1e9),
    spread=st.floats(0, 99),
    took=st.floats(0, 1e9),
    snubs=st.booleans(),
    rounds=st.integers(0, 9),
)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.lists(candidates, unique_by=lambda each: each.peer), st.booleans()), max_size=8),
    st.integers(),
)
def test_never_more_than_the_slots_never_the_uninterested_never_an_empty_slot(slots, rounds, seed):
    judge = choker(slots, seed)
    for peers, seeding in rounds:
        served = judge.round(peers, seeding=seeding)
        interested = {each.peer for each in peers if each.interested}
        assert served <= interested
        assert len(served) <= slots
        worthy = {each.peer for each in peers if each.interested and (seeding or not each.snubs)}
        assert len(served) >= min(slots, len(worthy))
