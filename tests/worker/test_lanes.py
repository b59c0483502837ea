"""Which task lies ready in which child: depth, turns, what is taken back."""

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
