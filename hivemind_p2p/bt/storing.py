"""The way of pieces from a conversation to the disk: checked, in a helper process if there is one, and written.

What waits is bounded: where the disk or the processor does not keep up, whoever receives waits. A full disk is waited
for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import TypeAlias

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.bt.concurrency import RunSync
from hivemind_p2p.bt.exchange import USUAL_PAYLOAD, Exchange, Pieces
from hivemind_p2p.bt.helpers import Checker, start_checker
from hivemind_p2p.errors import DiskFullError, HivemindError
from hivemind_p2p.types import PeerId

LOOK_FOR_ROOM = 2.0
"""Seconds between two tries to write to a full disk."""

STORERS = 2
"""Batches on their way to the disk: one is checked while the other is written."""

WAITING_BYTES = 8 * 1024 * 1024
"""Bytes of pieces that wait to be checked and written before receiving pauses."""

BATCH_BYTES = 4 * 1024 * 1024
"""Bytes of pieces that are checked and written in one go, if as many wait: opening a file and noting down what is in it
then costs little."""

WORTH_A_HELPER = 64 * 1024 * 1024
"""Missing bytes from which on a helper process checks them: starting it costs as much as checking 50 MiB."""

ROOM_HINT = "Free some room: the fetch goes on by itself."

_events = telemetry.source("swarm")

Arrival: TypeAlias = "tuple[PeerId, int, memoryview]"
"""Who sent which piece, and its bytes."""

_Message: TypeAlias = "tuple[PeerId, Pieces, memoryview]"


class Storer:
    """Takes the pieces of one fetch to the disk.

    Args:
        exchange: The content's conversations.
        run_sync: Runs what blocks.
        wait_for_room: Seconds for which a full disk is waited for.
        stored: Told of each batch: the pieces, and whether each was right and is on the disk.
        waits: Told that the disk is full, or has room again.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        run_sync: RunSync,
        wait_for_room: float,
        stored: Callable[[Sequence[Arrival], Sequence[bool]], None],
        waits: Callable[[], None],
    ) -> None:
        self._exchange = exchange
        self._content = exchange.content
        self._run_sync = run_sync
        self._wait_for_room = wait_for_room
        self._stored = stored
        self._waits = waits
        self._checker: Checker | None = None
        waiting = max(2, WAITING_BYTES // max(exchange.piece_length, USUAL_PAYLOAD))
        self._arrivals, self._to_store = trio.open_memory_channel[_Message](waiting)

    @property
    def behind(self) -> bool:
        """Whether pieces wait for this peer's disk."""
        return bool(self._content.paused) or self._arrivals.statistics().tasks_waiting_send > 0

    async def take(self, peer: PeerId, pieces: Pieces, memory: memoryview) -> None:
        """Takes pieces that are to be checked and stored; waits where too many do already."""
        try:
            await self._arrivals.send((peer, pieces, memory))
        except trio.BrokenResourceError:
            return  # the fetch has ended meanwhile

    async def run(self, *, missing_bytes: int) -> None:
        """Works until cancelled.

        Args:
            missing_bytes: What is to come.

        Raises:
            DiskFullError: There was no room, and none came while it was waited for.
            ContentError: The files cannot be written.
        """
        async with trio.open_nursery() as nursery:
            for _ in range(STORERS):
                nursery.start_soon(self._work)
            if self._exchange.may_have_helpers and missing_bytes >= WORTH_A_HELPER:
                nursery.start_soon(self._have_checked)

    async def _have_checked(self) -> None:
        """Has pieces checked by a helper, as far as they arrive in memory that it shares."""
        buffers = self._exchange.buffers
        checker = await self._run_sync(partial(start_checker, segment_bytes=buffers.least))
        if checker is None:
            return
        try:
            buffers.share(checker.segments)
            self._checker = checker
            await trio.sleep_forever()
        finally:
            self._checker = None
            buffers.unshare()
            checker.close()  # kills it and waits for a moment; whoever is asking it now goes on without

    async def _work(self) -> None:
        while True:
            messages = [await self._to_store.receive()]
            while sum(len(memory) for _, _, memory in messages) < BATCH_BYTES:
                try:
                    messages.append(self._to_store.receive_nowait())
                except trio.WouldBlock:
                    break
            batch = [(peer, *piece) for peer, pieces, _ in messages for piece in pieces]
            await self._store(sorted(batch, key=itemgetter(1)))
            for _, _, memory in messages:
                self._exchange.buffers.give_back(memory)

    async def _store(self, batch: list[Arrival]) -> None:
        give_up_at: float | None = None
        checked: list[bool | None] = [None] * len(batch)
        while batch:
            right, failure = await self._run_sync(partial(self._write, tuple(batch), checked))
            if any(right):
                give_up_at = None
                self._go_on()
            self._stored(batch, right)
            del batch[: len(right)], checked[: len(right)]
            if failure is None:
                continue
            now = trio.current_time()
            give_up_at = give_up_at or now + self._wait_for_room
            if not isinstance(failure, DiskFullError) or now >= give_up_at:
                raise failure
            self._pause(failure)
            await trio.sleep(min(LOOK_FOR_ROOM, give_up_at - now))

    def _write(self, batch: Sequence[Arrival], checked: list[bool | None]) -> tuple[list[bool], HivemindError | None]:
        """Which of them were right and are stored, and what kept the rest from being stored. Blocks.

        Args:
            batch: The pieces.
            checked: What the helper has found out about them; filled in here, for the next try on a full disk.
        """
        if None in checked:
            checked[:] = self._check(batch)
        return self._content.store.write_batch([(piece, data) for _, piece, data in batch], checked)

    def _check(self, batch: Sequence[Arrival]) -> list[bool | None]:
        """Which pieces the helper found right or wrong; None for those that are still to be checked."""
        checker = self._checker
        if checker is None:
            return [None] * len(batch)
        spans = [self._content.store.manifest.piece(piece) for _, piece, _ in batch]
        return checker.check(
            [(data, span.length, span.leaves, span.expected) for (_, _, data), span in zip(batch, spans, strict=True)]
        )

    def _pause(self, failure: DiskFullError) -> None:
        """Nothing is asked for meanwhile: who waits to hand over a piece waits on."""
        if not self._content.paused:
            self._content.paused = failure.message
            name = self._content.store.manifest.name
            _events.warning("fetch_paused", content=name, reason=failure.message, hint=ROOM_HINT)
        self._waits()

    def _go_on(self) -> None:
        if self._content.paused:
            self._content.paused = ""
            self._waits()
            _events.warning("fetch_goes_on", content=self._content.store.manifest.name)
