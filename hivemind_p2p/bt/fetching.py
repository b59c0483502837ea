"""Performs what `download` decides: finds sources, talks to each, checks and stores what they send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.bt.concurrency import RunSync, close, nursery_of_one, within
from hivemind_p2p.bt.contents import Content
from hivemind_p2p.bt.download import Action, Ban, Done, Download, Drop, Request
from hivemind_p2p.bt.serving import patience, receive
from hivemind_p2p.bt.sources import FIRST_WAIT, LONGEST_WAIT, Sources
from hivemind_p2p.bt.wire import (
    Block,
    Have,
    Hello,
    Holding,
    Message,
    Piece,
    Refusal,
    decode_holding,
    encode,
    largest_payload,
)
from hivemind_p2p.bt.wire import Request as WireRequest
from hivemind_p2p.defaults import IDLE_DEADLINE, REQUEST_DEADLINE
from hivemind_p2p.errors import HivemindError, NoSourceError, ProtocolError
from hivemind_p2p.interfaces import Channel, Progress
from hivemind_p2p.types import FetchProgress, PeerId

MOST_CONNECTED = 32
"""Sources at the same time: more bring no more speed, and each costs a channel."""

LOOK_AGAIN = 10.0
"""Seconds after which the directory is asked for more sources while pieces arrive."""

TICK = 1.0
"""Seconds between two looks at the deadlines."""

MOST_ATTEMPTS = 5
"""Times that a source is tried without getting a piece from it."""

STORERS = 2
"""Threads that check and write at the same time."""

WAITING_BYTES = 8 * 1024 * 1024
"""Bytes of pieces that wait to be checked and written before receiving pauses."""

_events = telemetry.source("swarm")

_Arrival: TypeAlias = "tuple[PeerId, int, memoryview]"


@dataclass(slots=True)
class _Attempts:
    count: int = 0
    not_before: float = 0.0


class Fetch:
    """Fetches missing pieces of one content.

    Args:
        sources: Who has it.
        content: Where the pieces go.
        missing: Which, in the order in which equally rare ones are asked for.
        run_sync: Runs what blocks.
        announce: Makes this peer known as a source; called once the first piece is there.
        progress: Told about each piece, with the bytes that were there before counted in.
        had_bytes: Bytes of what is wanted that were there before.
    """

    def __init__(
        self,
        sources: Sources,
        content: Content,
        missing: Sequence[int],
        *,
        run_sync: RunSync,
        announce: Callable[[], Awaitable[None]],
        progress: Progress | None,
        had_bytes: int,
    ) -> None:
        self._sources = sources
        self._content = content
        self._manifest = content.store.manifest
        self._run_sync = run_sync
        self._announce: Callable[[], Awaitable[None]] | None = announce
        self._progress = progress
        self._done_bytes = had_bytes
        self._wanted_bytes = had_bytes + sum(self._manifest.piece(piece).length for piece in missing)
        self._wanted_pieces = len(missing)
        self._download = Download(
            self._manifest.pieces,
            missing,
            piece_length=self._manifest.piece_length,
            patience=patience(self._manifest.piece_length),
            now=trio.current_time(),
        )
        self._download.banned.update(PeerId(peer) for peer in content.banned)
        self._attempts: dict[PeerId, _Attempts] = {}
        self._scopes: dict[PeerId, trio.CancelScope] = {}
        self._requests: dict[PeerId, trio.MemorySendChannel[tuple[int, ...]]] = {}
        self._done = trio.Event()
        self._look = trio.Event()
        waiting = max(1, WAITING_BYTES // self._manifest.piece_length)
        self._arrivals, self._to_store = trio.open_memory_channel[_Arrival](waiting)

    async def run(self) -> None:
        """Returns once every missing piece is stored.

        Raises:
            NoSourceError: Nothing moved for as long as a transfer may be idle. What has arrived is kept.
            DiskFullError: There is no room. What has arrived is kept.
            ContentError: The files cannot be written.
        """
        async with nursery_of_one() as nursery:
            self._nursery = nursery
            for _ in range(STORERS):
                nursery.start_soon(self._store_arrivals)
            nursery.start_soon(self._find_sources)
            nursery.start_soon(self._watch)
            await self._done.wait()
            nursery.cancel_scope.cancel()

    # -- sources -----------------------------------------------------------------------------------------------------

    async def _find_sources(self) -> None:
        wait = FIRST_WAIT
        while True:
            self._look = trio.Event()
            for peer in await self._sources.find():
                self._consider(peer)
            moving = bool(self._download.sources) and self._download.stalled_for(trio.current_time()) == 0
            wait = FIRST_WAIT if moving else min(wait * 2, LONGEST_WAIT)
            with trio.move_on_after(LOOK_AGAIN if moving else wait):
                await self._look.wait()
                # The last source is gone: ask again soon, but not at once, for it may fail again and again.
                await trio.sleep(FIRST_WAIT)

    def _consider(self, peer: PeerId) -> None:
        attempts = self._attempts.setdefault(peer, _Attempts())
        if peer in self._scopes or peer in self._download.banned or len(self._scopes) >= MOST_CONNECTED:
            return
        if attempts.count >= MOST_ATTEMPTS or trio.current_time() < attempts.not_before:
            return
        attempts.count += 1
        attempts.not_before = trio.current_time() + FIRST_WAIT * 2**attempts.count
        self._scopes[peer] = trio.CancelScope()
        self._nursery.start_soon(self._use_source, peer)

    async def _use_source(self, peer: PeerId) -> None:
        try:
            with self._scopes[peer]:
                await self._converse(peer)
        except HivemindError as error:
            self._sources.failures[peer] = error.message
            _events.debug("source_failed", peer=peer, content=self._manifest.name, error=error.message)
        finally:
            del self._scopes[peer]
            self._requests.pop(peer, None)
        self._perform(self._download.source_left(peer, trio.current_time()))
        if not self._download.sources:
            self._look.set()

    async def _converse(self, peer: PeerId) -> None:
        channel = await self._sources.open(peer)
        try:
            with within(REQUEST_DEADLINE, f"the bitfield of peer {peer}"):
                await channel.send(encode(Hello(self._sources.infohash)))
                message, payload = await receive(channel, max_payload=largest_payload(self._manifest))
            if not isinstance(message, Holding):
                raise ProtocolError(f"peer {peer} answered a hello with a {type(message).__name__}")
            held = decode_holding(message, payload, self._manifest.pieces)
            self._sources.failures[peer] = f"it holds {len(held)} of {held.length} pieces"
            self._requests[peer], to_ask = trio.open_memory_channel[tuple[int, ...]](self._manifest.pieces)
            async with nursery_of_one() as nursery:
                nursery.start_soon(self._send_requests, channel, to_ask)
                self._perform(self._download.source_joined(peer, held, trio.current_time()))
                while True:
                    message, payload = await receive(channel, max_payload=largest_payload(self._manifest))
                    await self._hear(peer, message, payload)
        finally:
            await close(channel)

    async def _send_requests(self, channel: Channel, to_ask: trio.MemoryReceiveChannel[tuple[int, ...]]) -> None:
        async for pieces in to_ask:
            blocks = tuple(Block(piece, 0, self._manifest.piece(piece).length) for piece in pieces)
            with within(REQUEST_DEADLINE, f"asking peer {channel.remote}"):
                await channel.send(encode(WireRequest(blocks)))

    async def _hear(self, peer: PeerId, message: Message, payload: memoryview) -> None:
        now = trio.current_time()
        match message:
            case Have(pieces):
                self._perform(self._download.source_has(peer, pieces, now))
            case Refusal(block):
                self._perform(self._download.piece_refused(peer, block.piece, now))
            case Piece(block):
                await self._take_piece(peer, block, payload)
            case _:
                raise ProtocolError(f"peer {peer} sent a {type(message).__name__} out of turn")

    async def _take_piece(self, peer: PeerId, block: Block, payload: memoryview) -> None:
        asked = self._download.expects(peer, block.piece)
        self._perform(self._download.piece_arrived(peer, block.piece, trio.current_time()))
        if asked:
            # A wrong length is found where the piece is checked, and is treated as wrong bytes are.
            await self._arrivals.send((peer, block.piece, payload))

    # -- pieces ------------------------------------------------------------------------------------------------------

    async def _store_arrivals(self) -> None:
        while True:
            batch = [await self._to_store.receive()]
            while len(batch) * self._manifest.piece_length < WAITING_BYTES // STORERS:
                try:
                    batch.append(self._to_store.receive_nowait())
                except trio.WouldBlock:
                    break
            right, failure = await self._run_sync(partial(self._store, batch))
            self._stored([(peer, piece) for peer, piece, _ in batch], right)
            if failure is not None:
                raise failure

    def _store(self, batch: Sequence[_Arrival]) -> tuple[list[bool], HivemindError | None]:
        """Which of them were right and are stored, and what kept the rest from being stored. Blocks."""
        right: list[bool] = []
        for _, piece, data in batch:
            try:
                right.append(self._content.store.write(piece, data))
            except HivemindError as error:
                return right, error
        return right, None

    def _stored(self, batch: Sequence[tuple[PeerId, int]], right: Sequence[bool]) -> None:
        self._content.arrived(piece for (_, piece), is_right in zip(batch, right, strict=False) if is_right)
        for (peer, piece), is_right in zip(batch, right, strict=False):
            now = trio.current_time()
            if not is_right:
                self._perform(self._download.piece_corrupt(peer, piece, now))
                continue
            length = self._manifest.piece(piece).length
            self._content.downloaded_bytes += length
            self._done_bytes += length
            self._attempts[peer].count = 0
            self._perform(self._download.piece_stored(piece, now))
            if self._progress is not None:
                self._progress(FetchProgress(self._done_bytes, self._wanted_bytes, len(self._download.sources)))
        if any(right) and self._announce is not None:
            self._nursery.start_soon(self._announce)
            self._announce = None

    # -- decisions ---------------------------------------------------------------------------------------------------

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Request(source, pieces):
                    if source in self._requests:
                        self._requests[source].send_nowait(pieces)
                case Drop(source, reason):
                    self._leave(source, reason)
                case Ban(source, reason):
                    self._content.banned[source] = reason
                    _events.warning("source_banned", peer=source, content=self._manifest.name, reason=reason)
                    self._leave(source, reason)
                case Done():
                    self._done.set()

    def _leave(self, source: PeerId, reason: str) -> None:
        self._sources.failures[source] = reason
        if source in self._scopes:
            self._scopes[source].cancel()

    async def _watch(self) -> None:
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            if self._arrivals.statistics().tasks_waiting_send == 0:
                # Otherwise it is this peer's disk that is slow, for which no source is to blame.
                self._perform(self._download.tick(now))
            if self._download.stalled_for(now) > IDLE_DEADLINE:
                raise NoSourceError(
                    f"{self._download.missing} of {self._wanted_pieces} wanted pieces of {self._manifest.name!r} "
                    f"are missing and nobody sends them: {self._sources.tried()}"
                )
