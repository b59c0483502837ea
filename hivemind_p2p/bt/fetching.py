"""One fetch: finds sources, begins conversations with them, checks and stores the pieces that come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.bt.concurrency import RunSync, nursery_of_one
from hivemind_p2p.bt.conversation import patience, send
from hivemind_p2p.bt.exchange import WAIT_FOR_ROOM, Exchange, Pieces
from hivemind_p2p.bt.piece_map import PieceMap
from hivemind_p2p.bt.sources import FIRST_WAIT, LONGEST_WAIT, Sources
from hivemind_p2p.bt.storing import Arrival, Storer
from hivemind_p2p.bt.wire import Hello
from hivemind_p2p.defaults import IDLE_DEADLINE
from hivemind_p2p.errors import HivemindError, NoSourceError
from hivemind_p2p.interfaces import Channel, Progress
from hivemind_p2p.types import FetchProgress, PeerId, PeerInfo

MOST_CONNECTED = 32
"""Sources at the same time: more bring no more speed, and each costs a channel."""

LOOK_AGAIN = 10.0
"""Seconds after which the directory is asked for more sources while pieces arrive."""

TICK = 1.0
"""Seconds between two looks at whether anything moves."""

HOPE = 300.0
"""Seconds without a piece after which a fetch is given up although somebody has what is missing: they serve others."""

MOST_ATTEMPTS = 5
"""Times that a source is tried without getting a piece from it."""

_events = telemetry.source("swarm")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a fetch is to bring.

    Attributes:
        missing: The pieces, in the order in which equally rare ones are asked for.
        urgent: Those of them that are wanted before all others, in this order.
        in_order: Whether somebody reads meanwhile.
        had_bytes: Bytes of what is wanted that were there before.
        piece_map: Where they are.
        wait_for_room: Seconds for which a full disk is waited for.
    """

    missing: Sequence[int]
    urgent: Sequence[int] = ()
    in_order: bool = False
    had_bytes: int = 0
    piece_map: PieceMap | None = None
    wait_for_room: float = WAIT_FOR_ROOM


@dataclass(slots=True)
class _Attempts:
    count: int = 0
    not_before: float = 0.0


class Fetch:
    """Fetches missing pieces of one content.

    Args:
        sources: Who has it.
        exchange: The content's conversations.
        wish: Which pieces.
        run_sync: Runs what blocks.
        begin: Runs a conversation for as long as it lasts, which may be longer than the fetch.
        announce: Makes this peer known as a source; called once the first piece is there.
        progress: Told about each piece, with the bytes that were there before counted in.
    """

    def __init__(
        self,
        sources: Sources,
        exchange: Exchange,
        wish: Wish,
        *,
        run_sync: RunSync,
        begin: Callable[[Callable[[Channel], Awaitable[None]], Channel], None],
        announce: Callable[[], Awaitable[None]],
        progress: Progress | None,
    ) -> None:
        self.failures = sources.failures
        self._sources = sources
        self._exchange = exchange
        self._member = exchange.member
        self._content = exchange.content
        self._manifest = exchange.content.store.manifest
        self._wish = wish
        self._begin = begin
        self._announce: Callable[[], Awaitable[None]] | None = announce
        self._progress = progress
        self._done_bytes = wish.had_bytes
        self._wanted_bytes = wish.had_bytes + sum(map(self._manifest.length_of, wish.missing))
        self._attempts: dict[PeerId, _Attempts] = {}
        self._dialling: set[PeerId] = set()
        self._done = trio.Event()
        self._look = trio.Event()
        self._storer = Storer(
            exchange, run_sync=run_sync, wait_for_room=wish.wait_for_room, stored=self._stored, waits=self._waits
        )

    async def run(self) -> None:
        """Returns once every missing piece is stored.

        Raises:
            NoSourceError: Nothing moved for as long as a transfer may be idle. What has arrived is kept.
            DiskFullError: There was no room, and none came while it was waited for. What has arrived is kept.
            ContentError: The files cannot be written.
        """
        self._exchange.sink = self
        wish = self._wish
        try:
            async with nursery_of_one() as nursery:
                self._nursery = nursery
                missing_bytes = self._wanted_bytes - wish.had_bytes
                nursery.start_soon(partial(self._storer.run, missing_bytes=missing_bytes))
                begun = self._member.want(
                    wish.missing,
                    urgent=wish.urgent,
                    in_order=wish.in_order,
                    patience=patience(self._manifest.piece_length),
                    now=trio.current_time(),
                )
                self._exchange.perform(begun)
                nursery.start_soon(self._find_sources)
                nursery.start_soon(self._watch)
                await self._done.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._content.paused = ""
            self._exchange.sink = None
            self._exchange.perform(self._member.want_nothing())

    # -- what the exchange asks --------------------------------------------------------------------------------------

    @property
    def behind(self) -> bool:
        """Whether pieces wait for this peer's disk."""
        return self._storer.behind

    async def take(self, peer: PeerId, pieces: Pieces, memory: memoryview) -> None:
        """Takes pieces that are to be checked and stored; waits where too many do already."""
        await self._storer.take(peer, pieces, memory)

    def dial(self, info: PeerInfo) -> None:
        """Begins a conversation with somebody who was told of."""
        if info.peer_id in self._dialling or info.peer_id in self._exchange:
            return
        self._dialling.add(info.peer_id)
        self._nursery.start_soon(self._dial, info)

    def finished(self) -> None:
        """Every wanted piece is stored."""
        self._done.set()

    # -- sources -----------------------------------------------------------------------------------------------------

    async def _find_sources(self) -> None:
        wait = FIRST_WAIT
        while True:
            self._look = trio.Event()
            for peer in await self._sources.find():
                self._consider(peer)
            moving = len(self._exchange) > 0 and self._stalled_for() == 0
            wait = FIRST_WAIT if moving else min(wait * 2, LONGEST_WAIT)
            with trio.move_on_after(LOOK_AGAIN if moving else wait):
                await self._look.wait()
                # The last source is gone: ask again soon, but not at once, for it may fail again and again.
                await trio.sleep(FIRST_WAIT)

    def _consider(self, peer: PeerId) -> None:
        attempts = self._attempts.setdefault(peer, _Attempts())
        if peer in self._content.banned or len(self._exchange) + len(self._dialling) >= MOST_CONNECTED:
            return
        if attempts.count >= MOST_ATTEMPTS or trio.current_time() < attempts.not_before:
            return
        if peer in self._exchange:
            return
        attempts.count += 1
        attempts.not_before = trio.current_time() + FIRST_WAIT * 2**attempts.count
        self.dial(PeerInfo(peer))

    async def _dial(self, info: PeerInfo) -> None:
        peer = info.peer_id
        reached = False
        try:
            channel = await self._sources.open(peer, told=info)
            reached = True
            await send(channel, Hello(self._sources.infohash))
            self._begin(self._converse, channel)
        except HivemindError as error:
            self.failures[peer] = error.message
            _events.debug("source_failed", peer=peer, content=self._manifest.name, error=error.message)
        finally:
            self._dialling.discard(peer)
        self._member.tried(peer, reached=reached)

    async def _converse(self, channel: Channel) -> None:
        await self._exchange.converse_dialled(channel)
        if not len(self._exchange):
            self._look.set()

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _waits(self) -> None:
        if not self._content.paused:
            self._attempts.clear()  # whoever was left meanwhile was left for this peer's sake
        self._tell()

    def _tell(self) -> None:
        if self._progress is None:
            return
        pieces = self._wish.piece_map.to_bytes() if self._wish.piece_map is not None else b""
        self._progress(
            FetchProgress(
                self._done_bytes,
                self._wanted_bytes,
                len(self._exchange),
                name=self._manifest.name,
                pieces=pieces,
                paused=self._content.paused,
            )
        )

    def _stored(self, batch: Sequence[Arrival], right: Sequence[bool]) -> None:
        stored: list[int] = []
        for (peer, piece, _), is_right in zip(batch, right, strict=False):
            if not is_right:
                self._exchange.perform(self._member.corrupt(peer, piece, trio.current_time()))
                continue
            stored.append(piece)
            length = self._manifest.length_of(piece)
            self._content.downloaded_bytes += length
            self._done_bytes += length
            self._attempts.setdefault(peer, _Attempts()).count = 0
            if self._wish.piece_map is not None:
                self._wish.piece_map.add(piece)
            self._tell()
        self._content.arrived(stored)
        if stored and self._announce is not None:
            self._nursery.start_soon(self._announce)
            self._announce = None

    # -- giving up ---------------------------------------------------------------------------------------------------

    def _stalled_for(self) -> float:
        download = self._member.download
        return 0.0 if download is None else download.stalled_for(trio.current_time())

    async def _watch(self) -> None:
        while True:
            await trio.sleep(TICK)
            download = self._member.download
            if download is None:
                return
            self._tell()
            if not self._content.paused and self._stalled_for() > (HOPE if download.promised else IDLE_DEADLINE):
                raise NoSourceError(
                    f"{download.missing} of {len(self._wish.missing)} wanted pieces of {self._manifest.name!r} "
                    f"are missing and nobody sends them: {self._tried()}"
                )

    def _tried(self) -> str:
        for peer, held in self._member.holdings().items():
            self.failures[peer] = f"it holds {held} of {self._manifest.pieces} pieces"
        return self._sources.tried()
