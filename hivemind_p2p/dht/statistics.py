"""What the directory says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DirectoryStatistics:
    """What the directory has done since the start.

    Attributes:
        peers: Peers in the routing table now.
        records: Records that this peer keeps for the hive now.
        record_bytes: Their bytes.
        published: Records that this peer keeps alive now.
        lookups: Lookups of any kind that it made.
        requests: Requests that it sent.
        failures: Those that failed.
        answered: Requests of others that it answered.
        refused: Records that it refused, asked to store them or reading them: forged, expired, no room.
        standard_answered: Requests in libp2p's standard Kademlia messages that it answered.
        written: Changes to records that were written to the disk.
        clock_correction: Seconds by which the machine's clock is put right (see `hive_clock`).
    """

    peers: int
    records: int
    record_bytes: int
    published: int
    lookups: int
    requests: int
    failures: int
    answered: int
    refused: int
    standard_answered: int
    written: int
    clock_correction: float
