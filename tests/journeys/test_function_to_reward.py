"""A function, its result, a reward."""

import concurrent.futures
import dataclasses
import threading
from decimal import Decimal

import numpy as np
import psutil
import pytest

import hivemind_p2p as hm
from hivemind_p2p import errors
from tests.journeys.programs import DEADLINE, Program, cpu_seconds, descendants, environment, until


def square(number):
    return number * number


def test_a_result(hive):
    job = hive.submit(square, 7)
    assert job.result(DEADLINE) == 49
    assert job.state == "COMPLETED"
    assert job.peer in {row.peer_id for row in hive.peers() if not row.is_me}
    assert job.cost > 0


def test_results_in_order_from_more_than_one_peer(hive):
    jobs = hive.map(square, range(12))
    assert jobs.results(DEADLINE) == [number * number for number in range(12)]
    assert len({job.peer for job in jobs}) > 1


@dataclasses.dataclass
class Point:
    x: int
    y: int


def test_values_keep_their_kind(hive):
    def values(array):
        return {"bytes": b"\x00\xff", "numbers": [1, 2.5, True, None], "array": array * 2, "point": Point(3, 4)}

    result = hive.submit(values, np.arange(4, dtype=np.float32)).result(DEADLINE)
    assert result["bytes"] == b"\x00\xff"
    assert result["numbers"] == [1, 2.5, True, None]
    assert result["array"].dtype == np.float32
    assert result["array"].tolist() == [0, 2, 4, 6]
    assert result["point"] == {"x": 3, "y": 4}


def test_a_function_that_raises(hive):
    def fail(number):
        return 1 // number

    job = hive.submit(fail, 0)
    with pytest.raises(errors.TaskFailedError) as caught:
        job.result(DEADLINE)
    assert job.state == "FAILED"
    assert job.peer in caught.value.message
    assert "ZeroDivisionError" in caught.value.message
    assert "in fail" in caught.value.remote_traceback
    assert caught.value.remote_traceback in str(caught.value)


def test_a_result_that_is_no_safe_value(hive):
    with pytest.raises(errors.UnsafeValueError) as caught:
        hive.submit(threading.Lock).result(DEADLINE)
    assert "lock" in caught.value.message


def test_a_function_that_cannot_be_packed_fails_where_it_is_submitted(hive):
    lock = threading.Lock()
    with pytest.raises(errors.NotSerializableError, match="lock"):
        hive.submit(lambda: lock)


def test_a_task_that_takes_too_long(hive):
    def sleep():
        import time

        time.sleep(60)

    job = hive.submit(sleep, needs=hm.Needs(seconds=0.5))
    with pytest.raises(errors.TaskTimeoutError):
        job.result(DEADLINE)
    assert job.state == "TIMED_OUT"


def test_a_task_that_kills_its_process_harms_nobody(hive):
    def die():
        import os

        os._exit(3)

    with pytest.raises(errors.TaskCrashedError):
        hive.submit(die).result(DEADLINE)
    assert hive.map(square, range(3)).results(DEADLINE) == [0, 1, 4]


def test_needs_that_nobody_meets(hive):
    with pytest.raises(errors.NoPeerError):
        hive.submit(square, 1, needs=hm.Needs(cpus=64)).result(DEADLINE)


def spin():
    while True:
        pass


def _spinning(hive):
    """The processes below the peers that have computed for a while."""
    below = [process for peer in hive.nodes.peers for process in descendants(peer.pid)]
    return [process for process in below if process.is_running() and cpu_seconds(process) > 0.3]


def test_cancel_ends_the_remote_work(hive):
    before = set(_spinning(hive))
    job = hive.submit(spin)
    (process,) = until(lambda: set(_spinning(hive)) - before, "the function runs")
    assert job.running()
    assert job.cancel()
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "the process is gone")
    with pytest.raises(concurrent.futures.CancelledError):
        job.result()
    # Its place is free again.
    assert hive.map(square, range(6)).results(DEADLINE) == [number * number for number in range(6)]


def test_the_ledger_says_who_earned_what(hive):
    jobs = hive.map(square, range(6))
    jobs.results(DEADLINE)
    cost = sum(job.cost for job in jobs)
    assert cost > 0

    def settled():
        ledger = hive.ledger()
        paid = next(row.paid for row in ledger if row.name == "you")
        return ledger if paid == hive.promised else None

    ledger = until(settled, "the peers have handed in their vouchers")
    assert ledger.sum == 0
    earned = {row.name: row.earned for row in ledger if row.name.startswith("peer-")}
    assert sum(earned.values()) == sum(row.paid for row in ledger)
    statement = hive.statement()
    assert sum(-row.amount for row in statement if row.counterparty in earned) == hive.promised
    assert {row.counterparty for row in statement if row.amount < 0} <= set(earned)
    balance = hive.balance()
    assert balance.available + balance.held == Decimal(100) - hive.promised


CALLER = """
import os, signal, time
import hivemind_p2p as hm

if __name__ == "__main__":
    hive = hm.connect(username="eve", password="a fine password", register=True)
    job = hive.submit(pow, 2, 10)
    print(job.result(30), job.cost, flush=True)
    while not hive.promised:  # some milliseconds: small tasks are billed together
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_settlement_survives_a_caller_that_is_killed(hive, tmp_path):
    script = tmp_path / "caller.py"
    script.write_text(CALLER)
    joined = environment({"HIVEMIND_P2P_BOOTSTRAP": hive.nodes.bootstrap_address})
    with Program([str(script)], joined) as caller:
        result, cost = caller.line().split()
        assert caller.end() == -9
    assert result == "1024"
    assert Decimal(cost) > 0

    def paid():
        return next((row.paid for row in hive.ledger() if row.name == "eve"), 0) == Decimal(cost)

    until(paid, "the killed caller's voucher is settled")
    assert hive.ledger().sum == 0


def test_a_hive_without_an_account_is_told_so(hive):
    with hm.connect(hive.nodes.bootstrap_address) as other:
        assert not other.has_account
        with pytest.raises(errors.AccountRequiredError):
            other.balance()
