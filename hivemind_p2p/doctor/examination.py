"""All probes at once, each with a deadline, so that the whole is done in seconds even where everything hangs."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.config import Settings, data_folder, keep_torch_files_in
from hivemind_p2p.doctor import machine_probes
from hivemind_p2p.doctor.findings import Finding, Unmeasured
from hivemind_p2p.doctor.hive_probes import hive, key_file
from hivemind_p2p.doctor.judgement import judge
from hivemind_p2p.errors import HiveKeyError

DEADLINE: Final = 8.0
"""Seconds for everything; what is not known by then is told as such."""

_events = telemetry.source("doctor")


async def examine(settings: Settings, show: Callable[[Finding], None]) -> list[Finding]:
    """Measures everything and says what it means.

    Args:
        settings: What the peer would be started with.
        show: Called with each finding as soon as it is there.

    Returns:
        The findings, in the order in which they came.
    """
    with tempfile.TemporaryDirectory(prefix="hivemind-p2p-doctor-") as scratch:
        keep_torch_files_in(Path(scratch) / "torch")
        examination = _Examination(settings, show)
        with trio.move_on_after(DEADLINE):
            await examination.run()
        examination.say_what_is_missing()
    return examination.findings


class _Examination:
    """One run: which facts have come, and which are still awaited."""

    def __init__(self, settings: Settings, show: Callable[[Finding], None]) -> None:
        self._settings = settings if settings.data is not None else replace(settings, data=data_folder())
        self._show = show
        self.findings: list[Finding] = []
        self._awaited = {"bootstrap", "clock", "directory", "account", "reachability"}

    async def run(self) -> None:
        """Every probe, to its end."""
        settings = self._settings
        assert settings.data is not None
        folder = settings.data
        probes: list[tuple[str, Callable[[], Awaitable[object]]]] = [
            ("addresses", machine_probes.addresses),
            ("folder", lambda: machine_probes.folder(folder)),
            ("memory", lambda: machine_probes.memory(settings)),
            ("open files", machine_probes.open_files),
            ("sandbox", lambda: machine_probes.sandbox(settings.sandbox)),
            ("cgroup", machine_probes.cgroup),
            ("torch", lambda: machine_probes.torch(settings.threads)),
            ("gpu", machine_probes.gpu),
            ("versions", machine_probes.versions),
        ]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hive)
            nursery.start_soon(self._probe, "port", lambda: self._ports(folder))
            for check, probe in probes:
                nursery.start_soon(self._probe, check, probe)

    async def _hive(self) -> None:
        await self._guarded("bootstrap", lambda: hive(self._settings, self._tell))

    async def _probe(self, check: str, probe: Callable[[], Awaitable[object]]) -> None:
        self._awaited.add(check)

        async def measure() -> None:
            fact = await probe()
            if fact is not None:
                self._tell(fact)

        await self._guarded(check, measure)
        self._awaited.discard(check)

    async def _guarded(self, check: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            # The doctor goes on where something is broken in a way that nobody has thought of: that is what it is for.
            _events.error("probe_failed", check=check, error=repr(error))
            self._tell(Unmeasured(check, machine_probes.short(f"{type(error).__name__}: {error}")))

    async def _ports(self, folder: Path) -> None:
        """Each address to listen at."""
        try:
            secret, _ = key_file(self._settings.hive_key)
        except HiveKeyError:
            secret = None
        for address in self._settings.listen:
            self._tell(await machine_probes.port(address, folder, secret))

    def _tell(self, fact: object) -> None:
        finding = judge(fact)
        self._awaited.discard(finding.check)
        self.findings.append(finding)
        self._show(finding)

    def say_what_is_missing(self) -> None:
        """For whatever has come to no end."""
        for check in sorted(self._awaited):
            self._tell(Unmeasured(check, f"it took longer than {DEADLINE:g} seconds"))
