"""What peers ask one another, as plain records; `wire` turns them into protobuf and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.types import PeerInfo


@dataclass(frozen=True, slots=True)
class SignedBytes:
    """A record as it came off the wire: nothing in it has been looked at."""

    body: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class FindPeers:
    """Asks for the peers that are closest to a point."""

    target: NodeId


@dataclass(frozen=True, slots=True)
class Store:
    """Asks to keep records.

    Attributes:
        records: Which.
        target: A point whose closest peers are asked for at the same time; None for none.
        copy_seconds: Not 0 for copies that a lookup leaves behind: how long they are kept at the most.
    """

    records: tuple[SignedBytes, ...]
    target: NodeId | None = None
    copy_seconds: int = 0


@dataclass(frozen=True, slots=True)
class FindRecords:
    """Asks for the records under a key, and for the peers closest to it.

    Attributes:
        key: Which records.
        after: The signer that the last page ended with; empty for the first page.
        known: The marks of records that the asker has already, which are left out.
    """

    key: str
    after: str = ""
    known: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class ReadMany:
    """Asks for the records under several keys that share their replicas."""

    keys: tuple[str, ...]


Question: TypeAlias = FindPeers | Store | FindRecords | ReadMany


@dataclass(frozen=True, slots=True)
class Request:
    """A question and who asks it."""

    sender: PeerInfo
    question: Question


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the record at `index` of a `Store` was not kept."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to any question.

    Attributes:
        peers: Those closest to the point or key, closest first.
        records: What is kept under the key.
        next: Not empty where there is more: ask again with this as `after`.
        refusals: The records that were not kept.
        kept: Records under the key, known ones included; of several keys, how many were answered.
    """

    peers: tuple[PeerInfo, ...] = ()
    records: tuple[SignedBytes, ...] = ()
    next: str = ""
    refusals: tuple[Refusal, ...] = ()
    kept: int = 0
