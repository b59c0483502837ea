"""The choice of peers, the worker's line, states and costs: decisions without a network."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import BusyError, ConfigurationError, TaskRefusedError
from hivemind_p2p.tasks.admission import LEAST_QUEUE, MOST_WAITING_BYTES, Admission, Lent
from hivemind_p2p.tasks.demand import Demand
from hivemind_p2p.tasks.matching import AskBack, Copy, Matching, Placed, Unplaceable
from hivemind_p2p.tasks.spec import TaskState, cost_of
from hivemind_p2p.types import Credits, Needs, Offer, PeerId, PeerInfo, Prices, Usage

GIB = 1 << 30


def offer(name, cpus=1.0, memory=4 * GIB, price=100, types=("function/1",), **more):
    prices = Prices(per_task=Credits(price), per_cpu_second=Credits(10 * price))
    return Offer(PeerInfo(PeerId(name)), cpus=cpus, memory_bytes=memory, task_types=types, prices=prices, **more)


def demand(cpus=1.0, memory=GIB, max_cost=1000, excluded=(), idempotent=True, **more):
    needs = Needs(cpus=cpus, memory=memory, **more)
    return Demand("function/1", needs, Credits(max_cost), map(PeerId, excluded), idempotent=idempotent)


def placements(matching, now=0.0):
    decisions = matching.decide(now)
    assert all(isinstance(decision, Placed) for decision in decisions)
    return {decision.ticket: decision.offer.peer.peer_id for decision in decisions}


def learned(times, family=None):
    """A matching that knows how long tasks take at each of some peers with one cpu."""
    matching = Matching()
    matching.offers_changed([offer(name) for name in times])
    ticket = -1
    for name, seconds in times.items():
        for _ in range(30):
            matching.estimates.learn(PeerId(name), family, seconds)
        ticket -= 1
    return matching


def test_a_free_peer_before_a_busy_one_then_the_cheapest_then_the_first():
    matching = Matching()
    matching.offers_changed([offer("c"), offer("b"), offer("dear", price=200), offer("large", cpus=2.0)])
    for ticket in range(6):
        matching.submit(ticket, demand())
    assert list(placements(matching).values()) == ["b", "c", "large", "large", "dear", "large"]


def test_when_all_are_full_a_task_waits_for_room():
    matching = Matching()
    matching.offers_changed([offer("a")])
    for ticket in range(4):
        matching.submit(ticket, demand())
    assert placements(matching) == {0: "a", 1: "a"}
    assert placements(matching) == {}
    matching.released(0, 1.0)
    assert placements(matching) == {2: "a"}
    matching.withdraw(3, demand())
    matching.released(1, 1.0)
    assert placements(matching) == {}
    assert matching.waiting == 0


def test_of_many_that_wait_any_can_be_taken_out():
    matching = Matching()
    matching.offers_changed([offer("a")])
    for ticket in range(100):
        matching.submit(ticket, demand())
    assert placements(matching) == {0: "a", 1: "a"}
    for ticket in range(2, 100, 3):
        matching.withdraw(ticket, demand())
    left, now = [ticket for ticket in range(2, 100) if ticket % 3 != 2], 0.0
    assert matching.waiting == len(left)
    matching.released(0, now)
    running, placed = [1], []
    while running or matching.waiting:
        new = list(placements(matching, now))
        placed, running = placed + new, running + new
        matching.released(running.pop(0), now)
    assert placed == left


def test_where_tasks_end_sooner_they_go_first_and_more_of_them():
    matching = learned({"fast": 1.0, "slow": 3.9})
    for ticket in range(4):
        matching.submit(ticket, demand())
    assert list(placements(matching).values()) == ["fast", "fast", "slow"], "and one waits for the fast one"


def test_a_slow_peer_gets_nothing_that_the_others_will_have_ended_sooner():
    matching = learned({"fast": 1.0, "slow": 30.0})
    for ticket in range(4):
        matching.submit(ticket, demand())
    assert placements(matching) == {0: "fast", 1: "fast"}
    for ticket in range(4, 100):
        matching.submit(ticket, demand())
    assert "slow" in placements(matching, 1.0).values(), "of so many one is worth it"


def test_far_and_unreliable_and_dear_peers_count_as_slower():
    for change in ("far", "unreliable", "dear"):
        matching = learned({"a": 1.0, "b": 1.0})
        if change == "far":
            matching.set_round_trip(PeerId("a"), 0.3)
        elif change == "unreliable":
            matching.lost(PeerId("a"))
        else:
            matching.offers_changed([offer("a", price=300), offer("b")])
        matching.submit(0, demand())
        assert placements(matching) == {0: "b"}, change


def test_data_draws_tasks_to_where_it_lies():
    matching = learned({"a": 1.0, "b": 1.0})
    data = (("the input", 100_000_000),)
    matching.submit(0, demand(), None, data)
    assert placements(matching) == {0: "a"}
    matching.released(0, 5.0)
    matching.submit(1, demand(), None, data)
    matching.submit(2, demand(), None, data)
    assert placements(matching, 5.0) == {1: "a", 2: "a"}, "to wait a second is quicker than to send it elsewhere"


def test_a_peer_that_failed_is_left_alone_until_its_time():
    matching = Matching()
    matching.offers_changed([offer("a"), offer("b")])
    matching.leave_alone(PeerId("a"), until=5.0)
    for ticket in range(3):
        matching.submit(ticket, demand())
    assert placements(matching, now=1.0) == {0: "b", 1: "b"}
    assert matching.wake_at(1.0) <= 5.0
    assert placements(matching, now=5.0) == {2: "a"}


def test_a_peer_that_understates_its_time_is_found_out():
    matching = learned({"a liar": 1.0, "honest": 1.0})
    given = []
    for ticket in range(40):
        matching.submit(ticket, demand())
        (decision,) = matching.decide(10.0 * ticket)
        peer = decision.offer.peer.peer_id
        matching.released(ticket, 10.0 * ticket + (9.0 if peer == "a liar" else 1.0), 0.5 if peer == "a liar" else 1.0)
        given.append(peer)
    assert given[0] == "a liar"
    assert given.count("a liar") < 5


def test_priority_goes_first():
    matching = Matching()
    matching.offers_changed([offer("a")])
    urgent = Demand("function/1", Needs(), Credits(1000), priority=1)
    for ticket in range(3):
        matching.submit(ticket, demand())
    matching.submit(3, urgent)
    assert list(placements(matching)) == [3, 0]


def test_idle_peers_help_at_the_end():
    """Of two tasks at a slow peer, the one that waits is asked back, and the one that runs gets a copy."""
    matching = learned({"fast": 1.0, "slow": 1.0})
    matching.leave_alone(PeerId("fast"), until=1.0)
    matching.submit(0, demand())
    matching.submit(1, demand())
    assert placements(matching) == {0: "slow", 1: "slow"}
    matching.began(0, 0.0)
    for _ in range(30):
        matching.estimates.learn(PeerId("slow"), None, 10.0)
        matching.estimates.learn(PeerId("fast"), None, 1.0)
    assert matching.decide(2.0) == [AskBack(1)]
    matching.released(1, 2.0)
    matching.submit(1, demand())
    assert placements(matching, 2.05) == {1: "fast"}
    matching.released(1, 3.0, 1.0)
    (copy,) = matching.decide(3.5)
    assert isinstance(copy, Copy)
    assert (copy.ticket, copy.offer.peer.peer_id) == (0, "fast")
    matching.copied(0, 7, PeerId("fast"), 3.5)
    assert matching.decide(3.7) == [], "one is enough as long as it is on time"
    matching.released(7, 4.5, 1.0)
    matching.released(0, 4.5)
    assert matching.wake_at(5.0) is None


def test_a_copy_takes_the_place_of_an_original_that_was_lost():
    matching = learned({"fast": 1.0, "slow": 10.0, "third": 1.0})
    matching.leave_alone(PeerId("fast"), until=1.0)
    matching.leave_alone(PeerId("third"), until=50.0)
    matching.submit(0, demand())
    assert placements(matching) == {0: "slow"}
    matching.began(0, 0.0)
    matching.began(0, 0.0)
    (copy,) = matching.decide(2.0)
    matching.copied(copy.ticket, 1, PeerId("fast"), 2.0)
    matching.released(0, 2.5)
    decisions = [decision for now in range(3, 80) for decision in matching.decide(float(now))]
    assert {decision.ticket for decision in decisions} == {1}, "now that one is watched"


def test_what_must_not_run_twice_gets_no_copy():
    matching = learned({"fast": 1.0, "slow": 10.0})
    matching.leave_alone(PeerId("fast"), until=1.0)
    matching.submit(0, demand(idempotent=False))
    assert placements(matching) == {0: "slow"}
    matching.began(0, 0.0)
    assert [decision for now in range(2, 80) for decision in matching.decide(float(now))] == []


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (demand(cpus=64), "less than 64 cpus"),
        (demand(memory=99 * GIB), "bytes of memory"),
        (demand(max_cost=1), "may cost"),
        (demand(excluded=["a"]), "refused or lost"),
        (Demand("wasm/1", Needs(memory=1), Credits(1000)), "do not run wasm/1"),
        (demand(gpus=1), "less than 1 GPUs"),
        (demand(disk="1MB"), "bytes of disk"),
        (demand(location="eu"), "not in eu"),
        (demand(software=("ffmpeg",)), "do not have ffmpeg"),
        (demand(network=True), "do not lend their network"),
    ],
)
def test_what_no_peer_offers_is_said(wanted, reason):
    matching = Matching()
    matching.offers_changed([offer("a")])
    matching.submit(0, wanted)
    (decision,) = matching.decide(0.0)
    assert isinstance(decision, Unplaceable)
    assert reason in decision.error.message
    assert matching.waiting == 0


def test_a_hive_without_offers_is_said():
    matching = Matching()
    matching.submit(0, demand())
    (decision,) = matching.decide(0.0)
    assert "no peer of the hive offers anything" in decision.error.message


def test_a_task_larger_than_half_the_pipeline_still_fits_an_empty_peer():
    matching = Matching()
    matching.offers_changed([offer("a", cpus=4.0)])
    for ticket in range(4):
        matching.submit(ticket, demand(cpus=4.0))
    assert placements(matching) == {0: "a", 1: "a"}


@given(st.lists(st.tuples(st.sampled_from(["submit", "release", "fail", "tick"]), st.floats(0.1, 3.0)), max_size=60))
def test_no_task_is_lost_or_placed_twice_and_no_peer_overfilled(events):
    matching, now, ticket = Matching(), 0.0, 0
    peers = [offer("a", cpus=1.0), offer("b", cpus=3.0)]
    matching.offers_changed(peers)
    running, waiting = {}, set()
    for kind, amount in events:
        if kind == "submit":
            matching.submit(ticket, demand(cpus=min(amount, 3.0)))
            waiting.add(ticket)
            running[ticket] = (None, demand(cpus=min(amount, 3.0)))
            ticket += 1
        elif kind == "release" and (busy := [t for t, (peer, _) in running.items() if peer]):
            del running[busy[0]]
            matching.released(busy[0], now, amount)
        elif kind == "fail":
            matching.leave_alone(PeerId("a"), until=now + amount)
        now += amount if kind == "tick" else 0.0
        for decision in matching.decide(now):
            if isinstance(decision, AskBack | Copy):
                assert running[decision.ticket][0]
                continue
            assert isinstance(decision, Placed)
            waiting.remove(decision.ticket)
            running[decision.ticket] = (decision.offer.peer.peer_id, running[decision.ticket][1])
        for peer in peers:
            load = [wanted.cpus for at, wanted in running.values() if at == peer.peer.peer_id]
            assert len(load) <= 1 or sum(load) <= 2 * max(1.0, peer.cpus) + 1e-6
    assert matching.waiting == len(waiting)


ALICE, BOB = PeerId("alice"), PeerId("bob")


def test_the_worker_refuses_what_it_does_not_lend_and_is_busy_when_its_line_is_full():
    admission = Admission(Lent(1.0, GIB))
    with pytest.raises(TaskRefusedError, match="needs 2 cpus"):
        admission.check(Needs(cpus=2), 0, None, ALICE)
    with pytest.raises(TaskRefusedError, match="bytes of memory"):
        admission.check(Needs(memory=2 * GIB), 0, None, ALICE)
    for _ in range(LEAST_QUEUE):
        admission.check(Needs(), 100, None, ALICE)
        admission.enter(100, ALICE)
    with pytest.raises(BusyError):
        admission.check(Needs(), 0, None, ALICE)
    admission.check(Needs(), 0, 0.001, ALICE)  # of such short ones many more wait no longer
    admission.leave(100, ALICE)
    admission.check(Needs(), 0, None, ALICE)
    with pytest.raises(BusyError):
        admission.check(Needs(), MOST_WAITING_BYTES, None, ALICE)


def test_an_account_that_fills_the_line_does_not_shut_out_others_however_many_callers_it_has():
    admission = Admission(Lent(1.0, GIB))
    callers = [PeerId(f"alice-{number}") for number in range(4)]
    for caller in callers:
        admission.belongs(caller, "alice")
    admission.belongs(BOB, "bob")
    for number in range(LEAST_QUEUE):
        admission.check(Needs(), 0, None, callers[number % 4])
        admission.enter(0, callers[number % 4])
    for caller in callers:
        with pytest.raises(BusyError):
            admission.check(Needs(), 0, None, caller)
    for _ in range(LEAST_QUEUE // 2):
        admission.check(Needs(), 0, None, BOB)
        admission.enter(0, BOB)
    with pytest.raises(BusyError):
        admission.check(Needs(), 0, None, BOB)


def test_peers_of_whom_accounts_complain_come_later_until_they_have_done_well():
    matching = Matching()
    matching.offers_changed([offer("a"), offer("b")])
    matching.set_complaints(PeerId("a"), 2)
    matching.set_complaints(PeerId("a"), 2)  # the same again weighs no more
    matching.set_complaints(PeerId("nobody"), 2)

    def place(ticket):
        matching.submit(ticket, demand())
        (placed,) = matching.decide(0.0)
        return placed.offer.peer.peer_id

    assert place(1) == "b"
    matching.released(1, 1.0, 1.0)
    assert matching._peers[PeerId("a")].reliability == 0.5
    for _ in range(100):
        matching._peers[PeerId("a")].took(1.0)
    assert matching._peers[PeerId("a")].reliability > 0.95


def test_short_tasks_are_sent_ahead_and_those_that_must_not_be_lost_are_not():
    matching, once = Matching(), demand(idempotent=False)
    matching.offers_changed([offer("a")])
    matching.submit(0, demand())
    assert len(matching.decide(0.0)) == 1
    matching.released(0, 0.001, 0.001)
    for ticket in range(1, 1001):
        matching.submit(ticket, demand() if ticket % 2 else once)
    placed = matching.decide(0.0)
    assert 40 <= len([each for each in placed if each.ticket % 2]) <= 60
    assert not [each for each in placed if each.ticket % 2 == 0]


def test_costs_are_rounded_up_and_never_above_the_limit():
    prices = Prices(per_task=Credits(10), per_cpu_second=Credits(1000))
    assert cost_of(Usage(cpu_seconds=0.0), prices, Credits(100)) == 10
    assert cost_of(Usage(cpu_seconds=0.0101), prices, Credits(100)) == 21
    assert cost_of(Usage(cpu_seconds=50.0), prices, Credits(100)) == 100


def test_states_follow_each_other():
    assert TaskState.PENDING.may_become(TaskState.QUEUED)
    assert TaskState.RUNNING.may_become(TaskState.QUEUED)
    assert not TaskState.QUEUED.may_become(TaskState.COMPLETED)
    for state in TaskState:
        assert state.ended == (state.value in {"completed", "failed", "cancelled", "timed_out"})
        assert state.ended or state.may_become(TaskState.CANCELLED)


@pytest.mark.parametrize(
    ("needs", "lacking"),
    [
        (Needs(gpus=2), "needs 2 GPUs, and this peer lends 1"),
        (Needs(gpus=1, gpu_memory="81GB"), "bytes of memory on each GPU"),
        (Needs(disk="1GB"), "bytes on the disk"),
        (Needs(gpus=1, gpu_memory="80GB", disk="1MB"), ""),
        (Needs(network=True), "needs the network"),
    ],
)
def test_what_is_lent_has_bounds_of_every_kind(needs, lacking):
    lent = Lent(4.0, 8 * GIB, gpus=1, gpu_memory_bytes=80_000_000_000, disk_bytes=1 << 20)
    assert lacking in lent.lacks(needs)
    assert bool(lacking) == bool(lent.lacks(needs))


@pytest.mark.parametrize("wrong", [{"gpus": -1}, {"gpu_memory": "1GB"}, {"cpus": 0}, {"seconds": float("inf")}])
def test_needs_that_make_no_sense(wrong):
    with pytest.raises(ConfigurationError):
        Needs(**wrong)
