"""What a worker uses: read from nvidia-smi, taken from an executor, made into rates."""

import os
import stat
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.tasks.library.function import NAME, pack
from hivemind_p2p.types import Needs, PeerId, Work
from hivemind_p2p.worker.executor import ChildExecutor
from hivemind_p2p.worker.reporter import GpuReport, Reporter, TaskReport, gpus, read_gpus, with_cores

MIB = 1 << 20
TASK = TaskReport("t", PeerId("alice"), "function/1", 2.0, 1.0, 0)


def test_what_nvidia_smi_prints():
    text = "NVIDIA H200, 37, 1024, 143771\nNVIDIA H200, [N/A], 3, 143771\nnonsense\n\nTesla T4, 0, 0, 15360\n"
    assert read_gpus(text) == (
        GpuReport("NVIDIA H200", 0.37, 1024 * MIB, 143771 * MIB),
        GpuReport("Tesla T4", 0.0, 0, 15360 * MIB),
    )


@given(st.text())
def test_whatever_a_driver_prints_is_no_error(text):
    assert len(read_gpus(text)) <= 16


async def test_the_driver_is_asked_and_may_be_absent_or_fail(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await gpus() == ()
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 50, 1, 2'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert await gpus() == (GpuReport("NVIDIA H200", 0.5, MIB, 2 * MIB),)
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 50, 1, 2'\nexit 9\n")
    assert await gpus() == ()


def test_cores_are_what_was_used_since_the_last_look():
    first, before = with_cores([TASK], {}, now=100.0)
    assert first[0].cores == 0.0, "how much of it was this task's is not known yet"
    (second,), before = with_cores([replace(TASK, cpu_seconds=2.5)], before, now=102.0)
    assert second.cores == pytest.approx(0.75)
    (third,), before = with_cores([replace(TASK, cpu_seconds=0.5)], before, now=104.0)
    assert third.cores == 0.0, "another child"
    assert with_cores([], before, now=106.0) == ([], {})


async def test_an_executor_tells_what_it_runs(tmp_path, nursery):
    async with ChildExecutor(tmp_path / "peer" / "work", slots=1, memory_bytes=1 << 30, sandbox="none") as executor:
        reporter = Reporter(executor)
        assert reporter.look(0.0).tasks == ()
        told = Told()
        executor.submit(Work("t1", PeerId("alice"), NAME, pack(time.sleep, (30,)), Needs()), told)
        executor.go_on()
        await told.begun.wait()
        (task,) = executor.tasks()
        assert (task.task_id, task.caller, task.task_type) == ("t1", "alice", NAME)
        report = reporter.look(1.0)
        assert [task.task_id for task in report.tasks] == ["t1"]
        assert 0 < report.memory_used_bytes < report.memory_bytes == os.sysconf("SC_PHYS_PAGES") * 4096
        assert 0 <= report.cpu <= 1


class Told:
    def __init__(self):
        import trio

        self.begun = trio.Event()

    def started(self, work):
        self.begun.set()

    def printed(self, work, data):
        pass

    def ended(self, work, outcome):
        pass
