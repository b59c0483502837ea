"""The nouns that more than one part of the house uses: frozen records, no behaviour beyond arithmetic."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import NewType

from hivemind_p2p.errors import ConfigurationError

PeerId = NewType("PeerId", str)
"""A libp2p peer id in base58, for example ``12D3KooW...``; an Ed25519 one holds the whole public key."""

Link = NewType("Link", str)
"""The magnet URI of a content: ``magnet:?xt=urn:btmh:1220<sha-256 of the manifest>&dn=<name>``."""

Credits = NewType("Credits", int)
"""An amount in millionths of a credit, so that sums are exact."""

NOTHING = Credits(0)
"""No credits at all."""

CREDIT = Credits(1_000_000)
"""One whole credit."""

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*$", re.IGNORECASE)


def parse_bytes(size: int | str) -> int:
    """Bytes of a size such as ``512MiB``, ``1.5GB`` or 1024.

    Raises:
        ConfigurationError: It is no size, or below zero.
    """
    if isinstance(size, int):
        if size < 0:
            raise ConfigurationError(f"a size cannot be below zero: {size}")
        return size
    match = _SIZE.match(size)
    if match is None:
        raise ConfigurationError(f"not a size: {size!r}", hint="Write it like 512MiB, 1.5GB or 1048576.")
    number, unit, binary = match.groups()
    base = 1024 if binary else 1000
    size_in_bytes = float(number) * base ** " KMGT".index(unit.upper() or " ")
    if not math.isfinite(size_in_bytes):
        raise ConfigurationError("not a size: a number with hundreds of digits")
    return int(size_in_bytes)


def format_credits(amount: int) -> str:
    """An amount for people, for example ``0.012500``."""
    sign = "-" if amount < 0 else ""
    whole, fraction = divmod(abs(amount), CREDIT)
    return f"{sign}{whole}.{fraction:06d}"


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """Who a peer is and where it can be dialled (multiaddrs without the ``/p2p/...`` part)."""

    peer_id: PeerId
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Needs:
    """What a task needs of the machine that runs it.

    Args:
        cpus: Cores kept busy.
        memory: Bytes, or text such as ``"512MiB"``.
        seconds: Wall time after which the task is stopped.
        gpus: GPUs that are its own while it runs.
        gpu_memory: Bytes that each of them has at least, or text such as ``"16GiB"``.
        disk: Bytes that it writes, or text.
        location: Where the peer says that it is, as its offer has it; empty for anywhere.
        software: What the peer must say that it has, each as its offer names it.
        network: Whether it uses the peer's network; few peers lend that.
    """

    cpus: float = 1.0
    memory: int | str = "512MiB"
    seconds: float = 300.0
    gpus: int = 0
    gpu_memory: int | str = 0
    disk: int | str = 0
    location: str = ""
    software: tuple[str, ...] = ()
    network: bool = False

    def __post_init__(self) -> None:
        for name in ("memory", "gpu_memory", "disk"):
            object.__setattr__(self, name, parse_bytes(getattr(self, name)))
        object.__setattr__(self, "software", tuple(self.software))
        if not (0 < self.cpus < math.inf and 0 < self.seconds < math.inf):
            raise ConfigurationError(f"a task needs more than zero cpus and seconds, and an end: {self}")
        if self.gpus < 0 or (self.gpu_memory and not self.gpus):
            raise ConfigurationError(f"a task needs whole GPUs, and memory only of those that it needs: {self}")

    @property
    def memory_bytes(self) -> int:
        """The memory in bytes."""
        return parse_bytes(self.memory)

    @property
    def gpu_memory_bytes(self) -> int:
        """The memory of each GPU in bytes."""
        return parse_bytes(self.gpu_memory)

    @property
    def disk_bytes(self) -> int:
        """The room on the disk in bytes."""
        return parse_bytes(self.disk)


@dataclass(frozen=True, slots=True)
class Prices:
    """What a peer asks, in millionths of a credit."""

    per_task: Credits = Credits(100)
    per_cpu_second: Credits = Credits(1_000)
    per_layer_token: Credits = Credits(1)


@dataclass(frozen=True, slots=True, order=True)
class LayerSpan:
    """The layers ``[start, stop)`` of a model."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.start}-{self.stop - 1}" if len(self) else f"{self.start} (empty)"


@dataclass(frozen=True, slots=True)
class StageOffer:
    """A span of a model that a peer hosts, or is loading."""

    link: Link
    span: LayerSpan
    ready: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """What a peer lends and at what price; travels as a signed, expiring record."""

    peer: PeerInfo
    name: str = ""
    cpus: float = 0.0
    memory_bytes: int = 0
    task_types: tuple[str, ...] = ()
    prices: Prices = field(default_factory=Prices)
    serves_models: bool = False
    stages: tuple[StageOffer, ...] = ()
    served_links: tuple[Link, ...] = ()
    """The models that it hosts layers of; none for any."""
    weight_bytes_free: int = 0
    """Memory that it would still give to models' weights."""
    weight_bytes_per_second: int = 0
    """Weights that it runs through when it computes one token at a time; 0 if that was not measured."""
    relays: bool = False
    gpus: int = 0
    """GPUs that tasks may have."""
    gpu_memory_bytes: int = 0
    """What each of them has; the least, where they differ."""
    disk_bytes: int = 0
    """What one task may write."""
    location: str = ""
    """Where it is, in its user's words, such as ``eu-west``."""
    software: tuple[str, ...] = ()
    """What it has, such as ``python3.11`` or ``ffmpeg``."""
    network: bool = False
    """Whether tasks that ask for it may use its network."""


@dataclass(frozen=True, slots=True)
class Record:
    """What the directory gives back for a key: one signer's newest value, its signature already checked."""

    key: str
    signer: PeerId
    value: bytes
    sequence: int
    expires_at: float


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """The bytes ``[start, stop)`` of a file."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a content: its path inside the content, with ``/`` between the parts, and its bytes."""

    path: str
    length: int


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a fetch is. Bytes count what was asked for, not the whole content.

    Attributes:
        done_bytes: Bytes that are there.
        wanted_bytes: Bytes that were asked for.
        sources: Peers that the content is exchanged with.
        name: Of the content.
        pieces: Where in what was asked for they are: it is cut into equal parts, and a byte for each says how much of
            it is there, from 0 to 255. Empty where that is not told.
        paused: Why nothing moves, if this peer itself is the reason; the fetch goes on by itself.
    """

    done_bytes: int
    wanted_bytes: int
    sources: int
    name: str = ""
    pieces: bytes = b""
    paused: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a piece of work took."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class SharedPart:
    """What many tasks have alike, a packed function as a rule: it is sent to a peer, and to a child, only once.

    Two are the same if they are one object.
    """

    data: bytes


@dataclass(frozen=True, slots=True)
class Input:
    """A file in the swarm that a task reads.

    Attributes:
        link: Which.
        length: Its bytes.
        path: Where it lies on this machine, once it does.
    """

    link: Link
    length: int
    path: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A task as the worker sees it: where it comes from, what to run, what it may use.

    Attributes:
        shared: The part of what to run that it has in common with other tasks.
        priority: Higher ones start first among one caller's.
        stream_output: Whether what it prints is told while it runs.
        inputs: Files that it reads.
    """

    task_id: str
    caller: PeerId
    task_type: str
    payload: bytes
    needs: Needs
    shared: SharedPart | None = None
    priority: int = 0
    stream_output: bool = False
    inputs: tuple[Input, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a piece of work ended.

    Attributes:
        payload: The result as encoded safe values; empty if it failed.
        error_code: Empty if it went well, else the code of the class in `errors`.
        error_message: One sentence.
        remote_traceback: The child's traceback, where there is one.
        output: The end of what the work printed.
        exception: The name of the closest builtin class of what the work raised.
        path: A file that the payload lies in instead, where it is large; whoever is told of the end takes it over.
        length: Its bytes.
    """

    usage: Usage
    payload: bytes = b""
    error_code: str = ""
    error_message: str = ""
    remote_traceback: str = ""
    output: str = ""
    exception: str = ""
    path: str = ""
    length: int = 0
