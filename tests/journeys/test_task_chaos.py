"""Workers are killed and started again while thousands of tasks run; none is lost, and none that must not is run twice.

``pytest tests/journeys/test_task_chaos.py --chaos-seconds 120 --chaos-seed 7`` goes on for longer, at other moments.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import hivemind_p2p as hm
from hivemind_p2p.errors import NetworkError, TaskLostError
from hivemind_p2p.job import Job
from hivemind_p2p.local import LocalHive
from hivemind_p2p.node_process import NodeProcess

PEERS, TASKS_A_SECOND = 4, 300
DEADLINE = 120.0


def note(folder: str, number: int) -> int:
    """Leaves a trace that outlives whoever runs it: a line for each time that it was begun."""
    line = f"{number}\n".encode()
    descriptor = os.open(f"{folder}/begun", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
    time.sleep(0.002)
    return number


@pytest.fixture
def hive(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHive]:
    """Its workers have no walls, for the tasks have to leave a trace."""
    monkeypatch.setenv("HIVEMIND_P2P_SANDBOX", "none")
    with hm.local_hive(peers=PEERS, serve_models=False) as hive:
        yield hive


def serves(peer: NodeProcess) -> bool:
    """Whether a worker has said that it is ready."""
    try:
        return bool(peer.wait_ready(0.0))
    except NetworkError:
        return False


class Killer(threading.Thread):
    """Kills workers, one after the other, and starts as many: about a third is away at any time."""

    def __init__(self, hive: LocalHive, seed: int, seconds: float) -> None:
        super().__init__()
        self._hive = hive
        self._chance = random.Random(seed)
        self._end = time.monotonic() + seconds
        self.kills = 0

    def run(self) -> None:
        nodes = self._hive.nodes
        while time.monotonic() < self._end:
            time.sleep(self._chance.uniform(0.3, 1.2))
            serving = [peer for peer in nodes.peers if peer.alive and serves(peer)]
            if len(serving) <= PEERS * 2 / 3:
                continue  # a busy machine takes longer to start one than this takes to kill it
            self._chance.choice(serving).kill()
            self.kills += 1
            nodes.begin_peer()


def begin(hive: LocalHive, folder: Path, count: int, *, idempotent: bool) -> list[Job[int]]:
    tasks = hive.with_options(idempotent=idempotent)
    return [tasks.submit(note, str(folder), number) for number in range(count)]


def traces(folder: Path) -> Counter[int]:
    return Counter(int(line) for line in (folder / "begun").read_text().splitlines())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("idempotent", [True, False])
def test_no_task_is_lost_or_run_twice_that_must_not_be(hive, tmp_path, request, idempotent):
    seconds = request.config.getoption("--chaos-seconds")
    killer = Killer(hive, request.config.getoption("--chaos-seed"), seconds)
    count = int(seconds * TASKS_A_SECOND)
    jobs = begin(hive, tmp_path, count, idempotent=idempotent)
    killer.start()
    errors = [job.exception(DEADLINE + seconds) for job in jobs]
    killer.join()
    begun = traces(tmp_path)
    done = {number for number, error in enumerate(errors) if error is None}
    assert all(jobs[number].result() == number for number in done)
    assert done <= begun.keys()
    assert killer.kills > 0
    if idempotent:
        assert [error for error in errors if error is not None] == []
        return
    assert {type(error) for error in errors if error is not None} <= {TaskLostError}
    assert begun.most_common(1)[0][1] == 1, "something ran twice"
    assert len(done) >= count - 8 * PEERS * killer.kills, "far more was given up than can have begun"
