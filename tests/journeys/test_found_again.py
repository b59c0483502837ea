"""A program is killed while its tasks run on real peers; the next one finds them by their ids."""

import signal
from pathlib import Path

import pytest

import hivemind_p2p as hm
from hivemind_p2p.errors import UnknownJobError
from tests.journeys.programs import Program, environment

DEADLINE = 60.0

CALLER = """
import sys, time
import hivemind_p2p as hm

def slow(number):
    print("begun", flush=True)
    time.sleep(3)
    return number * number, time.time_ns()

def fail():
    raise KeyError("gone")

hive = hm.connect(sys.argv[1], username="ada", register=True, data=sys.argv[2])
kept = hive.with_options(keep=True)
once = hive.with_options(keep=True, idempotent=False)
quick, bad = kept.submit(pow, 2, 10), kept.submit(fail)
quick.result(), bad.exception()
jobs = [quick, bad, kept.submit(slow, 6), once.submit(slow, 7)]
for job in jobs[2:]:
    next(job.stdout)
print(*[job.id for job in jobs], flush=True)
time.sleep(1000)
"""


@pytest.mark.timeout(180)
def test_a_program_that_was_killed_finds_its_jobs_again(hive, tmp_path):
    credentials = hive.nodes.credentials("ada")
    address, data = hive.nodes.bootstrap_address, str(tmp_path / "data")
    with Program(["-c", CALLER, address, data], environment(credentials)) as program:
        ids = program.line().split()
        program.send(signal.SIGKILL)
        program.end()
    again = hm.connect(
        address,
        username="ada",
        password=credentials["HIVEMIND_P2P_PASSWORD"],
        data=Path(data),
    )
    with again:
        assert set(again.jobs()) == set(ids)
        quick, bad, slow, once = (again.job(name) for name in ids)
        assert (quick.state, quick.result(DEADLINE)) == ("COMPLETED", 1024)
        assert isinstance(bad.exception(DEADLINE), KeyError)
        assert slow.result(DEADLINE)[0] == 36
        assert once.result(DEADLINE)[0] == 49
        # Found once more it is the very same result: it was not run again.
        assert again.job(ids[3]).result(DEADLINE) == once.result()
        with pytest.raises(UnknownJobError):
            again.job("0" * 36)
        again.forget_job(ids[0])
        assert ids[0] not in again.jobs()


def test_a_hive_without_a_folder_keeps_nothing(hive):
    with hm.connect(hive.nodes.bootstrap_address) as other, pytest.raises(hm.errors.ConfigurationError, match="data"):
        other.with_options(keep=True).submit(pow, 2, 10)
