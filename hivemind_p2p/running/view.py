"""What the screen shows, as plain data: made from a peer's figures once a second, drawn by `running.screen`.

Nothing here waits. What is a rate or a course over time is remembered between two looks by `Watcher`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hivemind_p2p.notebook.words import Rate
from hivemind_p2p.running.words import event_in_words
from hivemind_p2p.worker.reporter import MachineReport, Reporter

if TYPE_CHECKING:
    from hivemind_p2p.peer import Peer

HISTORY: Final = 120
"""Looks whose number of ended tasks is remembered: two minutes."""

MOST_EVENTS: Final = 50


@dataclass(frozen=True, slots=True)
class LogLine:
    """Something that happened.

    Attributes:
        clock: The time of day, ``12:03:11``.
        level: ``info``, ``warning`` or ``error``.
        words: What.
    """

    clock: str
    level: str
    words: str


@dataclass(frozen=True, slots=True)
class Lent:
    """What the peer lends, and to whose benefit."""

    cpus: float = 0.0
    memory_bytes: int = 0
    gpus: int = 0
    sandbox: str = ""
    models: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What came of tasks since the start.

    Attributes:
        rejected: Results that callers found wrong, and did not pay.
        history: Tasks that ended in each of the last seconds, the newest last.
    """

    running: int = 0
    waiting: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    rejected: int = 0
    history: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Earned:
    """Amounts in millionths of a credit; a balance of None is not known yet.

    Attributes:
        account: Whose; empty for a peer that works for nothing.
        earned: Billed and paid since the start.
        unsettled: Vouchers that the bootstrap has not seen yet.
        unpaid: What callers did not pay.
        balance: What the account has.
    """

    account: str = ""
    earned: int = 0
    unsettled: int = 0
    unpaid: int = 0
    balance: int | None = None


@dataclass(frozen=True, slots=True)
class NetworkView:
    """How the peer stands in its hive.

    Attributes:
        reachability: In words; empty where nobody asks, as on one machine.
        upload: Bytes of contents a second.
        download: As much the other way.
    """

    peers: int = 0
    connections: int = 0
    relayed: int = 0
    reachability: str = ""
    upload: float = 0.0
    download: float = 0.0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """One look at a peer."""

    peer_id: str
    name: str = ""
    address: str = ""
    state: str = "open"
    reason: str = ""
    seconds: float = 0.0
    lent: Lent = field(default_factory=Lent)
    work: Work = field(default_factory=Work)
    earned: Earned = field(default_factory=Earned)
    network: NetworkView = field(default_factory=NetworkView)
    machine: MachineReport = field(default_factory=MachineReport)
    stages: tuple[str, ...] = ()
    generations: int = 0
    log: tuple[LogLine, ...] = ()


class Watcher:
    """Looks at a peer again and again.

    Args:
        peer: Which.
        now: Seconds on a clock that only moves forward; so are all later ones.
    """

    def __init__(self, peer: Peer, now: float) -> None:
        self._peer = peer
        self._began = now
        self.reporter = Reporter(peer.executor)
        self._sent, self._fetched = Rate(now), Rate(now)
        self._history: deque[int] = deque(maxlen=HISTORY)
        self._ended = 0
        self._log: deque[LogLine] = deque(maxlen=MOST_EVENTS)
        self.balance: int | None = None

    def note(self, level: str, source: str, event: str, details: Mapping[str, Any]) -> None:
        """Takes note of an event; a `telemetry.Listener`."""
        words = event_in_words(source, event, details, important=level in ("warning", "error"))
        if words:
            self._log.append(LogLine(time.strftime("%H:%M:%S"), level, words))

    def look(self, now: float) -> View:
        """How it is."""
        peer = self._peer
        figures = peer.statistics()
        lending = figures.get("lending")
        own = peer.offers.own
        walls = peer.executor.walls if peer.executor else ""
        return View(
            peer_id=peer.peer_id,
            name=peer.settings.name,
            address=next(iter(peer.network.addresses), ""),
            state=lending.state if lending else "open",
            reason=lending.reason if lending else "",
            seconds=now - self._began,
            lent=Lent(own.cpus, own.memory_bytes, own.gpus, walls, own.serves_models),
            work=self._work(figures),
            earned=self._earned(figures),
            network=self._network(figures, now),
            machine=self.reporter.look(now),
            stages=tuple(str(stage.span) for stage in own.stages if stage.ready),
            generations=getattr(figures.get("stage_service"), "sessions", 0),
            log=tuple(self._log),
        )

    def _work(self, figures: Mapping[str, Any]) -> Work:
        tasks = figures.get("task_service")
        if tasks is None:
            return Work()
        ended = tasks.completed + tasks.failed
        self._history.append(ended - self._ended)
        self._ended = ended
        return Work(
            running=tasks.running,
            waiting=tasks.waiting,
            completed=tasks.completed,
            failed=tasks.failed,
            cancelled=tasks.cancelled,
            rejected=tasks.rejected,
            history=tuple(self._history),
        )

    def _earned(self, figures: Mapping[str, Any]) -> Earned:
        tasks, till = figures.get("task_service"), figures.get("till")
        return Earned(
            account=self._peer.settings.username or "",
            earned=tasks.earned if tasks else 0,
            unsettled=till.unsettled if till else 0,
            unpaid=tasks.unpaid if tasks else 0,
            balance=self.balance,
        )

    def _network(self, figures: Mapping[str, Any], now: float) -> NetworkView:
        content, transport, reach = figures["content"], figures.get("transport"), figures.get("reachability")
        self._sent.seen(now, content.uploaded_bytes)
        self._fetched.seen(now, content.downloaded_bytes)
        return NetworkView(
            peers=figures["directory"].peers,
            connections=transport.connections if transport else 0,
            relayed=transport.relayed if transport else 0,
            reachability=reach.view.reachability.value if reach else "",
            upload=self._sent.per_second(now),
            download=self._fetched.per_second(now),
            stored_bytes=content.stored_bytes,
        )
