"""Who else takes part: what a peer tells the others, and how much it believes of what it is told (after BEP 11).

Members of a swarm tell each other of those they speak with. Nothing that is told counts before it was tried: a peer
that is heard of is dialled, and the connection proves who it is. So a lie costs one failed dial, and who tells of
peers that cannot be reached is soon not listened to any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hivemind_p2p.types import PeerId, PeerInfo

MOST_TOLD = 50
"""Peers in one message."""

TELL_EVERY = 60.0
"""Seconds between two messages to one peer, as in BEP 11; the first goes at once."""

FIRST_NEWS = 2.0
"""Seconds after which newcomers are told to somebody who has heard little yet."""

EAGER_BELOW = 20
"""Somebody who was told of fewer peers than this hears of newcomers early: small swarms find together at once."""

MOST_HEARD = 200
"""Peers remembered that were heard of and not tried yet."""

MOST_OF_ONE = 50
"""Of these, how many on the word of one peer: one liar cannot crowd out the others."""

MOST_REMEMBERED = 1000
"""Peers of which it is remembered how well they told, or that they were tried."""

TRUST = 8
"""Dials in vain, beyond those that succeeded, after which a teller is not listened to any more."""


@dataclass(slots=True)
class _Teller:
    told: set[PeerId] = field(default_factory=set)
    told_at: float | None = None
    waiting: int = 0
    good: int = 0
    bad: int = 0


@dataclass(slots=True)
class _Tip:
    info: PeerInfo
    teller: PeerId


class PeerExchange:
    """What is told and believed in the swarm of one content.

    Args:
        me: This peer, which nobody needs to tell it of.
    """

    def __init__(self, me: PeerId) -> None:
        self._me = me
        self._members: dict[PeerId, PeerInfo] = {}
        self._tellers: dict[PeerId, _Teller] = {}
        self._tips: dict[PeerId, _Tip] = {}
        self._tried: dict[PeerId, PeerId] = {}

    @property
    def heard_of(self) -> int:
        """Peers that were told of and not tried yet."""
        return len(self._tips)

    def joined(self, info: PeerInfo) -> None:
        """A conversation began; where it can be dialled is what it says itself."""
        self._members[info.peer_id] = info
        self._tellers.setdefault(info.peer_id, _Teller())
        gone = next((peer for peer in self._tellers if peer not in self._members), None)
        if gone is not None and len(self._tellers) > MOST_REMEMBERED:
            del self._tellers[gone]
        tip = self._tips.pop(info.peer_id, None)
        if tip is not None:
            self._count(tip.teller)

    def left(self, peer: PeerId) -> None:
        """A conversation ended."""
        self._members.pop(peer, None)

    def tell(self, peer: PeerId, now: float) -> tuple[PeerInfo, ...] | None:
        """What to tell a peer now; None if it is not its turn. May be empty: a sign of life."""
        teller = self._tellers.get(peer)
        if teller is None or peer not in self._members:
            return None
        news = [info for other, info in self._members.items() if other != peer and other not in teller.told]
        if teller.told_at is not None:
            wait = FIRST_NEWS if news and len(teller.told) < EAGER_BELOW else TELL_EVERY
            if now - teller.told_at < wait:
                return None
        elif not news:
            teller.told_at = now - TELL_EVERY + FIRST_NEWS
            return None
        told = tuple(news[:MOST_TOLD])
        teller.told.update(info.peer_id for info in told)
        teller.told_at = now
        return told

    def heard(self, teller: PeerId, members: Iterable[PeerInfo]) -> None:
        """A peer told of others."""
        state = self._tellers.get(teller)
        if state is None or state.bad - state.good >= TRUST:
            return
        for info in members:
            known = info.peer_id in self._members or info.peer_id in self._tips or info.peer_id in self._tried
            if known or info.peer_id in (self._me, teller):
                continue
            if len(self._tips) >= MOST_HEARD or state.waiting >= MOST_OF_ONE:
                return
            self._tips[info.peer_id] = _Tip(info, teller)
            state.waiting += 1

    def next_to_try(self) -> PeerInfo | None:
        """Somebody to dial; the caller says with `tried` how it went."""
        while self._tips:
            peer = next(iter(self._tips))
            tip = self._tips.pop(peer)
            self._count(tip.teller)
            teller = self._tellers.get(tip.teller)
            if teller is None or teller.bad - teller.good >= TRUST or peer in self._members:
                continue
            self._tried[peer] = tip.teller
            if len(self._tried) > MOST_REMEMBERED:
                del self._tried[next(iter(self._tried))]
            return tip.info
        return None

    def tried(self, peer: PeerId, *, reached: bool) -> None:
        """How a dial went that `next_to_try` asked for."""
        teller = self._tellers.get(self._tried.get(peer, PeerId("")))
        if reached:
            self._tried.pop(peer, None)
        if teller is not None:
            teller.good += reached
            teller.bad += not reached

    def _count(self, teller: PeerId) -> None:
        if teller in self._tellers:
            self._tellers[teller].waiting -= 1
