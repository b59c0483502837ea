"""A hive that runs functions in threads of this process: for what is about futures, and not about peers."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hivemind_p2p.job import Job
from hivemind_p2p.task_methods import TaskMethods
from hivemind_p2p.tasks import reading, registry, values
from hivemind_p2p.tasks.raised import closest_builtin, failed
from hivemind_p2p.types import Credits, PeerId

ADA = PeerId("12D3KooWAda")


class HiveOfThreads(TaskMethods):
    """Runs packed tasks as a peer would, two at a time."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(2)
        self.launched = []
        self.gate = threading.Event()
        self.gate.set()

    def cores(self):
        return 2

    def launch(self, job, spec, options):
        self.launched.append((job, spec, options))
        job.moved("QUEUED", None)
        self._pool.submit(self._run, job, spec)

    def _run(self, job, spec):
        self.gate.wait()
        if job.done():
            return
        job.moved("RUNNING", ADA)
        kind = registry.task_type(spec.task_type)
        try:
            value = kind.run_shared(spec.shared.data, spec.payload) if spec.shared else kind.run(spec.payload)
            job.complete(reading.decode(values.encode(value)), peer=ADA, cost=Credits(0))
        except Exception as error:
            message = "".join(f"{type(error).__name__}: {error}")
            job.fail(failed(message, closest_builtin(error), "Traceback ..."))

    def close(self):
        self.gate.set()
        self._pool.shutdown()


@pytest.fixture
def hive():
    hive = HiveOfThreads()
    yield hive
    hive.close()


@pytest.fixture
def done_job():
    job = Job("x", "f")
    job.complete(1, peer=ADA, cost=Credits(0))
    return job
