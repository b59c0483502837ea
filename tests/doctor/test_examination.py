"""All probes at once: what hangs, what breaks, and what has an end; and that nothing stays behind."""

import os

import pytest
import trio

from hivemind_p2p.config import Settings
from hivemind_p2p.doctor import examination
from hivemind_p2p.doctor.findings import SECTIONS, Mark, Unmeasured
from hivemind_p2p.doctor.machine_facts import GpuFact, PortFact

QUICK = ("addresses", "folder", "memory", "open_files", "sandbox", "cgroup", "torch", "gpu", "versions")
CHECKS = {check for checks in SECTIONS.values() for check in checks} - {"hive key"}


@pytest.fixture
def probes(monkeypatch):
    """Probes that do nothing; a test replaces the ones that it is about."""

    def replace(name, probe):
        monkeypatch.setattr(examination.machine_probes, name, probe)

    async def nothing(*_):
        return GpuFact()

    async def all_of_the_hive(_settings, tell):
        for check in ("bootstrap", "clock", "directory", "account", "reachability"):
            tell(Unmeasured(check, "nobody asked", because_of="test"))

    async def port(address, *_):
        return PortFact(address, examination.machine_probes.Port.FREE)

    for name in QUICK:
        replace(name, nothing)
    replace("port", port)
    monkeypatch.setattr(examination, "hive", all_of_the_hive)
    monkeypatch.setattr(examination, "keep_torch_files_in", lambda folder: None)
    return replace


async def run(tmp_path, **settings):
    shown = []
    findings = await examination.examine(Settings(data=tmp_path, **settings), shown.append)
    assert shown == findings
    return {finding.check: finding for finding in findings}


async def test_each_finding_is_shown_as_it_comes(probes, tmp_path, autojump_clock):
    found = await run(tmp_path)
    assert found["gpu"].mark is Mark.WELL
    assert found["clock"].mark is Mark.SKIPPED


async def test_what_hangs_is_told_in_time_and_keeps_nothing_else_waiting(probes, tmp_path, monkeypatch, autojump_clock):
    async def hang(*_):
        await trio.sleep_forever()

    for name in (*QUICK, "port"):
        probes(name, hang)
    monkeypatch.setattr(examination, "hive", hang)
    start = trio.current_time()
    found = await run(tmp_path)
    assert trio.current_time() - start == pytest.approx(examination.DEADLINE)
    assert set(found) == CHECKS
    for finding in found.values():
        assert (finding.mark, "longer than 8 seconds" in finding.sentence) == (Mark.WARNING, True)


async def test_a_probe_that_breaks_costs_its_own_line_only(probes, tmp_path, monkeypatch, autojump_clock):
    async def fail(*_):
        raise RuntimeError("no such thing\nin the kernel")

    probes("sandbox", fail)
    monkeypatch.setattr(examination, "hive", fail)
    found = await run(tmp_path)
    assert "RuntimeError: no such thing in the kernel" in found["sandbox"].sentence
    assert "RuntimeError" in found["bootstrap"].sentence
    assert found["gpu"].mark is Mark.WELL
    assert {"clock", "directory", "account"} <= set(found)


async def test_every_address_to_listen_at_is_looked_at(probes, tmp_path, autojump_clock):
    shown = []
    settings = Settings(data=tmp_path, listen=("/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"))
    await examination.examine(settings, shown.append)
    assert [finding.check for finding in shown].count("port") == 2


async def test_without_a_folder_the_users_own_is_looked_at(probes, tmp_path, monkeypatch, autojump_clock):
    looked_at = []

    async def folder(path):
        looked_at.append(path)
        return GpuFact()

    probes("folder", folder)
    monkeypatch.setattr(examination, "data_folder", lambda: tmp_path / "own")
    await examination.examine(Settings(), lambda finding: None)
    assert looked_at == [tmp_path / "own"]


async def test_nothing_stays_behind(probes, tmp_path, monkeypatch, autojump_clock):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(examination.tempfile, "tempdir", None)
    await run(tmp_path / "data")
    assert os.listdir(tmp_path) == ["temporary"]
    assert os.listdir(tmp_path / "temporary") == []
