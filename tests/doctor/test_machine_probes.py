"""Measuring this machine, in the situations that can be made on any machine."""

import errno
import socket
import stat
import sys
from types import SimpleNamespace

import pytest

from hivemind_p2p.config import Settings
from hivemind_p2p.data_folder import is_in_use, owned_folder
from hivemind_p2p.doctor import machine_probes as probes
from hivemind_p2p.doctor.machine_facts import CgroupFact, Port
from hivemind_p2p.identity import Identity
from hivemind_p2p.worker.cgroups import NoCgroupsError


async def test_a_free_port(tmp_path):
    fact = await probes.port("/ip4/127.0.0.1/tcp/0", tmp_path, None)
    assert (fact.port, fact.number, fact.loopback) == (Port.FREE, 0, True)


async def test_a_port_of_another_program(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        fact = await probes.port(f"/ip4/127.0.0.1/tcp/{number}", tmp_path, None)
    assert (fact.port, fact.number) == (Port.TAKEN, number)
    assert fact.holder


async def test_the_port_of_this_folders_own_peer(tmp_path):
    from hivemind_p2p.net.transport import open_transport

    identity = Identity.load_or_create(tmp_path / "identity.key")
    async with open_transport(identity, ["/ip4/127.0.0.1/tcp/0"]) as transport:
        (address,) = transport.addresses
        assert (await probes.port(address, tmp_path, None)).port is Port.OWN
        assert (await probes.port(address, tmp_path / "other", None)).port is Port.TAKEN


@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("/ip4/192.0.2.77/tcp/4002", Port.FOREIGN),
        ("nonsense", Port.MALFORMED),
        ("/dns4/a.example/tcp/1", Port.MALFORMED),
    ],
)
async def test_addresses_at_which_nobody_can_listen(tmp_path, address, port):
    assert (await probes.port(address, tmp_path, None)).port is port


async def test_a_port_that_is_forbidden(tmp_path, monkeypatch):
    from hivemind_p2p.errors import NetworkError

    async def forbid(_address):
        raise NetworkError("cannot listen") from PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(probes, "check_free", forbid)
    fact = await probes.port("/ip4/0.0.0.0/tcp/80", tmp_path, None)
    assert (fact.port, fact.number) == (Port.FORBIDDEN, 80)
    assert "Permission denied" in fact.detail


async def test_addresses_are_sorted_by_who_can_use_them(monkeypatch):
    import psutil

    def entry(family, address):
        return SimpleNamespace(family=family, address=address)

    def state(up):
        return SimpleNamespace(isup=up)

    v4, v6 = socket.AF_INET, socket.AF_INET6
    interfaces = {
        "lo": [entry(v4, "127.0.0.1"), entry(v6, "::1")],
        "eth0": [entry(v4, "192.168.0.7"), entry(v6, "fe80::1%eth0"), entry(v6, "2a00:1450::1")],
        "eth1": [entry(v4, "8.8.4.4")],
        "down": [entry(v4, "8.8.8.8")],
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {name: state(name != "down") for name in interfaces})
    fact = await probes.addresses()
    assert (fact.public4, fact.private4, fact.public6) == (("8.8.4.4",), ("192.168.0.7",), ("2a00:1450::1",))


async def test_a_folder_that_is_there_and_one_that_would_be_made(tmp_path):
    for path in (tmp_path, tmp_path / "a" / "b"):
        fact = await probes.folder(path)
        assert fact.writable
        assert fact.free > 0
        assert fact.speed > 0
        assert not fact.running
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_a_peer_uses(tmp_path):
    with owned_folder(tmp_path / "data", "peer") as folder:
        assert (await probes.folder(folder)).running
    assert not is_in_use(tmp_path / "data")
    assert not is_in_use(tmp_path / "nothing")


async def test_a_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    fact = await probes.folder(tmp_path / "file" / "data")
    assert not fact.writable
    assert fact.detail


@pytest.mark.parametrize(
    ("number", "full", "words"),
    [(errno.ENOSPC, True, "No space"), (errno.EDQUOT, True, "quota"), (errno.EROFS, False, "Read-only")],
)
async def test_a_disk_that_cannot_be_written(tmp_path, monkeypatch, number, full, words):
    def fail(_place):
        raise OSError(number, __import__("os").strerror(number))

    monkeypatch.setattr(probes, "_write", fail)
    fact = await probes.folder(tmp_path)
    assert (fact.writable, fact.full) == (False, full)
    assert words in fact.detail


async def test_memory_and_files():
    assert (await probes.memory(Settings(memory=5))).lent == 5
    fact = await probes.memory(Settings())
    assert 0 < fact.lent == fact.total // 2
    limits = await probes.open_files()
    assert 0 < limits.soft <= limits.hard


async def test_no_sandbox_wanted_or_installed(monkeypatch):
    assert (await probes.sandbox("none")).wanted == "none"
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("hivemind_p2p.worker.kernel.landlock_abi", lambda: 0)
    fact = await probes.sandbox("auto")
    assert not fact.installed
    assert not fact.works


@pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is Linux's")
async def test_a_sandbox_that_does_not_work(monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    fact = await probes.sandbox("bubblewrap")
    assert fact.installed
    assert not fact.works
    assert "No permissions" in fact.detail


@pytest.mark.skipif(sys.platform != "linux", reason="cgroups are Linux's")
async def test_whether_there_are_cgroups(monkeypatch, tmp_path):
    def find(*, only_look):
        assert only_look
        raise NoCgroupsError("it says no")

    monkeypatch.setattr("hivemind_p2p.worker.cgroups.find", find)
    assert await probes.cgroup() == CgroupFact(True, detail="it says no")
    monkeypatch.setattr("hivemind_p2p.worker.cgroups.find", lambda *, only_look: None)
    assert await probes.cgroup() == CgroupFact(True, available=True)


async def test_torch_that_cannot_be_loaded(monkeypatch):
    monkeypatch.setattr(probes, "_TORCH", "import no_such_torch")
    fact = await probes.torch(2)
    assert (fact.version, fact.threads) == ("", 2)
    assert fact.cores >= 1
    assert fact.detail == "ModuleNotFoundError: No module named 'no_such_torch'"


async def test_torch_that_crashes(monkeypatch):
    monkeypatch.setattr(probes, "_TORCH", "import os; os.abort()")
    fact = await probes.torch(1)
    assert not fact.version
    assert fact.detail


async def test_torch_that_is_there(monkeypatch):
    monkeypatch.setattr(probes, "_TORCH", 'print(\'{"version": "2.6"}\')')
    assert (await probes.torch(1)).version == "2.6"


async def test_gpus_by_their_driver(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (await probes.gpu()).names == ()
    driver = tmp_path / "nvidia-smi"
    for text, names in (
        ("echo 'NVIDIA H100'; echo 'NVIDIA L4'", ("NVIDIA H100", "NVIDIA L4")),
        ("echo no; exit 9", ()),
    ):
        driver.write_text(f"#!/bin/sh\n{text}\n")
        driver.chmod(0o755)
        assert (await probes.gpu()).names == names


async def test_versions_are_those_of_the_packages(monkeypatch):
    wanted = ["trio>=0.1", "trio<0.1", "no-such-package", "colorama; sys_platform == 'nowhere'"]
    monkeypatch.setattr(probes.importlib.metadata, "requires", lambda _: wanted)
    unsuitable = (await probes.versions()).unsuitable
    assert len(unsuitable) == 2
    assert unsuitable[0].startswith("trio ")
    assert "needs <0.1" in unsuitable[0]
    assert unsuitable[1] == "no-such-package is missing"


def test_what_others_say_is_cut():
    assert probes.short("a\n b. ") == "a b"
    assert len(probes.short("x" * 1000)) < 130
