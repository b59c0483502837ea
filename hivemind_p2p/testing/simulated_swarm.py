"""A swarm of many members on a calendar of events: the members that real peers run, without network, disk or waiting.

For simulations. A message takes `latency`; a block goes through its sender's uplink, then its receiver's downlink, one
after the other in each. Some peers may lie, give nothing, be slow, leave and come back, or be parted from the others.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from hivemind_p2p.bt.actions import Action, Answer, Ban, Dial, Leave, Send, Shape, Tell
from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.member import Member, Self
from hivemind_p2p.bt.wire import Block, Choking, Have, Members
from hivemind_p2p.types import PeerId, PeerInfo

T = TypeVar("T")

TICK = 1.0
"""Seconds between two ticks of a member."""

LOOK_AGAIN = 10.0
"""Seconds between two looks into the directory."""

NEIGHBOURS = 12
"""Conversations up to which the directory's sources are dialled; more come by hearsay."""

SOCKET_SECONDS = 0.5
"""Seconds of a receiver's downlink that may wait for it; then senders are held up, as TCP does it."""

PATIENCE = 12.0
"""Seconds after which a source counts as silent."""


class Chance(Protocol):
    """What of `random.Random` is used."""

    def random(self) -> float:
        """A number from 0 to 1."""

    def randrange(self, stop: int, /) -> int:
        """A number below another."""

    def shuffle(self, x: list[T], /) -> None:
        """Puts a list in a random order."""


@dataclass(slots=True)
class Simulated:
    """One peer.

    Attributes:
        up: Bytes a second that it can send.
        down: Bytes a second that it can receive.
        lies: Says that it has everything and sends wrong bytes, and tells of peers that do not exist.
        gives: Whether it serves anybody.
        finished_at: When it had everything.
        sent: Bytes that it sent.
        banned_honest: Peers that it banned and that did not lie.
    """

    peer_id: PeerId
    up: float
    down: float
    lies: bool
    gives: bool
    held: Bitfield
    member: Member
    here: bool = False
    up_free_at: float = 0.0
    down_free_at: float = 0.0
    pumping: bool = False
    waiting: dict[PeerId, None] = field(default_factory=dict)
    linked: dict[PeerId, int] = field(default_factory=dict)
    life: int = 0
    finished_at: float | None = None
    sent: int = 0
    banned_honest: int = 0


class Population:
    """Peers that share one content.

    Args:
        pieces: Of the content.
        piece_length: Bytes.
        latency: Seconds that a message takes.
        chance: Draws everything that is random: the same one, the same life.
    """

    def __init__(self, pieces: int, *, piece_length: int, latency: float, chance: Chance) -> None:
        self.peers: dict[PeerId, Simulated] = {}
        self.now = 0.0
        self._shape = Shape(pieces, piece_length, lambda _: piece_length)
        self._latency = latency
        self._chance = chance
        self._calendar: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._island: dict[PeerId, int] = {}

    # -- people ------------------------------------------------------------------------------------------------------

    def add(
        self, *, complete: bool = False, up: float = 2e6, down: float = 8e6, lies: bool = False, gives: bool = True
    ) -> Simulated:
        """A new peer, which is not there before `join`."""
        peer_id = PeerId(f"peer{len(self.peers):04}")
        pieces = self._shape.pieces
        held = Bitfield.full(pieces) if complete or lies else Bitfield(pieces)
        own = Self(peer_id, lambda: held, lambda: (f"/{peer_id}",), self._chance.randrange)
        order = self._order() if complete and not lies else []
        member = Member(own, self._shape, order=order, now=self.now)
        self.peers[peer_id] = peer = Simulated(peer_id, up, down, lies, gives, held, member)
        return peer

    def join(self, peer: Simulated) -> None:
        """It comes, or comes back with what it had."""
        peer.here = True
        if not peer.held.complete:
            order = [piece for piece in self._order() if piece not in peer.held]
            self._perform(peer, peer.member.want(order, patience=PATIENCE, now=self.now))
        peer.life += 1
        self._tick(peer, peer.life)
        self._look(peer, peer.life)

    def leave(self, peer: Simulated) -> None:
        """It goes without a word."""
        peer.here = False
        for other in tuple(peer.linked):
            self._unlink(peer, self.peers[other])
        self._perform(peer, peer.member.want_nothing())

    def part(self, islands: Sequence[Sequence[Simulated]]) -> None:
        """Cuts the network: peers of different islands lose each other."""
        self._island = {peer.peer_id: number for number, island in enumerate(islands) for peer in island}
        for peer in self.peers.values():
            for other in tuple(peer.linked):
                if not self._reaches(peer, self.peers[other]):
                    self._unlink(peer, self.peers[other])

    def heal(self) -> None:
        """Ends the cut."""
        self._island = {}

    def at(self, time: float, event: Callable[[], None]) -> None:
        """Puts an event into the calendar."""
        heapq.heappush(self._calendar, (time, next(self._numbers), event))

    def run(self, until: float, done: Callable[[], bool]) -> bool:
        """Lets time pass until `done`; whether it came to that."""
        while self._calendar and not done():
            self.now, _, event = heapq.heappop(self._calendar)
            if self.now > until:
                return False
            event()
        return done()

    # -- doing -------------------------------------------------------------------------------------------------------

    def _order(self) -> list[int]:
        order = list(range(self._shape.pieces))
        self._chance.shuffle(order)
        return order

    def _tick(self, peer: Simulated, life: int) -> None:
        if not peer.here or peer.life != life:
            return
        self._perform(peer, peer.member.tick(self.now))
        self.at(self.now + TICK, partial(self._tick, peer, life))

    def _look(self, peer: Simulated, life: int) -> None:
        if not peer.here or peer.life != life:
            return
        others = [other for other in self.peers.values() if other.here and len(other.held)]
        self._chance.shuffle(others)
        if peer.member.download is not None:
            for other in others[: max(0, NEIGHBOURS - len(peer.member.peers))]:
                self._dial(peer, other)
        self.at(self.now + LOOK_AGAIN, partial(self._look, peer, life))

    def _reaches(self, peer: Simulated, other: Simulated) -> bool:
        return self._island.get(peer.peer_id) == self._island.get(other.peer_id)

    def _dial(self, peer: Simulated, other: Simulated) -> bool:
        if other is peer or other.peer_id in peer.linked or other.peer_id in peer.member.banned:
            return False
        if not (other.here and self._reaches(peer, other)) or peer.peer_id in other.member.banned:
            return False
        peer.linked[other.peer_id] = other.linked[peer.peer_id] = next(self._numbers)
        self._perform(peer, peer.member.joined(other.peer_id, self.now))
        self._perform(other, other.member.joined(peer.peer_id, self.now))
        return True

    def _unlink(self, peer: Simulated, other: Simulated) -> None:
        if peer is other or other.peer_id not in peer.linked:
            return
        del peer.linked[other.peer_id], other.linked[peer.peer_id]
        self._perform(peer, peer.member.left(other.peer_id, self.now))
        self._perform(other, other.member.left(peer.peer_id, self.now))

    def _perform(self, peer: Simulated, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send(to, message):
                    if isinstance(message, Choking) and not peer.gives:
                        continue
                    if isinstance(message, Members) and peer.lies:
                        message = Members(tuple(PeerInfo(PeerId(f"nobody{next(self._numbers)}")) for _ in range(20)))
                    self._post(peer, to, partial(self.peers[to].member.heard, peer.peer_id, message))
                case Tell(to, pieces):
                    self._post(peer, to, partial(self.peers[to].member.heard, peer.peer_id, Have(pieces)))
                case Answer(to):
                    peer.waiting[to] = None
                    self._pump(peer)
                case Dial(info):
                    other = self.peers.get(info.peer_id)
                    peer.member.tried(info.peer_id, reached=other is not None and self._dial(peer, other))
                case Ban(who):
                    peer.banned_honest += not self.peers[who].lies
                    self._unlink(peer, self.peers[who])
                case Leave(who):
                    self._unlink(peer, self.peers[who])
                case _:
                    peer.finished_at = self.now
                    self._perform(peer, peer.member.want_nothing())

    def _post(self, peer: Simulated, to: PeerId, deliver: Callable[[float], list[Action]]) -> None:
        link = peer.linked.get(to)

        def arrive() -> None:
            if link is not None and peer.linked.get(to) == link:
                self._perform(self.peers[to], deliver(self.now))

        self.at(self.now + self._latency, arrive)

    # -- blocks ------------------------------------------------------------------------------------------------------

    def _pump(self, peer: Simulated) -> None:
        """Sends the next block, of each peer that asked in turn; a receiver that is behind is passed over."""
        if peer.pumping:
            return
        later = []
        for to in tuple(peer.waiting):
            del peer.waiting[to]
            if to not in peer.linked:
                continue
            busy_until = self.peers[to].down_free_at - SOCKET_SECONDS
            if busy_until > self.now:
                later.append(busy_until)
                peer.waiting[to] = None
                continue
            if blocks := peer.member.next_answers(to, 1):
                peer.waiting[to] = None
                self._send(peer, to, blocks[0])
                return
        if later:
            self.at(min(later), partial(self._pump, peer))

    def _send(self, peer: Simulated, to: PeerId, block: Block) -> None:
        peer.pumping = True
        self.at(self.now + block.length / peer.up, partial(self._sent, peer, to, block, peer.linked[to]))

    def _sent(self, peer: Simulated, to: PeerId, block: Block, link: int) -> None:
        peer.pumping = False
        if peer.linked.get(to) == link:
            peer.sent += block.length
            peer.member.given(to, block)
            receiver = self.peers[to]
            begin = max(self.now + self._latency, receiver.down_free_at)
            receiver.down_free_at = begin + block.length / receiver.down
            self.at(receiver.down_free_at, partial(self._arrived, receiver, peer, block, link))
        self._pump(peer)

    def _arrived(self, peer: Simulated, sender: Simulated, block: Block, link: int) -> None:
        if peer.linked.get(sender.peer_id) != link:
            return
        _, complete, actions = peer.member.block_arrived(sender.peer_id, block, self.now)
        self._perform(peer, actions)
        if not complete:
            return
        if sender.lies:
            self._perform(peer, peer.member.corrupt(sender.peer_id, block.piece, self.now))
            return
        peer.held.add(block.piece)
        self._perform(peer, peer.member.stored([block.piece], self.now))
