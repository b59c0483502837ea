"""Which task goes to which child, and how many lie ready in one. Events go in, actions come out; no clock, no pipes.

A **lane** is a child at work for one caller: the task at its head runs, those behind it lie ready in its socket. A lane
takes the cpus and the memory of one task. How many lie ready follows from how long such tasks took: some milliseconds
of work, so that a child never waits for the next one and no task waits long behind another.

Accounts share what is lent, however many callers each of them has and however many tasks those send: an account that
has less than another, and tasks that wait, gets the next lane that the other one has had for a while. Callers that
belong to no account count as one. Within an account its callers take turns.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hivemind_p2p.types import PeerId, Work

AHEAD: Final = 0.012
"""Seconds of work that lie ready in a child: several times what a busy loop needs to bring more."""

MOST_AHEAD: Final = 160
"""Tasks in a child's socket at most: what its buffer takes."""

SLICE: Final = 0.2
"""Seconds that a caller keeps a lane while others have none. A change costs some milliseconds where a warm child is
ready, and a tenth of a second where one has to be started."""

FORGETTING: Final = 0.75
"""How much of the old estimate stays when a task took less time. One that took more replaces it: what lies behind a
long task waits."""


class Key(NamedTuple):
    """What the tasks of one lane have in common."""

    caller: PeerId
    cpus: float
    memory_bytes: int
    gpus: int = 0
    network: bool = False

    @classmethod
    def of(cls, work: Work) -> Key:
        """The key of a task."""
        needs = work.needs
        return cls(work.caller, needs.cpus, needs.memory_bytes, needs.gpus, needs.network)

    @property
    def child(self) -> tuple[PeerId, int, int, bool]:
        """What the tasks of one child have in common."""
        return self.caller, self.memory_bytes, self.gpus, self.network


@dataclass(frozen=True, slots=True)
class Give:
    """The task goes to the end of a lane."""

    lane: int
    ticket: int


@dataclass(frozen=True, slots=True)
class Open:
    """A new lane begins, which needs a child of this key."""

    lane: int
    key: Key


@dataclass(frozen=True, slots=True)
class Close:
    """A lane has ended: its child is free."""

    lane: int


Action = Give | Open | Close


@dataclass(slots=True)
class _Line:
    """The tasks of one key that wait."""

    key: Key
    tickets: deque[int] = field(default_factory=deque)
    urgent: dict[int, deque[int]] = field(default_factory=dict)
    account: str = ""
    seconds: float | None = None
    lanes: int = 0

    @property
    def depth(self) -> int:
        """Tasks that a lane may hold."""
        if self.seconds is None:
            return 1
        return min(MOST_AHEAD, 1 + int(AHEAD / max(self.seconds, 1e-6)))

    def __len__(self) -> int:
        return len(self.tickets) + sum(map(len, self.urgent.values()))

    def add(self, ticket: int, priority: int) -> None:
        if priority == 0:
            self.tickets.append(ticket)
        else:
            self.urgent.setdefault(priority, deque()).append(ticket)

    def take(self) -> int:
        if self.urgent:
            highest = max(self.urgent)
            if highest > 0 or not self.tickets:
                ticket = self.urgent[highest].popleft()
                if not self.urgent[highest]:
                    del self.urgent[highest]
                return ticket
        return self.tickets.popleft()

    def remove(self, ticket: int) -> bool:
        for line in (self.tickets, *self.urgent.values()):
            if ticket in line:
                line.remove(ticket)
                self.urgent = {priority: kept for priority, kept in self.urgent.items() if kept}
                return True
        return False


@dataclass(slots=True)
class Lane:
    """A child at work.

    Attributes:
        line: Where its tasks come from.
        tickets: What it holds, in order; the first one runs.
        opened: When it began.
    """

    id: int
    line: _Line
    opened: float
    tickets: deque[int] = field(default_factory=deque)


class Lanes:
    """Shares the cpus and the memory that are lent among tasks.

    Args:
        cpus: Cores lent.
        memory_bytes: Memory lent.
        gpus: GPUs lent.
    """

    def __init__(self, cpus: float, memory_bytes: int, gpus: int = 0) -> None:
        self._free_cpus = cpus
        self._free_memory = memory_bytes
        self._free_gpus = gpus
        self._lines: dict[Key, _Line] = {}
        self._line_of: dict[int, _Line] = {}
        self._lanes: dict[int, Lane] = {}
        self._account_of: dict[PeerId, str] = {}
        self._shares: dict[str, float] = {}
        self._turns: dict[str, int] = {}
        self._next_lane = 0
        self.waiting = 0
        self.paused = False

    @property
    def running(self) -> int:
        """Lanes that have a task."""
        return sum(1 for lane in self._lanes.values() if lane.tickets)

    def lane(self, lane: int) -> Lane:
        """An open lane."""
        return self._lanes[lane]

    def belongs(self, caller: PeerId, account: str) -> None:
        """Says whose a caller is, from now on; empty for nobody's."""
        self._account_of.pop(caller, None)
        while len(self._account_of) >= MOST_CALLERS:
            del self._account_of[next(iter(self._account_of))]
        self._account_of[caller] = account
        for line in self._lines.values():
            if line.key.caller == caller and line.account != account:
                self._take_share(line, -line.lanes)
                line.account = account
                self._take_share(line, line.lanes)

    def _take_share(self, line: _Line, lanes: int) -> None:
        share = self._shares.pop(line.account, 0.0) + lanes * line.key.cpus
        if share > 1e-9:
            self._shares[line.account] = share

    def seconds(self, key: Key) -> float | None:
        """How long the tasks of a key take; None while that is not known."""
        line = self._lines.get(key)
        return line.seconds if line is not None else None

    def submit(self, ticket: int, key: Key, priority: int = 0) -> None:
        """A task comes to the end of its line."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(key, account=self._account_of.get(key.caller, ""))
        line.add(ticket, priority)
        self._line_of[ticket] = line
        self.waiting += 1

    def withdraw(self, ticket: int) -> bool:
        """Takes a task out that waits; False if it does not."""
        line = self._line_of.get(ticket)
        if line is None or not line.remove(ticket):
            return False
        del self._line_of[ticket]
        self.waiting -= 1
        return True

    def ended(self, lane: int, ticket: int, seconds: float | None = None) -> None:
        """A task of a lane has ended, after this time; None where that says nothing about others of its kind."""
        held = self._lanes[lane]
        if held.tickets and held.tickets[0] == ticket:
            held.tickets.popleft()
        else:
            held.tickets.remove(ticket)
        self._line_of.pop(ticket, None)
        if seconds is not None:
            self._learn(held.line, seconds)

    def _learn(self, line: _Line, seconds: float) -> None:
        if line.seconds is None or seconds >= line.seconds:
            line.seconds = seconds
        else:
            line.seconds = FORGETTING * line.seconds + (1 - FORGETTING) * seconds

    def recalled(self, lane: int, tickets: list[int], *, head_seconds: float) -> None:
        """Tasks that lay ready in a lane were taken back; what is at its head runs since so long."""
        held = self._lanes[lane]
        gone = set(tickets)
        held.tickets = deque(ticket for ticket in held.tickets if ticket not in gone)
        held.line.tickets.extendleft(reversed(tickets))
        self.waiting += len(tickets)
        if head_seconds:
            self._learn(held.line, head_seconds)

    def lost(self, lane: int) -> None:
        """The child of a lane is gone; its tasks must have ended or been recalled before."""
        self._shut(self._lanes[lane])

    def decide(self, now: float) -> list[Action]:
        """Everything that can be done now."""
        actions: list[Action] = []
        wait = self._that_wait() if len(self._lines) > 1 else []
        for lane in list(self._lanes.values()):
            self._fill(lane, bool(wait) and self._is_to_part(lane, wait), now, actions)
        for lane in [lane for lane in self._lanes.values() if not lane.tickets]:
            self._shut(lane)
            actions.append(Close(lane.id))
        while (line := self._first_to_open()) is not None:
            lane = self._open(line, now)
            actions.append(Open(lane.id, line.key))
            self._fill(lane, False, now, actions)
        return actions

    def _fill(self, lane: Lane, parts: bool, now: float, actions: list[Action]) -> None:
        line = lane.line
        if self.paused or not len(line) or (parts and now - lane.opened >= SLICE):
            return
        # With several lanes, a short line is shared out evenly instead of lying ready in one of them.
        share = -(-len(line) // max(1, line.lanes))
        for _ in range(min(line.depth - len(lane.tickets), share)):
            ticket = line.take()
            self.waiting -= 1
            lane.tickets.append(ticket)
            actions.append(Give(lane.id, ticket))

    def _that_wait(self) -> list[_Line]:
        """Lines that could do with another lane."""
        return [line for line in self._lines.values() if len(line)]

    def _is_to_part(self, lane: Lane, wait: list[_Line]) -> bool:
        """Whether somebody waits for whom a lane is to end: who has none, or whose account has less and still would."""
        own = lane.line
        return any(self._goes_before(line, own) for line in wait if line is not own)

    def _goes_before(self, line: _Line, own: _Line) -> bool:
        has, owned = self._share(line), self._share(own)
        if line.account == own.account or not has:
            return not line.lanes
        return has + line.key.cpus <= owned - own.key.cpus + 1e-9

    def _share(self, line: _Line) -> float:
        """Cpus that the account of a line has now."""
        return self._shares.get(line.account, 0.0)

    def _first_to_open(self) -> _Line | None:
        """The line that gets the next lane: of the account with the least, in turns; None where nothing fits."""
        if self.paused:
            return None
        wait = self._that_wait()
        for line in sorted(wait, key=self._order) if len(wait) > 1 else wait:
            if self._fits(line.key):
                return line
            if not line.lanes:
                return None  # the first one that does not fit holds up those behind it: it would wait for ever
        return None

    def _order(self, line: _Line) -> tuple[float, int, int]:
        return self._share(line), self._turns.get(line.account, 0), line.lanes

    def _fits(self, key: Key) -> bool:
        enough = key.cpus <= self._free_cpus + 1e-9 and key.memory_bytes <= self._free_memory
        return enough and key.gpus <= self._free_gpus

    def _open(self, line: _Line, now: float) -> Lane:
        self._next_lane += 1
        lane = self._lanes[self._next_lane] = Lane(self._next_lane, line, now)
        line.lanes += 1
        self._take_share(line, 1)
        self._turns.pop(line.account, None)
        self._turns[line.account] = self._next_lane
        if len(self._turns) > MOST_LINES:
            del self._turns[next(iter(self._turns))]
        self._free_cpus -= line.key.cpus
        self._free_memory -= line.key.memory_bytes
        self._free_gpus -= line.key.gpus
        return lane

    def _shut(self, lane: Lane) -> None:
        del self._lanes[lane.id]
        line = lane.line
        line.lanes -= 1
        self._take_share(line, -1)
        self._free_cpus += line.key.cpus
        self._free_memory += line.key.memory_bytes
        self._free_gpus += line.key.gpus
        del self._lines[line.key]
        if line.lanes or len(line) or len(self._lines) < MOST_LINES:
            self._lines[line.key] = line  # at the end of the turn


MOST_LINES: Final = 256
"""Keys whose times are remembered."""

MOST_CALLERS: Final = 4096
"""Callers of which it is remembered whose they are."""
