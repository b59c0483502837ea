"""What the doctor measures of this machine: plain records without judgement. Times are in seconds, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hivemind_p2p.doctor.words import in_bytes


class Port(Enum):
    """What came of trying to listen."""

    FREE = "free"
    OWN = "own"
    TAKEN = "taken"
    FOREIGN = "foreign"
    FORBIDDEN = "forbidden"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class PortFact:
    """One address to listen at.

    Attributes:
        address: The multiaddr.
        port: What came of it.
        number: The port's number; 0 for any free one.
        loopback: Whether only this machine can call there.
        holder: Who has it, ``nginx (process 812)``; empty where that cannot be seen.
        detail: What the system said.
    """

    address: str
    port: Port
    number: int = 0
    loopback: bool = False
    holder: str = ""
    detail: str = ""

    @property
    def other(self) -> str:
        """The same address with the next port."""
        return self.address.replace(f"/tcp/{self.number}", f"/tcp/{self.number % 65_535 + 1}")


@dataclass(frozen=True, slots=True)
class AddressesFact:
    """The addresses of this machine.

    Attributes:
        public4: Public IPv4 addresses.
        private4: Those of home and office networks.
        public6: Public IPv6 addresses.
    """

    public4: tuple[str, ...] = ()
    private4: tuple[str, ...] = ()
    public6: tuple[str, ...] = ()

    @property
    def public(self) -> str:
        """The public addresses, for people."""
        return ", ".join((*self.public4, *self.public6)[:2])

    @property
    def private(self) -> str:
        """The others, for people."""
        return ", ".join(self.private4[:2])


@dataclass(frozen=True, slots=True)
class FolderFact:
    """The data folder.

    Attributes:
        path: Where.
        writable: Whether something can be written there.
        free: Bytes left for this user.
        speed: Bytes a second, written and synced; 0 where it was not measured.
        running: Whether a peer uses the folder now.
        full: Whether writing failed for lack of room.
        detail: What the system said.
    """

    path: str
    writable: bool
    free: int = 0
    speed: float = 0.0
    running: bool = False
    full: bool = False
    detail: str = ""

    @property
    def free_text(self) -> str:
        """For people."""
        return in_bytes(self.free)

    @property
    def speed_text(self) -> str:
        """For people."""
        return in_bytes(self.speed)


@dataclass(frozen=True, slots=True)
class MemoryFact:
    """The machine's memory.

    Attributes:
        total: All of it.
        available: What programs can have without swapping.
        lent: What the settings lend.
    """

    total: int
    available: int
    lent: int

    @property
    def half(self) -> str:
        """Half of what is there, as the settings write it."""
        return f"{max(1, min(self.total // 2, self.available) >> 20)}MiB"

    @property
    def total_text(self) -> str:
        """For people."""
        return in_bytes(self.total)

    @property
    def available_text(self) -> str:
        """For people."""
        return in_bytes(self.available)

    @property
    def lent_text(self) -> str:
        """For people."""
        return in_bytes(self.lent)


@dataclass(frozen=True, slots=True)
class OpenFilesFact:
    """How many files and connections a process may have open.

    Attributes:
        soft: The limit.
        hard: What it can be raised to without being root.
    """

    soft: int
    hard: int

    @property
    def better(self) -> int:
        """What to raise it to."""
        return min(self.hard, 4096)


@dataclass(frozen=True, slots=True)
class SandboxFact:
    """The walls around tasks.

    Attributes:
        wanted: What the settings ask for: ``auto``, ``bubblewrap``, ``landlock`` or ``none``.
        linux: Whether this is a system that has walls.
        installed: Whether bubblewrap is there.
        works: Whether a task could be started behind its walls.
        own_user: Whether each task is a user of its own.
        switch: The kernel's setting that forbids it, as it should be.
        detail: What went wrong.
        wall: Which walls work: ``bubblewrap`` or ``landlock``.
    """

    wanted: str
    linux: bool
    installed: bool = False
    works: bool = False
    own_user: bool = False
    switch: str = ""
    detail: str = ""
    wall: str = "bubblewrap"


@dataclass(frozen=True, slots=True)
class CgroupFact:
    """Limits of the kernel's for a task and all that it starts.

    Attributes:
        linux: Whether this is a system that has them.
        available: Whether a peer could set them.
        detail: Why not, as the end of a sentence.
    """

    linux: bool
    available: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TorchFact:
    """Torch, as a process of its own sees it.

    Attributes:
        version: Empty where it is not installed or cannot be loaded.
        seconds: How long loading took.
        threads: What a stage computes with, by the settings.
        cores: Cores that this process may use.
        detail: What went wrong.
    """

    version: str
    seconds: float = 0.0
    threads: int = 1
    cores: int = 1
    detail: str = ""


@dataclass(frozen=True, slots=True)
class GpuFact:
    """The machine's graphics processors, as its driver names them."""

    names: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """For people."""
        return ", ".join(self.names)


@dataclass(frozen=True, slots=True)
class VersionsFact:
    """The program and what it stands on.

    Attributes:
        hivemind: This program.
        python: The interpreter.
        unsuitable: Packages whose version is not one that this program was made for: ``libp2p 0.9 (needs <0.9)``.
    """

    hivemind: str
    python: str
    unsuitable: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What is unsuitable, for people."""
        return ", ".join(self.unsuitable)


@dataclass(frozen=True, slots=True)
class ReachabilityFact:
    """Who can call this peer, as its own service for that sees it from inside the hive.

    Attributes:
        reachability: ``public``, ``private`` or ``unknown``.
        nat: ``none``, ``cone``, ``symmetric``, ``blocked`` or ``unknown``.
        gateway: What the router answered when asked for a port: ``untried``, ``absent``, ``refused`` or ``mapped``.
        observed: The address at which others see this machine.
        relayed: Whether others reach it through a relay only.
        can_punch: Whether a relayed connection can become a direct one.
        ip6: Whether the machine has a public IPv6 address.
        witnesses: How many peers have tried to call back.
        listens: Whether the settings let anybody but this machine call.
        hive_is_local: Whether the hive's bootstrap is on this machine.
    """

    reachability: str
    nat: str = "unknown"
    gateway: str = "untried"
    observed: str = ""
    relayed: bool = False
    can_punch: bool = False
    ip6: bool = False
    witnesses: int = 0
    listens: bool = True
    hive_is_local: bool = False
