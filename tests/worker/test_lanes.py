"""Which task lies ready in which child: depth, turns, what is taken back."""

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from hivemind_p2p.types import PeerId
from hivemind_p2p.worker.lanes import MOST_AHEAD, SLICE, Close, Give, Key, Lanes, Open

GIB = 1 << 30


def key(name="alice", cpus=1.0, memory=GIB):
    return Key(PeerId(name), cpus, memory)


def given(actions):
    return [action.ticket for action in actions if isinstance(action, Give)]


def opened(actions):
    return [action.key.caller for action in actions if isinstance(action, Open)]


def test_of_unknown_tasks_one_is_given_and_of_short_ones_many():
    lanes = Lanes(1.0, GIB)
    for ticket in range(300):
        lanes.submit(ticket, key())
    first = lanes.decide(0.0)
    assert (opened(first), given(first)) == (["alice"], [0])
    lanes.ended(1, 0, 0.0001)
    assert len(given(lanes.decide(0.001))) == 121
    lanes.ended(1, 1, 0.5)  # the next ones may be long, too
    assert given(lanes.decide(0.5)) == []
    assert lanes.seconds(key()) == 0.5


def test_no_child_holds_more_than_its_socket_takes():
    lanes = Lanes(1.0, GIB)
    for ticket in range(1000):
        lanes.submit(ticket, key())
    lanes.decide(0.0)
    lanes.ended(1, 0, 0.0)
    assert len(given(lanes.decide(0.0))) == MOST_AHEAD


def test_a_short_line_is_shared_among_the_lanes():
    lanes = Lanes(2.0, 2 * GIB)
    for ticket in range(2):
        lanes.submit(ticket, key())
    lanes.decide(0.0)
    for ticket in range(2, 22):
        lanes.submit(ticket, key())
    lanes.ended(1, 0, 0.0001)
    actions = lanes.decide(0.0)
    assert [len([a for a in actions if isinstance(a, Give) and a.lane == lane]) for lane in (1, 2)] == [10, 5]


def test_lanes_take_turns_among_callers():
    lanes = Lanes(1.0, GIB)
    for ticket in range(1000):
        lanes.submit(ticket, key("alice"))
    lanes.decide(0.0)
    lanes.ended(1, 0, 0.001)
    now = 0.0
    queue = given(lanes.decide(now))
    lanes.submit(5000, key("bob"))
    while 5000 not in queue:
        now += 0.001
        ticket = queue.pop(0)
        lanes.ended(1, ticket, 0.001)
        actions = lanes.decide(now)
        queue += given(actions)
        assert now < SLICE + 0.05
    assert opened(actions) == ["bob"]
    lanes.ended(2, 5000, 0.001)
    assert opened(lanes.decide(now)) == ["alice"]


def shares_after(lanes, keys, *, seconds=0.1, rounds=200):
    """Has tasks of each key wait all the time; tasks that each account had run in the second half."""
    accounts = {caller: caller.partition("-")[0] for caller in (each.caller for each in keys)}
    of_ticket, counts, held, ticket, now = {}, {}, {}, 0, 0.0
    for caller, account in accounts.items():
        lanes.belongs(caller, account)
    for turn in range(rounds):
        for each in keys:
            while sum(of_ticket.get(waiting) == each for waiting in of_ticket) < 8:
                of_ticket[ticket] = each
                lanes.submit(ticket, each)
                ticket += 1
        for action in lanes.decide(now):
            if isinstance(action, Give):
                held.setdefault(action.lane, []).append(action.ticket)
        now += seconds
        for lane in [lane for lane in held if held[lane]]:
            done = held[lane].pop(0)
            account = accounts[of_ticket.pop(done).caller]
            counts[account] = counts.get(account, 0) + (turn >= rounds // 2)
            lanes.ended(lane, done, seconds)
    return {account: round(count / sum(counts.values()), 2) for account, count in counts.items()}


def test_accounts_and_not_callers_share_what_is_lent():
    crowd = [key(f"alice-{number}") for number in range(5)]
    assert shares_after(Lanes(4.0, 4 * GIB), [*crowd, key("bob")]) == {"alice": 0.5, "bob": 0.5}
    third = {"alice": 0.33, "bob": 0.33, "carol": 0.33}
    assert shares_after(Lanes(1.0, GIB), [*crowd, key("bob"), key("carol")]) == pytest.approx(third, abs=0.04)


def test_an_account_that_comes_later_gets_its_half():
    lanes = Lanes(4.0, 4 * GIB)
    lanes.belongs(PeerId("alice"), "alice")
    lanes.belongs(PeerId("bob"), "bob")
    for ticket in range(100):
        lanes.submit(ticket, key("alice"))
    held = {action.lane: action.ticket for action in lanes.decide(0.0) if isinstance(action, Give)}
    for ticket in range(100, 200):
        lanes.submit(ticket, key("bob"))
    owners = dict.fromkeys(held, "alice")
    for step in range(1, 20):
        for lane, ticket in list(held.items()):
            lanes.ended(lane, ticket, 0.1)
            del held[lane]
            for action in lanes.decide(step * 0.1):
                if isinstance(action, Open):
                    owners[action.lane] = action.key.caller
                elif isinstance(action, Give):
                    held[action.lane] = action.ticket
                elif isinstance(action, Close):
                    del owners[action.lane]
    assert sorted(owners.values()) == ["alice", "alice", "bob", "bob"]


def test_what_is_learned_of_a_caller_later_holds_for_what_it_runs_already():
    lanes = Lanes(2.0, 2 * GIB)
    for ticket in range(8):
        lanes.submit(ticket, key("alice-1"))
    assert opened(lanes.decide(0.0)) == ["alice-1", "alice-1"]
    for caller, account in (("alice-1", "alice"), ("alice-2", "alice"), ("bob", "bob")):
        lanes.belongs(PeerId(caller), account)
    lanes.submit(10, key("alice-2"))
    lanes.submit(11, key("bob"))
    lanes.ended(1, 0, 1.0)
    assert opened(lanes.decide(1.0)) == ["bob"]


def test_what_does_not_fit_holds_up_those_behind_it():
    lanes = Lanes(2.0, 4 * GIB)
    lanes.submit(0, key("alice"))
    lanes.decide(0.0)
    lanes.submit(1, key("bob", cpus=2.0))
    lanes.submit(2, key("carol"))
    assert given(lanes.decide(0.0)) == []
    lanes.ended(1, 0, 1.0)
    assert given(lanes.decide(1.0)) == [1]
    lanes.ended(2, 1, 1.0)
    assert given(lanes.decide(2.0)) == [2]


def test_what_was_taken_back_goes_first_and_its_kind_counts_as_long():
    lanes = Lanes(1.0, GIB)
    for ticket in range(10):
        lanes.submit(ticket, key())
    lanes.decide(0.0)
    lanes.ended(1, 0, 0.001)
    assert given(lanes.decide(0.0)) == list(range(1, 10))
    lanes.recalled(1, list(range(2, 10)), head_seconds=0.05)
    assert lanes.waiting == 8
    assert lanes.decide(0.1) == []
    lanes.ended(1, 1, 0.2)
    assert given(lanes.decide(0.2)) == [2]


def test_higher_priorities_of_one_caller_go_first():
    lanes = Lanes(1.0, GIB)
    for ticket, priority in enumerate((0, -1, 5, 1, 5)):
        lanes.submit(ticket, key(), priority)
    order = []
    while len(order) < 5:
        order += given(lanes.decide(0.0))
        lanes.ended(1, order[-1], 1.0)
    assert order == [2, 4, 3, 0, 1]


def test_nothing_starts_while_it_is_paused():
    lanes = Lanes(1.0, GIB)
    lanes.paused = True
    lanes.submit(0, key())
    assert lanes.decide(0.0) == []
    lanes.paused = False
    assert given(lanes.decide(0.0)) == [0]


CALLERS = ("alice", "bob", "carol")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from(CALLERS), st.sampled_from((1.0, 2.0))),
        st.tuples(st.just("end"), st.integers(0, 5), st.sampled_from((0.0001, 0.1))),
        st.tuples(st.just("recall"), st.integers(0, 5), st.just(0.0)),
        st.tuples(st.just("lose"), st.integers(0, 5), st.just(0.0)),
        st.tuples(st.just("withdraw"), st.integers(0, 30), st.just(0.0)),
    ),
    max_size=60,
)


@for_all(steps)
def test_every_task_is_given_once_and_no_more_is_at_work_than_is_lent(script):  # noqa: C901 - a model has many cases
    lanes, now, held, waiting, ended = Lanes(3.0, 3 * GIB), 0.0, {}, set(), set()
    keys, of_lane = {}, {}

    def carry_out(actions):
        for action in actions:
            if isinstance(action, Open):
                held[action.lane], of_lane[action.lane] = [], action.key
            elif isinstance(action, Close):
                assert held.pop(action.lane) == []
            else:
                assert action.ticket in waiting
                waiting.discard(action.ticket)
                held[action.lane].append(action.ticket)
                assert keys[action.ticket] == of_lane[action.lane]
        assert sum(of_lane[lane].cpus for lane in held) <= 3.0

    for number, (what, which, value) in enumerate(script):
        now += 0.05
        lane = sorted(held)[which % len(held)] if held and isinstance(which, int) else None
        if what == "submit":
            keys[number] = key(which, value)
            waiting.add(number)
            lanes.submit(number, keys[number])
        elif what == "withdraw":
            assert lanes.withdraw(which) == (which in waiting)
            waiting.discard(which)
        elif lane is not None and held[lane]:
            if what == "end":
                ticket = held[lane].pop(0)
                ended.add(ticket)
                lanes.ended(lane, ticket, value)
            else:
                back = held[lane][1:]
                held[lane] = held[lane][:1]
                waiting.update(back)
                lanes.recalled(lane, back, head_seconds=0.1)
                if what == "lose":
                    ticket = held.pop(lane)[0]
                    ended.add(ticket)
                    lanes.ended(lane, ticket)
                    lanes.lost(lane)
        carry_out(lanes.decide(now))
        assert lanes.waiting == len(waiting)
    for _ in range(500):
        for lane in list(held):
            if held[lane]:
                lanes.ended(lane, held[lane].pop(0), 0.001)
        now += 0.05
        carry_out(lanes.decide(now))
    assert not waiting
    assert not held
