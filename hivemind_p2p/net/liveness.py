"""Looks after the connections of a transport: cuts the dead ones, closes those that are too many.

Participants: this peer, and everybody it is connected to.
Messages: Yamux pings.
Goals:
    - A peer that has stopped, or whose network has gone, is known to be dead within 3 s, and everybody who waits for
      it is told: its streams break.
    - However many peers this one meets, it keeps a bounded number of connections.
Non-goals: judging how fast a peer is (whoever waits for an answer does), dialling anew (whoever needs the peer does).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.net.background import Background
from hivemind_p2p.net.connection_budget import BUDGET, Usage, surplus
from hivemind_p2p.net.heartbeat import INTERVAL, MOST_PATIENCE, TICK, Heartbeat, SteadyClock, Verdict, idle_interval
from hivemind_p2p.net.seldom import Seldom
from hivemind_p2p.types import PeerId

WEIGHED_EVERY: Final = 4
"""Ticks between two looks at the number of connections."""

_events = telemetry.source("transport")


class Connection(Protocol):
    """What is looked at: `muxed_connection.MuxedConnection`."""

    @property
    def remote(self) -> PeerId:
        """Who is at the other end."""

    @property
    def relayed(self) -> bool:
        """Whether a relay stands between."""

    @property
    def is_initiator(self) -> bool:
        """Whether this side has dialled."""

    @property
    def streams(self) -> int:
        """Streams that are open now."""

    @property
    def in_use(self) -> bool:
        """Whether somebody may wait for something on it."""

    @property
    def carried(self) -> int:
        """Streams so far."""

    @property
    def last_heard(self) -> float:
        """When the last byte came, on trio's clock."""

    @property
    def rtt(self) -> float | None:
        """Its round trip in seconds, smoothed."""

    async def ping(self, timeout: float) -> float:
        """Measures the round trip."""

    def cut(self) -> None:
        """Ends it at once; all its streams break."""


@dataclass(slots=True)
class _Watched:
    connection: Connection
    heartbeat: Heartbeat
    opened_at: float
    used_at: float
    carried: int = 0
    streams: int = 0


class Liveness:
    """Watches connections.

    Args:
        own: This peer: of two connections with one peer, both sides keep the one that the smaller id has dialled.
        connections: All connections there are now.
        close: Closes one in good order.
        background: Where pings and closing run.
        budget: Connections to keep.
    """

    def __init__(
        self,
        own: PeerId,
        connections: Callable[[], Iterable[Connection]],
        close: Callable[[Connection], Awaitable[object]],
        background: Background,
        *,
        budget: int = BUDGET,
    ) -> None:
        self._own = own
        self._connections = connections
        self._close = close
        self._background = background
        self._budget = budget
        self._watched: dict[int, _Watched] = {}
        self._deaths = Seldom(_events, "connection_died", "connections_died")
        self.kept: set[PeerId] = set()
        self.died = self.let_go = 0

    async def run(self) -> None:
        """Looks at all connections, until cancelled."""
        clock = SteadyClock(trio.current_time())
        ticks = 0
        while True:
            await trio.sleep(TICK)
            ticks += 1
            now = clock.read(trio.current_time())
            self._notice(now)
            self._judge(now)
            if ticks % WEIGHED_EVERY == 0:
                self._weigh(now)

    def _notice(self, now: float) -> None:
        present = {id(connection): connection for connection in self._connections()}
        for key in self._watched.keys() - present.keys():
            del self._watched[key]
        for key in present.keys() - self._watched.keys():
            self._watched[key] = _Watched(present[key], Heartbeat(now), opened_at=now, used_at=now)
        for watched in self._watched.values():
            connection = watched.connection
            if (connection.carried, connection.streams) != (watched.carried, watched.streams):
                watched.carried, watched.streams, watched.used_at = connection.carried, connection.streams, now

    def _judge(self, now: float) -> None:
        idle = idle_interval(len(self._watched))
        for watched in list(self._watched.values()):
            connection = watched.connection
            interval = INTERVAL if connection.in_use else idle
            verdict = watched.heartbeat.look(now, mark=connection.last_heard, interval=interval, rtt=connection.rtt)
            if verdict is Verdict.PING:
                self._ping(connection)
            elif verdict is Verdict.DEAD:
                self.died += 1
                silent = round(watched.heartbeat.silent_for(now), 2)
                self._deaths.tell(peer=connection.remote, silent=silent, streams=watched.streams)
                connection.cut()

    def _ping(self, connection: Connection) -> None:
        async def ping() -> None:
            try:
                await connection.ping(2 * MOST_PATIENCE)
            except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
                _events.debug("ping_failed", peer=connection.remote)  # what follows is the heartbeat's to judge

        self._background.start(ping)

    def _weigh(self, now: float) -> None:
        worse = self._doubled()
        usages = [self._usage(key, watched, key in worse) for key, watched in self._watched.items()]
        for key in surplus(usages, now, budget=self._budget):
            self.let_go += 1
            connection = self._watched.pop(key).connection
            _events.debug("connection_let_go", peer=connection.remote)
            self._background.start(partial(self._close, connection))

    def _usage(self, key: int, watched: _Watched, doubled: bool) -> Usage:
        return Usage(
            key,
            streams=watched.streams,
            carried=watched.carried,
            used_at=watched.used_at,
            opened_at=watched.opened_at,
            kept=watched.connection.remote in self.kept and not doubled,
            doubled=doubled,
        )

    def _doubled(self) -> set[int]:
        """All but the best connection with each peer.

        Of two that are equally good, both sides might keep another one. So only the smaller id's side closes one then.
        """
        best: dict[PeerId, int] = {}
        for key, watched in self._watched.items():
            rival = best.setdefault(watched.connection.remote, key)
            if self._rank(watched) > self._rank(self._watched[rival]):
                best[watched.connection.remote] = key
        return {
            key
            for key, watched in self._watched.items()
            if (chosen := best[watched.connection.remote]) != key
            and (self._own < watched.connection.remote or self._rank(watched) < self._rank(self._watched[chosen]))
        }

    def _rank(self, watched: _Watched) -> tuple[bool, bool]:
        connection = watched.connection
        return not connection.relayed, connection.is_initiator == (self._own < connection.remote)
