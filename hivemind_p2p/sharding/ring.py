"""The ring: one channel from a stage to each neighbour, shared by all generations that pass there.

Participants: this peer's sessions; the peers that come next on their routes.
Messages: `Frame` with the entries of many generations, their payloads one behind the other; back comes `Frame` with
Taken.
Goals:
    - What several generations have to say to a neighbour at the same time is one frame.
    - A channel is opened when a generation is, so no token waits for it; it is closed when none has needed it for
      `IDLE_SECONDS`.
    - What is wrong with one entry costs one generation, what is wrong with a frame costs the channel.
    - Memory for what a neighbour sends is bounded before it is taken, and a peer that takes part in no generation
      gets none.
Non-goals: order between generations; sending again (a new route begins anew).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import trio

from hivemind_p2p import defaults, telemetry
from hivemind_p2p.errors import DeadlineExceededError, HivemindError, ProtocolError, StreamClosedError
from hivemind_p2p.interfaces import Channel, Network
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.types import PeerId

PROTOCOL = "/hivemind/ring/2"

SEND_DEADLINE = 30.0
"""Seconds in which a neighbour has to take a frame; it may be 32 MiB over a slow link."""

IDLE_SECONDS = 30.0
"""Seconds for which a channel that no generation needs is kept for the next one."""

MOST_ENTRIES = 256
"""Entries of one frame."""

MOST_PAYLOAD = 32 * 2**20
"""Bytes of one frame's payload: an entry of 512 rows of 16,384 float32 numbers, or many small ones."""

ALIGNMENT = 4
"""Bytes: the length of a float32."""

COALESCED_PAYLOAD = 4 * 2**20
"""Bytes over which a frame carries one entry alone."""

_events = telemetry.source("ring")

Buffers = memoryview | bytes


class Receiver(Protocol):
    """Takes what comes over the ring: the stage service."""

    def ring_entry(self, source: PeerId, entry: pb.Entry, payload: memoryview) -> None:
        """An entry has come."""

    def ring_lost(self, peer: PeerId, error: HivemindError) -> None:
        """The channel to or from a neighbour has broken."""

    def knows_neighbour(self, peer: PeerId) -> bool:
        """Whether a generation is open in which this peer sends here."""


class Ring:
    """The channels to all neighbours.

    Args:
        network: Opens them.
        receiver: Takes what comes.
    """

    def __init__(self, network: Network, receiver: Receiver) -> None:
        self._network = network
        self._receiver = receiver
        self._links: dict[PeerId, _Link] = {}
        self._incoming: dict[PeerId, _Link] = {}
        self._nursery: trio.Nursery | None = None
        self.frames = self.entries = 0

    def run_in(self, nursery: trio.Nursery | None) -> None:
        """Where the channels' tasks run; None when there is no such place any more."""
        self._nursery = nursery

    def hold(self, peer: PeerId) -> None:
        """A generation will send to this neighbour: the channel is opened now, and kept until `release`."""
        if peer == self._network.peer_id or self._nursery is None:
            return
        link = self._links.get(peer)
        if link is None:
            link = self._links[peer] = _Link(peer)
            self._nursery.start_soon(self._run_link, link)
        link.holders += 1
        link.idle_since = None

    def release(self, peer: PeerId) -> None:
        """A generation needs it no longer."""
        link = self._links.get(peer)
        if link is None or not link.holders:
            return
        link.holders -= 1
        if not link.holders:
            link.idle_since = trio.current_time()

    def send(self, peer: PeerId, entry: pb.Entry, payload: Buffers = b"") -> None:
        """Sends an entry soon; never waits. To this very peer it goes at once."""
        entry.payload = len(payload)
        if peer == self._network.peer_id:
            self._receiver.ring_entry(peer, entry, memoryview(payload))
        elif link := self._links.get(peer):
            link.put(entry, payload)

    def answer(self, peer: PeerId, entry: pb.Entry) -> None:
        """Sends Taken to the neighbour that sends here, on its own channel."""
        if peer == self._network.peer_id:
            self._receiver.ring_entry(peer, entry, memoryview(b""))
        elif incoming := self._incoming.get(peer):
            incoming.put(entry, b"")

    def flush(self) -> None:
        """Sends what waits at once, where a channel takes it without waiting; the channels' tasks send the rest.

        Called when a step's results are all there, so that what goes to one neighbour goes in one frame.
        """
        for link in (*self._links.values(), *self._incoming.values()):
            if link.waiting and (sent := link.send_now()):
                self.frames += 1
                self.entries += sent

    # -- out

    async def _run_link(self, link: _Link) -> None:
        error: HivemindError = StreamClosedError(f"the ring's channel to peer {link.peer} was closed")
        try:
            channel = await self._network.open(link.peer, PROTOCOL, deadline=defaults.REQUEST_DEADLINE)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read_answers, link, channel)
                    nursery.start_soon(self._close_idle, link, nursery.cancel_scope)
                    link.channel = channel
                    await self._write(link, channel)
            finally:
                await channel.aclose()
        except* HivemindError as group:
            error = _first(group)
        finally:
            if self._links.get(link.peer) is link:
                del self._links[link.peer]
            if link.holders:
                self._receiver.ring_lost(link.peer, error)

    async def _write(self, link: _Link, channel: Channel) -> None:
        while True:
            entries, payloads = await link.get()
            await _send(channel, entries, payloads)
            self.frames += 1
            self.entries += len(entries)

    async def _read_answers(self, link: _Link, channel: Channel) -> None:
        while True:
            frame, _ = await channel.receive(pb.Frame)
            for entry in frame.entries:
                if entry.WhichOneof("kind") != "taken" or entry.payload:
                    raise ProtocolError(f"peer {link.peer} answered on the ring with something else than Taken")
                self._receiver.ring_entry(link.peer, entry, memoryview(b""))

    async def _close_idle(self, link: _Link, scope: trio.CancelScope) -> None:
        while True:
            await trio.sleep(IDLE_SECONDS)
            if link.idle_since is not None and trio.current_time() - link.idle_since >= IDLE_SECONDS:
                del self._links[link.peer]
                scope.cancel()

    # -- in

    async def serve(self, channel: Channel) -> None:
        """Takes what a neighbour sends, until it closes the channel.

        Raises:
            ProtocolError: It sends what no honest peer does.
        """
        peer = channel.remote
        link = _Link(peer)
        self._incoming[peer] = link
        failure: HivemindError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, link, channel)
                link.channel = channel
                await self._read(channel)
        except* HivemindError as group:
            failure = _first(group)
        finally:
            if self._incoming.get(peer) is link:
                del self._incoming[peer]
        if failure is not None:
            self._receiver.ring_lost(peer, failure)
            raise failure

    async def _read(self, channel: Channel) -> None:
        peer = channel.remote

        def room(size: int) -> memoryview:
            # Asked when a payload is announced: the channel may be older than the generation.
            if not self._receiver.knows_neighbour(peer):
                raise ProtocolError(f"peer {peer} sent a payload of {size} bytes, and takes part in no generation here")
            return memoryview(bytearray(size))

        while True:
            frame, payload = await channel.receive(pb.Frame, max_payload=MOST_PAYLOAD, room=room)
            if len(frame.entries) > MOST_ENTRIES or sum(entry.payload for entry in frame.entries) != len(payload):
                raise ProtocolError(f"peer {peer} sent a frame whose payload is not its entries'")
            start = 0
            for entry in frame.entries:
                part = payload[start : start + entry.payload]
                # Rows are computed on where they lie, so they have to lie where numbers may.
                aligned = part if start % ALIGNMENT == 0 else memoryview(bytearray(part))
                self._receiver.ring_entry(peer, entry, aligned)
                start += entry.payload


class _Link:
    """What waits for one channel."""

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self.holders = 0
        self.idle_since: float | None = None
        self.channel: Channel | None = None
        self._queue: deque[tuple[pb.Entry, Buffers]] = deque()
        self._news = trio.lowlevel.ParkingLot()

    def put(self, entry: pb.Entry, payload: Buffers) -> None:
        """Adds an entry."""
        self._queue.append((entry, payload))
        self._news.unpark()

    async def get(self) -> tuple[list[pb.Entry], list[Buffers]]:
        """Everything that waits, as far as it fits one frame."""
        while not self._queue:
            await self._news.park()
        return self._next_frame()

    @property
    def waiting(self) -> int:
        """Entries that wait."""
        return len(self._queue)

    def send_now(self) -> int:
        """Sends one frame if the channel takes it without waiting; how many entries went."""
        send = getattr(self.channel, "send_now", None)
        if send is None:
            return 0
        entries, payloads = self._next_frame()
        if send(pb.Frame(entries=entries), payloads):
            return len(entries)
        self._queue.extendleft(reversed(list(zip(entries, payloads, strict=True))))
        return 0

    def _next_frame(self) -> tuple[list[pb.Entry], list[Buffers]]:
        entries: list[pb.Entry] = []
        payloads: list[Buffers] = []
        size = 0
        while self._queue and len(entries) < MOST_ENTRIES:
            entry, payload = self._queue[0]
            if size and size + len(payload) > COALESCED_PAYLOAD:
                break
            self._queue.popleft()
            entries.append(entry)
            payloads.append(payload)
            size += len(payload)
        return entries, payloads


async def _send(channel: Channel, entries: Sequence[pb.Entry], payloads: Sequence[Buffers]) -> None:
    try:
        with trio.fail_after(SEND_DEADLINE):
            await channel.send(pb.Frame(entries=entries), payloads)
    except trio.TooSlowError as error:
        raise DeadlineExceededError(f"peer {channel.remote} took no frame within {SEND_DEADLINE:g} s") from error


def _first(group: BaseExceptionGroup[HivemindError]) -> HivemindError:
    """What went wrong first; the other tasks of the channel only saw it close."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, HivemindError)
    return found


__all__ = ["PROTOCOL", "Receiver", "Ring"]
