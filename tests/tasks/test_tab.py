"""Bills for many tasks: nobody is over-billed, a worker lends no more than it was allowed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import VoucherError
from hivemind_p2p.tasks.tab import ALLOWANCE_LIFETIME, BILL_AFTER, BILL_AFTER_QUIET, CallerTab, WorkerTab


def test_work_is_billed_together_after_a_while_and_a_quiet_caller_sooner():
    tab = WorkerTab(1)
    tab.allow(1000, 0.0)
    assert tab.due_at(quiet=True) is None
    tab.done(10, "function/1", 1.0)
    tab.done(10, "function/1", 1.02)
    assert tab.due_at(quiet=False) == 1.0 + BILL_AFTER
    assert tab.due_at(quiet=True) == 1.02 + BILL_AFTER_QUIET
    tab.done(500, "command/1", 1.03)
    assert tab.due_at(quiet=False) == 1.0, "half of what is allowed is used up"
    draft = tab.bill()
    assert (draft.number, draft.limit, draft.amount, draft.what) == (1, 1000, 520, "2 x function/1, command/1")
    assert tab.due_at(quiet=True) is None
    assert tab.settled(1) == 520
    with pytest.raises(VoucherError, match="the bill 1, which is not open"):
        tab.settled(1)


def test_no_more_is_begun_than_the_allowances_cover():
    tab = WorkerTab(slots=2)
    assert not tab.covers(0, 100)
    tab.allow(250, 0.0)
    assert tab.covers(1, 100)
    assert not tab.covers(2, 100), "what it will cost is not known"
    tab.done(1, "function/1", 0.0)
    assert tab.covers(2, 100)
    assert tab.covers(11, 100)
    assert not tab.covers(15, 100)
    assert not WorkerTab(slots=2).covers(0, 1)


def test_a_bill_is_never_above_its_allowance():
    tab = WorkerTab(1)
    tab.allow(100, 0.0)
    for _ in range(3):
        tab.done(60, "function/1", 0.0)
    tab.allow(300, 0.0)
    assert [(draft.limit, draft.amount) for draft in iter(tab.bill, None)] == [(300, 180)]
    tab.done(150, "function/1", 0.0)
    assert tab.bill().amount == 100
    assert tab.unbilled == 50
    assert tab.bill() is None


def test_old_allowances_are_given_back_by_the_worker_first():
    worker, caller = WorkerTab(1), CallerTab()
    worker.allow(100, 0.0)
    caller.allow(100, 0.0)
    assert worker.expire(ALLOWANCE_LIFETIME) == [100]
    assert caller.expire(ALLOWANCE_LIFETIME) == []
    assert caller.expire(1.5 * ALLOWANCE_LIFETIME) == [100]
    assert not caller.covers(1, 0.0)


def test_the_caller_allows_enough_for_what_runs_at_once_twice():
    tab = CallerTab()
    limits = []
    while limit := tab.wanted(max_cost=10, at_once=4, now=0.0):
        limits.append(limit)
        tab.allow(limit, 0.0)
    assert limits == [40, 40]
    assert tab.billed(1, 40) == 0
    assert tab.wanted(max_cost=10, at_once=4, now=0.0) == 40
    assert tab.wanted(max_cost=10, at_once=1, now=0.0) == 0


@pytest.mark.parametrize(("bill", "limit"), [(2, 100), (0, 100), (1, 99)])
def test_a_bill_out_of_order_or_on_no_allowance_is_wrong(bill, limit):
    tab = CallerTab()
    tab.allow(100, 0.0)
    with pytest.raises(VoucherError):
        tab.billed(bill, limit)


@given(st.lists(st.one_of(st.integers(0, 120), st.sampled_from(["allow", "bill"])), max_size=60), st.integers(50, 100))
def test_both_sides_agree_and_no_task_is_billed_above_its_limit(script, max_cost):
    worker, caller, paid, owed = WorkerTab(1), CallerTab(), 0, 0
    for step in script:
        if step == "allow":
            worker.allow(100, 0.0)
            caller.allow(100, 0.0)
        elif step == "bill":
            if (draft := worker.bill()) is not None:
                most = caller.billed(draft.number, draft.limit)
                assert draft.amount <= most <= draft.limit
                caller.paid(draft.amount)
                paid += worker.settled(draft.number)
        else:
            cost = min(step, max_cost)
            worker.done(cost, "function/1", 0.0)
            owed += caller.took(step, max_cost)
    assert paid <= owed
    assert caller.owed == worker.unbilled == owed - paid
