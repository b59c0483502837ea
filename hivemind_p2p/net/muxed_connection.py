"""A connection that carries streams: `yamux.Session` over an encrypted connection.

Participants: this side's tasks, each with streams of its own; the other side.
Messages: Yamux frames (`yamux_frames`).
Goals:
    - A small message costs one system call and no task switch: whoever sends encrypts and writes by itself, as long
      as the socket takes it. Only when the socket is full does a task of the connection take over.
    - A task that is cancelled never leaves half a frame behind, because nothing waits between a frame's beginning
      and its end.
    - Nobody starves: a full socket serves its senders in the order in which they came.
    - When the connection is over, everybody who waits on it knows, and why.
Non-goals: judging whether a silent peer is dead (`heartbeat`), agreeing on protocols (`stream_negotiation`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio
from libp2p.abc import IMuxedConn
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable

from hivemind_p2p import telemetry
from hivemind_p2p.errors import BusyError, ProtocolError
from hivemind_p2p.interfaces import Buffer
from hivemind_p2p.net import yamux_frames as frames
from hivemind_p2p.net.muxed_stream import MuxedStream
from hivemind_p2p.net.seldom import Seldom
from hivemind_p2p.net.yamux import Received, Session
from hivemind_p2p.net.yamux_limits import MOST_UNANSWERED
from hivemind_p2p.net.yamux_streams import Stream
from hivemind_p2p.types import PeerId

if TYPE_CHECKING:
    from libp2p.connection_types import ConnectionType
    from libp2p.peer.id import ID
    from multiaddr import Multiaddr

LINGER_SECONDS: Final = 5.0
"""Seconds that a closed stream waits for the other side's end before it is reset."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds for what waits to be sent when a connection is closed, and as many for telling a relay."""

RTT_WEIGHT: Final = 0.125
"""What a new round trip counts for in the smoothed one (RFC 6298)."""

_events = telemetry.source("transport")
_broken_rules = Seldom(_events, "peer_broke_rules", "peers_broke_rules")


class PlainConnection(Protocol):
    """What is needed of the connection below: `secure_connection.SecureConnection`."""

    is_initiator: bool
    relayed: bool

    async def receive(self) -> Buffer:
        """Everything that one read gives; nothing at the end."""

    def send_now(self, parts: Sequence[Buffer]) -> bool:
        """Sends without waiting; whether nothing is left for `drain`."""

    async def drain(self) -> None:
        """Sends what is left."""

    def cut(self) -> None:
        """Ends it at once."""

    async def close(self) -> None:
        """Ends it in good order."""


@dataclass(frozen=True, slots=True)
class MuxedConnectionStatistics:
    """What a connection has done.

    Attributes:
        streams: Open now.
        carried: Streams so far, in both directions.
        held_bytes: Bytes that have arrived and lie unread.
        rtt: Its round trip in seconds, smoothed; None before the first ping.
        relayed: Whether a relay stands between.
        blocked: Whether the socket is full now.
    """

    streams: int
    carried: int
    held_bytes: int
    rtt: float | None
    relayed: bool
    blocked: bool


class MuxedConnection(IMuxedConn):  # type: ignore[misc]  # libp2p is not type-checked
    """Streams over one connection, as libp2p's swarm wants it, and more.

    Args:
        conn: The encrypted connection.
        peer_id: Who is at the other end.

    Attributes:
        failure: Why it is over; empty while it is not.
        last_heard: When the last byte came, on trio's clock.
        rtt: Its round trip in seconds, smoothed; None before the first ping.
        on_close: Called once it is over; libp2p's swarm sets it.
    """

    def __init__(self, conn: PlainConnection, peer_id: ID) -> None:
        self.peer_id = peer_id
        self.remote = PeerId(peer_id.to_base58())
        self.secured_conn = conn
        self.relayed = conn.relayed
        self.session = Session(dialled=conn.is_initiator)
        self.failure = ""
        self.last_heard = 0.0
        self.rtt: float | None = None
        self.on_close: Callable[[], Awaitable[object]] | None = None
        self.event_started = trio.Event()
        self.event_shutting_down = trio.Event()
        self.event_closed = trio.Event()
        self.blocked = False
        self._conn: Any = conn
        self._queue = trio.lowlevel.ParkingLot()
        self._full = trio.lowlevel.ParkingLot()
        self._openers = trio.lowlevel.ParkingLot()
        self._arrived: deque[MuxedStream] = deque()
        self._arrivals = trio.lowlevel.ParkingLot()
        self._pings: dict[int, _Ping] = {}
        self._lingering: dict[Stream, float] = {}
        self._lingers = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()

    @property
    def is_initiator(self) -> bool:
        """Whether this side has dialled."""
        return bool(self._conn.is_initiator)

    @property
    def is_established(self) -> bool:
        """Whether it carries streams now."""
        return self.event_started.is_set() and not self.is_closed

    @property
    def is_closed(self) -> bool:
        """Whether it is over."""
        return self.event_shutting_down.is_set()

    @property
    def takes_streams(self) -> bool:
        """Whether streams can be opened on it."""
        return not self.is_closed and self.session.takes_streams

    @property
    def streams(self) -> int:
        """Streams that are open now."""
        return len(self.session.streams)

    @property
    def in_use(self) -> bool:
        """Whether there are streams on which somebody may wait, so that its death matters at once."""
        owners = (state.owner for state in self.session.streams.values())
        return any(not (isinstance(owner, MuxedStream) and owner.resting) for owner in owners)

    @property
    def carried(self) -> int:
        """Streams so far, in both directions."""
        return self.session.carried

    def statistics(self) -> MuxedConnectionStatistics:
        """What it has done so far."""
        return MuxedConnectionStatistics(
            streams=self.streams,
            carried=self.carried,
            held_bytes=self.session.held,
            rtt=self.rtt,
            relayed=self.relayed,
            blocked=self.blocked,
        )

    # -- streams -----------------------------------------------------------------------------------------------------

    async def open_stream(self) -> MuxedStream:
        """A new stream. The other side learns of it with the first bytes, or when this side waits for some.

        Waits while the other side has not answered many that were opened before.

        Raises:
            MuxedConnUnavailable: The connection is over, or takes no streams any more.
        """
        await trio.lowlevel.checkpoint()
        while self.takes_streams and self.session.unanswered >= MOST_UNANSWERED:
            await self._openers.park()
        if self.is_closed:
            raise MuxedConnUnavailable(f"the connection with {self.remote} is over: {self.failure}")
        try:
            return MuxedStream(self, self.session.open())
        except BusyError as error:
            raise MuxedConnUnavailable(error.message) from error

    async def accept_stream(self) -> MuxedStream:
        """The next stream that the other side opens.

        Raises:
            MuxedConnUnavailable: The connection is over.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._arrived:
            if self.is_closed:
                raise MuxedConnUnavailable(f"the connection with {self.remote} is over: {self.failure}")
            await self._arrivals.park()
        return self._arrived.popleft()

    def linger(self, state: Stream) -> None:
        """Resets a stream that was closed, if it is not over some seconds later."""
        self._lingering[state] = trio.current_time() + LINGER_SECONDS
        self._lingers.unpark_all()

    # -- sending -----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Sends what the session has to say, as far as the socket takes it; never waits, never fails."""
        self._let_open()
        if self.blocked or self.is_closed or not self.session.has_output:
            return
        try:
            done = self._conn.send_now(self.session.output())
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._end(str(error))
            return
        if not done:
            self.blocked = True
            self._full.unpark_all()

    @property
    def crowded(self) -> bool:
        """Whether a sender has to queue."""
        return self.blocked or bool(self._queue)

    async def wait_turn(self) -> None:
        """Queues for the socket. Whoever comes back has the next turn, if the socket is not full again by then."""
        await self._queue.park()

    async def _write(self) -> None:
        while True:
            while not self.blocked:
                await self._full.park()
            await self._conn.drain()
            self.blocked = False
            self.flush()
            await self._serve_queue()

    async def _serve_queue(self) -> None:
        """One turn after the other, until the socket is full or nobody waits.

        Whoever finds the queue empty sends without it, so nobody may be left there when this returns.
        """
        while self._queue and not self.blocked:
            self._queue.unpark()
            # The first may run this task before the one whose turn it is, the second cannot.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()

    def _let_open(self) -> None:
        if self._openers and self.session.unanswered < MOST_UNANSWERED:
            self._openers.unpark(count=MOST_UNANSWERED - self.session.unanswered)

    # -- receiving ---------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while data := await self._conn.receive():
            self.last_heard = trio.current_time()
            self._take(self.session.receive(data, self.last_heard))
            self.flush()
        self._end("the other side has closed the connection")

    def _take(self, received: Received) -> None:
        for state in received.opened:
            self._arrived.append(MuxedStream(self, state))
            self._arrivals.unpark()
        for state in received.changed:
            if state.over:
                self._lingering.pop(state, None)
            if isinstance(state.owner, MuxedStream):
                state.owner.notice()
        if received.gone_away is not None:
            self._openers.unpark_all()
        for value in received.pongs:
            if ping := self._pings.pop(value, None):
                self._measured(trio.current_time() - ping.sent_at)
                ping.answered.set()

    # -- liveness ----------------------------------------------------------------------------------------------------

    async def ping(self, timeout: float) -> float:
        """Measures the round trip.

        Returns:
            Seconds.

        Raises:
            trio.TooSlowError: There was no answer within `timeout` seconds.
            trio.BrokenResourceError: The connection is over.
        """
        self._check_open()
        ping = _Ping(trio.current_time(), trio.Event())
        number = self.session.ping()
        self._pings[number] = ping
        self.flush()
        try:
            with trio.fail_after(timeout):
                await ping.answered.wait()
        finally:
            self._pings.pop(number, None)
        self._check_open()
        return trio.current_time() - ping.sent_at

    def _measured(self, seconds: float) -> None:
        self.rtt = seconds if self.rtt is None else (1 - RTT_WEIGHT) * self.rtt + RTT_WEIGHT * seconds

    def _check_open(self) -> None:
        if self.is_closed:
            raise trio.BrokenResourceError(f"the connection with {self.remote} is over: {self.failure}")

    # -- the life of a connection ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Runs the connection to its end; raises nothing but cancellation."""
        self.last_heard = trio.current_time()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for work in (self._read, self._write, self._reset_lingering):
                        nursery.start_soon(self._guarded, work)
                    self.event_started.set()
        finally:
            self._end("this side has ended")
            self.event_started.set()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT):
                await self._conn.close()
            self.event_closed.set()
        if self.on_close is not None:
            await self.on_close()

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except ProtocolError as error:
            _broken_rules.tell(peer=self.remote, what=error.message)
            self.session.go_away(frames.PROTOCOL_ERROR)
            self.flush()
            self._end(f"it sent {error.message}")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._end(str(error))
        except Exception as error:
            # A defect: it costs this connection. Raised, it would end libp2p's swarm, and this peer.
            _events.error("connection_failed", peer=self.remote, error=repr(error))
            self._end(f"this side has failed with {type(error).__name__}")

    async def _reset_lingering(self) -> None:
        while True:
            while not self._lingering:
                await self._lingers.park()
            state, deadline = next(iter(self._lingering.items()))
            await trio.sleep_until(deadline)
            if self._lingering.pop(state, None) is not None:
                self.session.reset(state)
                self.flush()

    async def go_away(self) -> None:
        """Tells the other side to open no streams here any more; those that are open go on."""
        self.session.go_away()
        self.flush()
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Ends the connection in good order; streams that are open break. Never fails, never waits long.

        What was sent on streams before leaves first, if the socket takes it within `CLOSE_TIMEOUT`.
        """
        try:
            if not self.is_closed:
                self.session.go_away()
                self.flush()
                with trio.move_on_after(CLOSE_TIMEOUT):
                    while self.blocked and not self.is_closed:
                        await self._queue.park()
            await trio.lowlevel.checkpoint()
        finally:
            self._end("this side has closed it")

    def cut(self) -> None:
        """Ends the connection at once, whatever waits to be sent."""
        self._end("the other side has fallen silent")

    def _end(self, reason: str) -> None:
        if self.is_closed:
            return
        self.failure = reason
        self.event_shutting_down.set()
        for state in self.session.break_all():
            if isinstance(state.owner, MuxedStream):
                state.owner.notice()
        for ping in self._pings.values():
            ping.answered.set()
        self._arrived.clear()
        self._arrivals.unpark_all()
        self._queue.unpark_all()
        self._openers.unpark_all()
        self._conn.cut()
        self._scope.cancel()

    # -- what else libp2p asks ---------------------------------------------------------------------------------------

    def get_remote_address(self) -> tuple[str, int] | None:
        """The other machine's address and port, if there is such a thing."""
        address: tuple[str, int] | None = self._conn.get_remote_address()
        return address

    def get_transport_addresses(self) -> list[Multiaddr]:
        """The addresses that the connection below was made with."""
        addresses: list[Multiaddr] = self._conn.get_transport_addresses()
        return addresses

    def get_connection_type(self) -> ConnectionType:
        """Whether the connection below is direct or relayed."""
        return self._conn.get_connection_type()


@dataclass(frozen=True, slots=True)
class _Ping:
    sent_at: float
    answered: trio.Event
