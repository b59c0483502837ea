"""What a member of a swarm can decide to do, and what it has to know of its content. Performed by `exchange.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from hivemind_p2p.bt.wire import Message
from hivemind_p2p.types import PeerId, PeerInfo


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a peer, after all that was sent to it before."""

    peer: PeerId
    message: Message


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell a peer of pieces that have arrived here; this may wait a moment for more of them."""

    peer: PeerId
    pieces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A peer's requests wait to be answered: see `Member.next_answers`."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Dial:
    """Begin a conversation with somebody who was told of; say with `Member.tried` how it went."""

    info: PeerInfo


@dataclass(frozen=True, slots=True)
class Leave:
    """End the conversation with a peer."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Ban:
    """End it, and never begin another one about this content."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Every wanted piece is stored."""


Action: TypeAlias = Send | Tell | Answer | Dial | Leave | Ban | Finished


@dataclass(frozen=True, slots=True)
class Shape:
    """What a member has to know of its content: how many pieces, how long they are, and how long each one is."""

    pieces: int
    piece_length: int
    length_of: Callable[[int], int]
