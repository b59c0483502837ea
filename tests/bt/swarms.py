"""A small hive for the tests: peers on a memory network, and a directory that is one dictionary."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from hivemind_p2p.bt.concurrency import inline
from hivemind_p2p.bt.hashing import hash_span, piece_leaves
from hivemind_p2p.bt.metainfo import Manifest, choose_piece_length
from hivemind_p2p.bt.metainfo_codec import HashedFile, build
from hivemind_p2p.bt.service import SwarmService
from hivemind_p2p.errors import PeerUnreachableError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.memory import MemoryNetwork, MemoryTransport
from hivemind_p2p.net.router import Router
from hivemind_p2p.types import PeerId, PeerInfo, Record


@dataclass
class Noticeboard:
    """What all directories of a test share."""

    records: dict[str, dict[PeerId, bytes]] = field(default_factory=dict)
    addresses: dict[PeerId, tuple[str, ...]] = field(default_factory=dict)


class BoardDirectory:
    def __init__(self, board: Noticeboard, peer_id: PeerId) -> None:
        self.board = board
        self.peer_id = peer_id

    async def publish(self, key: str, value: bytes, *, lifetime: float) -> None:
        await trio.lowlevel.checkpoint()
        self.board.records.setdefault(key, {})[self.peer_id] = value

    async def withdraw(self, key: str) -> None:
        await self.publish(key, b"", lifetime=1.0)

    async def lookup(self, key: str) -> tuple[Record, ...]:
        await trio.lowlevel.checkpoint()
        signers = self.board.records.get(key, {})
        return tuple(Record(key, signer, value, 1, 2e9) for signer, value in signers.items())

    async def find_peer(self, peer: PeerId) -> PeerInfo:
        await trio.lowlevel.checkpoint()
        if peer not in self.board.addresses:
            raise PeerUnreachableError(f"nobody knows {peer}")
        return PeerInfo(peer, self.board.addresses[peer])


@dataclass
class Member:
    peer_id: PeerId
    transport: MemoryTransport
    network: Router
    directory: BoardDirectory
    swarm: SwarmService
    folder: Path


class Hive:
    """Peers of one test; `member` makes one more."""

    def __init__(self, nursery: trio.Nursery, folder: Path, network: MemoryNetwork) -> None:
        self.nursery = nursery
        self.folder = folder
        self.network = network
        self.board = Noticeboard()

    def peer(self, identity: Identity | None = None) -> tuple[MemoryTransport, Router, BoardDirectory]:
        transport = self.network.join(identity or Identity.generate())
        self.board.addresses[transport.peer_id] = transport.addresses
        return transport, Router(transport, self.nursery), BoardDirectory(self.board, transport.peer_id)

    def member(self, name: str, identity: Identity | None = None, **options: Any) -> Member:
        transport, router, directory = self.peer(identity)
        folder = self.folder / name
        options = {"run_sync": inline, "seed": 1, "clock": lambda: 1.7e9, **options}
        swarm = SwarmService(router, directory, folder, **options)
        self.nursery.start_soon(swarm.run)
        return Member(transport.peer_id, transport, router, directory, swarm, folder)


@asynccontextmanager
async def hive(folder: Path, **network: Any):
    async with trio.open_nursery() as nursery:
        yield Hive(nursery, folder, MemoryNetwork(**network))
        nursery.cancel_scope.cancel()


def some_bytes(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def make_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder


def manifest_of(path: Path, piece_length: int | None = None) -> Manifest:
    """The manifest of a folder, without the service."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    piece_length = piece_length or choose_piece_length(sum(file.stat().st_size for file in files))
    hashed = [hashed_file(file, file.relative_to(path).parts, piece_length) for file in files]
    return build(path.name, piece_length, hashed)


def hashed_file(file: Path, parts: tuple[str, ...], piece_length: int) -> HashedFile:
    length = file.stat().st_size
    leaves = piece_leaves(length, piece_length)
    return HashedFile(parts, length, hash_span(file, start=0, stop=length, leaves=leaves))


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
