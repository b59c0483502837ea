"""The children of one executor: who is warm for whom, and one fresh child that stands ready."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import SandboxError
from hivemind_p2p.worker import cgroups
from hivemind_p2p.worker.cgroups import Groups
from hivemind_p2p.worker.gpus import Gpu
from hivemind_p2p.worker.process import ChildProcess
from hivemind_p2p.worker.sandbox import SandboxName, Wall, this_machine, walls

HINT: Final = (
    "Install bubblewrap (`apt install bubblewrap`); or, if you trust everybody whose work you run, go without walls: "
    "--unsafe."
)

SPARE_WARM: Final = 3
"""Children kept warm beyond those that can work at once, so that callers who take turns find theirs again."""

_events = telemetry.source("executor")


class ChildPool:
    """Starts, keeps and ends children.

    Args:
        folder: Where children without a sandbox get their working folders.
        slots: Children kept besides the fresh one.
        wanted: Which sandbox.
        hidden: Folders that no child may see.
        unsafe: Whether children may be started without walls where none can be had.
    """

    def __init__(
        self, folder: Path, slots: int, wanted: SandboxName, hidden: Sequence[str], *, unsafe: bool = False
    ) -> None:
        self._folder = folder
        self._slots = slots
        self._wanted = wanted
        self._hidden = hidden
        self._unsafe = unsafe
        self.wall: Wall | None = None
        self.groups: Groups | None = None
        self.started = 0
        self._idle: deque[ChildProcess] = deque()
        self._busy: list[ChildProcess] = []
        self._spare: ChildProcess | None = None
        self._starting: trio.Event | None = None
        self._start_scope = trio.CancelScope()
        self._closed = False

    async def open(self) -> Wall:
        """Finds the strongest sandbox that works here, and starts the first fresh child in it.

        Raises:
            SandboxError: None works, of those that were asked for.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self.groups = _find_groups()
        failure = SandboxError(_missing(self._wanted))
        for wall in walls(self._wanted, this_machine(), unsafe=self._unsafe):
            try:
                self._spare = await self._try(wall)
            except SandboxError as error:
                failure = error
                _events.warning("sandbox_unavailable", sandbox=wall.name, own_user=wall.own_user, error=error.message)
                continue
            self.wall = wall
            return wall
        raise SandboxError(f"no sandbox of kind {self._wanted!r} works here: {failure.message}", hint=HINT)

    async def _try(self, wall: Wall) -> ChildProcess:
        """The first child behind a wall: also without a cgroup, if it is that what fails."""
        try:
            return await self._start(wall)
        except SandboxError as error:
            if self.groups is None:
                raise
            groups, self.groups = self.groups, None
            try:
                child = await self._start(wall)
            except SandboxError:
                self.groups = groups
                raise
            _events.warning("no_cgroup", reason=error.message)
            return child

    def warm(self, key: Hashable) -> ChildProcess | None:
        """An idle child that has served this key before. Give it back or discard it."""
        for child in reversed(self._idle):
            if child.key == key:
                self._idle.remove(child)
                self._busy.append(child)
                return child
        return None

    async def take(self, key: Hashable, gpus: Sequence[Gpu] = (), *, network: bool = False) -> ChildProcess:
        """A fresh child for this key, with these GPUs, and with the network or without. Give it back or discard it.

        Raises:
            SandboxError: It could not be started.
        """
        while self._idle and len(self._idle) + len(self._busy) >= self._slots + SPARE_WARM:
            await self._idle.popleft().kill()
        child = await self._with(gpus, network=network) if gpus or network else await self._fresh()
        child.key = key
        self._busy.append(child)
        self._start_spare()
        return child

    async def _with(self, gpus: Sequence[Gpu], *, network: bool) -> ChildProcess:
        if self.wall is None or self._closed:
            raise SandboxError("this peer is closing")
        return await self._start(replace(self.wall, network=network), gpus)

    async def _fresh(self) -> ChildProcess:
        while self._spare is None and self._starting is not None:
            await self._starting.wait()
        child, self._spare = self._spare, None
        if child is not None and child.alive():
            return child
        if self.wall is None or self._closed:
            raise SandboxError("this peer is closing")
        return await self._start(self.wall)

    def give_back(self, child: ChildProcess) -> None:
        """Keeps a child warm for its caller."""
        self._busy.remove(child)
        self._idle.append(child)

    async def discard(self, child: ChildProcess) -> None:
        """Ends a child, also while being cancelled."""
        self._drop(child)
        await child.kill()

    def discard_soon(self, child: ChildProcess) -> None:
        """Ends a child at once, and tidies up after it in the background. It may be an idle one."""
        self._drop(child)
        child.kill_now()
        trio.lowlevel.spawn_system_task(child.kill)

    def _drop(self, child: ChildProcess) -> None:
        for children in (self._busy, self._idle):
            if child in children:
                children.remove(child)

    async def _start(self, wall: Wall, gpus: Sequence[Gpu] = ()) -> ChildProcess:
        group = self.groups.make() if self.groups is not None else None
        child = await ChildProcess.start(wall, self._folder, self._hidden, group, gpus)
        self.started += 1
        return child

    def _start_spare(self) -> None:
        if self._spare is None and self._starting is None and not self._closed:
            self._starting = trio.Event()
            # A system task, because a nursery around the executor's block would wrap the block's own errors.
            trio.lowlevel.spawn_system_task(self._fill_spare, self._starting)

    async def _fill_spare(self, done: trio.Event) -> None:
        try:
            with self._start_scope:
                assert self.wall is not None
                self._spare = await self._start(self.wall)
        except SandboxError as error:
            _events.error("child_not_started", error=error.message)  # the next task tries again, and says so
        finally:
            self._starting = None
            self._start_scope = trio.CancelScope()
            done.set()

    async def close(self) -> None:
        """Kills all children, also while being cancelled."""
        self._closed = True
        with trio.CancelScope(shield=True):
            if self._starting is not None:
                starting = self._starting
                self._start_scope.cancel()
                await starting.wait()
            children = [*self._idle, *self._busy, *([self._spare] if self._spare else [])]
            self._spare = None
            self._idle.clear()
            for child in children:
                child.kill_now()
            for child in children:
                await child.kill()


def _find_groups() -> Groups | None:
    try:
        return cgroups.find()
    except cgroups.NoCgroupsError as error:
        _events.info("no_cgroup", reason=str(error))
        return None


def _missing(wanted: SandboxName) -> str:
    """Why there is not even one to try."""
    reasons = {
        "bubblewrap": "bubblewrap is not installed on this machine",
        "landlock": "this kernel has no Landlock of version 3 (Linux 6.2), or it is switched off",
    }
    return reasons.get(wanted, "; ".join(reasons.values()))
