"""The scheduler's rules, whatever comes in whatever order."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hivemind_p2p.sharding import batching
from hivemind_p2p.sharding.batching import Scheduler

MANY_STEPS = 400


def scheduler(*generations: tuple[str, str], stages: int = 2) -> Scheduler:
    made = Scheduler()
    for key, payer in generations:
        made.join(key, payer, stages=stages)
    return made


def step(made: Scheduler, seconds: float = 0.01) -> dict[str, int]:
    shares = made.plan()
    made.done(shares, seconds)
    return {str(share.key): share.rows for share in shares}


def test_two_decoders_over_two_stages_are_two_groups() -> None:
    made = scheduler(("a", "ann"), ("b", "ben"))
    made.add("a", 1)
    made.add("b", 1)
    assert [step(made), step(made), step(made)] == [{"a": 1}, {"b": 1}, {}]


def test_one_stage_takes_all_decoders_at_once() -> None:
    made = scheduler(("a", "ann"), ("b", "ben"), stages=1)
    made.add("a", 1)
    made.add("b", 1)
    assert step(made) == {"a": 1, "b": 1}


@given(count=st.integers(1, 40), stages=st.integers(1, 6))
def test_decoders_form_groups_so_that_no_stage_has_to_wait_for_all(count: int, stages: int) -> None:
    made = scheduler(*[(str(number), "ann") for number in range(count)], stages=stages)
    for number in range(count):
        made.add(str(number), 1)
    sizes = []
    while taken := step(made):
        sizes.append(len(taken))
    assert sum(sizes) == count
    assert len(sizes) >= min(stages, count, 2)
    assert max(sizes) == -(-count // stages)


def test_a_prompt_travels_in_chunks_beside_decoders() -> None:
    made = scheduler(("long", "ann"), ("short", "ben"), stages=1)
    made.add("long", 1000)
    made.add("short", 1)
    first = step(made, seconds=1.0)
    assert first["short"] == 1
    assert batching.SMALLEST_PREFILL <= first["long"] < batching.LARGEST_STEP
    for _ in range(30):
        made.add("short", 1)
        taken = step(made, seconds=0.02 * 20)
        assert taken["short"] == 1
    assert taken["long"] == batching.SMALLEST_PREFILL, "a slow stage keeps its decoders going"


def test_a_prompt_alone_takes_large_steps() -> None:
    made = scheduler(("long", "ann"))
    made.add("long", 2 * batching.LARGEST_STEP + 40)
    assert [step(made)["long"] for _ in range(3)] == [batching.LARGEST_STEP, batching.LARGEST_STEP, 40]


def test_what_must_not_be_divided_is_not() -> None:
    made = scheduler(("text", "ann"), ("other", "ben"), stages=1)
    made.add("text", 3 * batching.LARGEST_STEP, divisible=False)
    made.add("other", 10, divisible=False)
    assert step(made) == {"text": 3 * batching.LARGEST_STEP}
    assert step(made) == {"other": 10}


def test_a_generation_is_in_one_step_at_a_time() -> None:
    made = scheduler(("a", "ann"), stages=1)
    made.add("a", 1)
    made.add("a", 1)
    shares = made.plan()
    assert made.plan() == ()
    made.done(shares, 0.01)
    assert step(made) == {"a": 1}


def test_an_account_with_many_generations_gets_no_more_than_one_with_one() -> None:
    many = [f"m{number}" for number in range(30)]
    made = scheduler(*[(key, "many") for key in many], ("one", "single"), stages=31)
    served: Counter[str] = Counter()
    for key in [*many, "one"]:
        made.add(key, 1)
    for _ in range(200):
        for key, rows in step(made).items():
            served["single" if key == "one" else "many"] += rows
            made.add(key, 1)
    assert abs(served["single"] - served["many"]) <= 2


def test_a_newcomer_is_not_owed_what_it_did_not_ask_for() -> None:
    made = scheduler(("old", "ann"), ("new", "ben"), stages=2)
    for _ in range(100):
        made.add("old", 1)
        step(made)
    served: Counter[str] = Counter()
    made.add("old", 1)
    made.add("new", 1)
    for _ in range(20):
        for key in step(made):
            served[key] += 1
            made.add(key, 1)
    assert abs(served["old"] - served["new"]) <= 1


def test_who_left_is_forgotten() -> None:
    made = scheduler(("a", "ann"), ("b", "ann"))
    made.add("a", 5)
    shares = made.plan()
    made.leave("a")
    made.done(shares, 0.1)
    made.leave("a")
    assert made.plan() == ()
    assert made.waiting == 0


class Stage(RuleBasedStateMachine):
    """Anything may come, join and leave; what was added comes out once, in order, within bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.made = Scheduler()
        self.waiting: dict[int, list[tuple[int, bool]]] = {}
        self.unserved: Counter[int] = Counter()
        self.running: list[tuple[batching.Share, ...]] = []
        self.next = 0

    @rule(payer=st.integers(0, 3), stages=st.integers(1, 4))
    def join(self, payer: int, stages: int) -> None:
        self.made.join(self.next, payer, stages=stages)
        self.waiting[self.next] = []
        self.next += 1

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.waiting)))
        self.made.leave(key)
        del self.waiting[key]
        self.unserved.pop(key, None)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), rows=st.integers(1, 600), divisible=st.booleans())
    def add(self, data: st.DataObject, rows: int, divisible: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.waiting)))
        self.made.add(key, rows, divisible=divisible)
        self.waiting[key].append((rows, divisible))

    @rule()
    def plan(self) -> None:
        shares = self.made.plan()
        computing = {share.key for running in self.running for share in running}
        keys = [share.key for share in shares]
        assert len(keys) == len(set(keys))
        assert not computing & set(keys)
        for share in shares:
            rows, divisible = self.waiting[share.key][0]
            assert 1 <= share.rows <= rows
            assert divisible or share.rows == rows
            if share.rows == rows:
                self.waiting[share.key].pop(0)
            else:
                self.waiting[share.key][0] = (rows - share.rows, divisible)
        ready = {key for key, pieces in self.waiting.items() if pieces and key not in computing}
        assert shares or not ready, "something waits and nothing is done"
        if shares:
            self.running.append(shares)
        for key in ready - set(keys):
            self.unserved[key] += 1
            assert self.unserved[key] < MANY_STEPS
        for key in keys:
            self.unserved.pop(key, None)

    @precondition(lambda self: self.running)
    @rule(seconds=st.floats(0.0001, 3))
    def done(self, seconds: float) -> None:
        self.made.done(self.running.pop(0), seconds)

    @invariant()
    def counts(self) -> None:
        assert self.made.waiting == sum(rows for pieces in self.waiting.values() for rows, _ in pieces)


TestStage = Stage.TestCase


@pytest.mark.parametrize("stages", [1, 3])
def test_nobody_starves(stages: int) -> None:
    made = scheduler(*[(str(number), str(number % 3)) for number in range(12)], stages=stages)
    made.join("prompt", "other", stages=stages)
    made.join("text", "another", stages=stages)
    last = dict.fromkeys([*map(str, range(12)), "prompt", "text"], 0)
    for key in last:
        made.add(key, 200 if key == "prompt" else 300 if key == "text" else 1, divisible=key != "text")
    for now in range(1, MANY_STEPS):
        for key in step(made):
            last[key] = now
            made.add(key, 200 if key == "prompt" else 300 if key == "text" else 1, divisible=key != "text")
        if now > 100:
            assert min(last.values()) > now - 100
