"""Measures this machine: ports, addresses, disk, memory, sandbox, torch, versions. Leaves nothing behind."""

from __future__ import annotations

import errno
import importlib.metadata
import ipaddress
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import trio

from hivemind_p2p import __version__
from hivemind_p2p.config import Settings
from hivemind_p2p.data_folder import is_in_use
from hivemind_p2p.doctor.machine_facts import (
    AddressesFact,
    CgroupFact,
    FolderFact,
    GpuFact,
    MemoryFact,
    OpenFilesFact,
    Port,
    PortFact,
    SandboxFact,
    TorchFact,
    VersionsFact,
)
from hivemind_p2p.errors import AddressError, HivemindError, NetworkError, PortInUseError, SandboxError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.addresses import tcp_endpoint
from hivemind_p2p.net.knocking import Outcome, knock_at
from hivemind_p2p.net.listening import check_free

WRITTEN: Final = 4 << 20
"""Bytes written to see how fast the disk is: a fraction of a second on a slow memory card."""

LONGEST_DETAIL: Final = 120
"""Characters of what the system said: enough to look it up, not enough to fill the screen."""

_TORCH: Final = "import torch, json, sys; json.dump({'version': torch.__version__}, sys.stdout)"

_SWITCHES: Final = (
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("user/max_user_namespaces", "0", "15000"),
)
"""Settings of the kernel that forbid bubblewrap's walls: name, value that forbids, value that allows."""


def short(text: object) -> str:
    """What the system or another peer said, in part of a line and without a full stop."""
    words = " ".join(str(text).split()).rstrip(".")
    return words if len(words) <= LONGEST_DETAIL else f"{words[:LONGEST_DETAIL]}..."


async def port(address: str, folder: Path, secret: bytes | None) -> PortFact:
    """Whether a peer could listen at an address, and if not, why not."""
    try:
        host, number = tcp_endpoint(address)
        loopback = not host[0].isalpha() and ipaddress.ip_address(host).is_loopback
        await check_free(address)
    except PortInUseError:
        own = await _own_peer_answers(host, number, folder, secret)
        holder = "" if own else await trio.to_thread.run_sync(_holder, number, abandon_on_cancel=True)
        return PortFact(address, Port.OWN if own else Port.TAKEN, number, loopback, holder or "another program")
    except AddressError as error:
        foreign = "is not an address of this machine" in error.message
        kind = Port.FOREIGN if foreign else Port.MALFORMED
        return PortFact(address, kind, number if foreign else 0, detail=short(error.message))
    except NetworkError as error:
        return PortFact(address, Port.FORBIDDEN, number, loopback, detail=short(error.__cause__ or error.message))
    return PortFact(address, Port.FREE, number, loopback)


async def _own_peer_answers(host: str, number: int, folder: Path, secret: bytes | None) -> bool:
    """Whether it is this folder's own peer that listens there: it proves that like any other."""
    key = folder / "identity.key"
    if not key.exists():
        return False
    try:
        own = Identity.load_or_create(key).peer_id
    except HivemindError:
        return False
    ip = ipaddress.ip_address(host)
    place = ("127.0.0.1" if ip.version == 4 else "::1") if ip.is_unspecified else host
    knock = await knock_at(f"/ip{ip.version}/{place}/tcp/{number}", Identity.generate(), own, secret=secret)
    return knock.outcome is Outcome.WELCOME


def _holder(number: int) -> str:
    """The program that listens at a port, as far as this user may know."""
    import psutil

    try:
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.pid
            if listens and getattr(connection.laddr, "port", 0) == number:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        return ""
    return ""


async def addresses() -> AddressesFact:
    """The machine's addresses, without loopback and those that reach no further than a cable."""
    import psutil

    stats = psutil.net_if_stats()
    found = [
        ipaddress.ip_address(entry.address.partition("%")[0])
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6) and (name not in stats or stats[name].isup)
    ]
    usable = [ip for ip in found if not (ip.is_loopback or ip.is_link_local)]
    return AddressesFact(
        public4=tuple(str(ip) for ip in usable if ip.version == 4 and ip.is_global),
        private4=tuple(str(ip) for ip in usable if ip.version == 4 and not ip.is_global),
        public6=tuple(str(ip) for ip in usable if ip.version == 6 and ip.is_global),
    )


async def folder(path: Path) -> FolderFact:
    """The data folder, or where it would be made."""
    return await trio.to_thread.run_sync(_look_at_folder, path, abandon_on_cancel=True)


def _look_at_folder(path: Path) -> FolderFact:
    place = next((each for each in (path, *path.absolute().parents) if each.exists()), Path("/"))
    try:
        free = shutil.disk_usage(place).free
        speed = _write(place)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        return FolderFact(str(path), writable=False, full=full, detail=short(error.strerror or error))
    return FolderFact(str(path), writable=True, free=free, speed=speed, running=is_in_use(path))


def _write(place: Path) -> float:
    """Bytes a second. The file has no name, so that nothing stays behind, whatever happens."""
    block = os.urandom(WRITTEN // 4)
    with tempfile.TemporaryFile(dir=place) as file:
        start = time.perf_counter()
        for _ in range(4):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return WRITTEN / max(time.perf_counter() - start, 1e-9)


async def memory(settings: Settings) -> MemoryFact:
    """What there is, and what would be lent."""
    import psutil

    now = psutil.virtual_memory()
    return MemoryFact(now.total, now.available, settings.memory or now.total // 2)


async def open_files() -> OpenFilesFact:
    """The limits of this process, which a peer started from the same terminal has as well."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OpenFilesFact(*(1 << 20 if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard)))


async def sandbox(wanted: str) -> SandboxFact:
    """Starts one task behind each kind of wall until one works, as a peer does when it starts."""
    from hivemind_p2p.worker.process import ChildProcess
    from hivemind_p2p.worker.sandbox import SandboxName, this_machine, walls

    linux = sys.platform == "linux"
    if wanted == "none":
        return SandboxFact(wanted, linux)
    possible = walls(cast("SandboxName", wanted), this_machine())
    detail = ""
    with tempfile.TemporaryDirectory(prefix="hivemind-p2p-doctor-") as scratch:
        for wall in possible:
            try:
                child = await ChildProcess.start(wall, Path(scratch), ())
            except SandboxError as error:
                detail = short(error.message)
                continue
            await child.kill()
            return SandboxFact(wanted, linux, installed=True, works=True, own_user=wall.own_user, wall=wall.name)
    installed = any(wall.name == "bubblewrap" for wall in possible)
    return SandboxFact(wanted, linux, installed=installed, switch=_switch() if installed else "", detail=detail)


async def cgroup() -> CgroupFact:
    """Whether a peer could have the kernel limit tasks as a whole. Changes nothing."""
    from hivemind_p2p.worker import cgroups

    linux = sys.platform == "linux"
    try:
        cgroups.find(only_look=True)
    except cgroups.NoCgroupsError as error:
        return CgroupFact(linux, detail=short(error))
    return CgroupFact(linux, available=True)


def _switch() -> str:
    """The setting of the kernel that forbids walls, as it should be; empty if none does."""
    for name, forbids, allows in _SWITCHES:
        try:
            value = Path("/proc/sys", name).read_text().strip()
        except OSError:
            continue
        if value == forbids:
            return f"{name.replace('/', '.')}={allows}"
    return ""


async def torch(threads: int) -> TorchFact:
    """Loads torch in a process of its own: it takes seconds, and may crash."""
    start = trio.current_time()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    code, out, complaint = await run([sys.executable, "-c", _TORCH])
    if code != 0:
        lines = complaint.strip().splitlines() or [f"it ended with exit status {code}"]
        return TorchFact("", threads=threads, cores=cores, detail=short(lines[-1]))
    version = str(json.loads(out)["version"])
    return TorchFact(version, trio.current_time() - start, threads, cores)


async def gpu() -> GpuFact:
    """What NVIDIA's driver names, if there is one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return GpuFact()
    code, out, _ = await run([program, "--query-gpu=name", "--format=csv,noheader"])
    names = [line.strip() for line in out.splitlines() if line.strip()]
    return GpuFact(tuple(names) if code == 0 else ())


async def versions() -> VersionsFact:
    """The program and its packages."""
    return VersionsFact(__version__, platform.python_version(), tuple(_unsuitable()))


def _unsuitable() -> list[str]:
    """Installed packages whose version this program's own metadata does not allow."""
    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(text) for text in importlib.metadata.requires("hivemind-p2p") or ()]
    except (ImportError, importlib.metadata.PackageNotFoundError):
        return []  # it runs from a folder of sources, and nothing says what it needs
    found = []
    for each in wanted:
        if each.marker is not None and not each.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(each.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{each.name} is missing")
            continue
        if not each.specifier.contains(version, prereleases=True):
            found.append(f"{each.name} {version} (needs {each.specifier})")
    return found


async def run(command: Sequence[str]) -> tuple[int, str, str]:
    """Runs a program to its end; kills it at once when this is cancelled."""

    async def kill(process: trio.Process) -> None:
        process.kill()

    done: Any = await trio.run_process(
        list(command),
        check=False,
        capture_stdout=True,
        capture_stderr=True,
        stdin=subprocess.DEVNULL,
        deliver_cancel=kill,
    )
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
