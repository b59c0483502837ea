"""Dialling: one attempt at a peer at a time, however many want it; its addresses raced, each failure told.

libp2p tries one address a transport, which fails when a dead one stands first, and blocks a peer for a minute after
a failure. So the addresses are dialled here, each on its own, and libp2p's address book stays out of it. A peer that
did not answer is left alone for a moment, which doubles with each failure.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import trio

from hivemind_p2p.errors import NetworkError, PeerUnreachableError
from hivemind_p2p.net.addresses import is_circuit, is_dialable
from hivemind_p2p.net.background import Background
from hivemind_p2p.net.backoff import Backoff
from hivemind_p2p.types import PeerId

DIAL_TIMEOUT: Final = 5.0
"""Seconds for one address: TCP, Noise and Yamux take five round trips."""

HEAD_START: Final = 0.15
"""Seconds before the next address is tried besides the ones under way: half of a slow round trip (RFC 8305)."""

MOST_ADDRESSES: Final = 8
"""Addresses of one peer that are tried; a record with hundreds must not make this peer a scanner."""

MOST_RELAYED: Final = 2
"""Of them, addresses through relays."""

FIRST_WAIT: Final = 0.25
"""Seconds at most until a peer that did not answer is dialled again; doubled with each failure. Whoever asks before is
told the reasons of the last dial: a thousand requests to a dead peer are one dial and not a thousand."""

LONGEST_WAIT: Final = 5.0
"""Seconds: whoever asks for a peer that has come back finds it within this time."""

MOST_LOST: Final = 1024
"""Peers that did not answer and are remembered for it."""

ConnectionType = TypeVar("ConnectionType")


class Dialler(Generic[ConnectionType]):
    """Connects to peers.

    Args:
        background: Where dials run, so that one caller that gives up does not end the dial of another.
        dial: Connects to a peer at one address, or raises `NetworkError`.
        hang_up: Closes a connection that came second.
        chance: Numbers from 0 to 1, evenly spread, for the time between two dials of a peer that does not answer.
    """

    def __init__(
        self,
        background: Background,
        *,
        dial: Callable[[PeerId, str], Awaitable[ConnectionType]],
        hang_up: Callable[[ConnectionType], Awaitable[object]],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._chance = chance
        self._background = background
        self._dial = dial
        self._hang_up = hang_up
        self._under_way: dict[PeerId, _Race[ConnectionType]] = {}
        self._lost: OrderedDict[PeerId, _Lost[ConnectionType]] = OrderedDict()
        self.dials = self.failures = 0

    async def connect(self, peer: PeerId, addresses: Sequence[str]) -> ConnectionType:
        """A connection to a peer, from the dial that is under way if there is one.

        Raises:
            PeerUnreachableError: No address answered, or none is known that can be dialled.
        """
        race = self._under_way.get(peer)
        if race is None:
            self._check_backoff(peer, addresses)
            race = self._start(peer, addresses)
        await race.over.wait()
        if not race.connections:
            raise race.error(peer)
        return race.connections[0]

    def heard_from(self, peer: PeerId) -> None:
        """Notes that a peer lives, so that it is dialled at once the next time."""
        self._lost.pop(peer, None)

    def _check_backoff(self, peer: PeerId, addresses: Sequence[str]) -> None:
        lost = self._lost.get(peer)
        if lost is None or lost.race.addresses != tuple(_in_order(addresses)):
            return
        wait = lost.backoff.next_try - trio.current_time()
        if wait > 0:
            raise lost.race.error(peer, f"; it is not dialled again for {wait:.1f} s")

    def _note(self, peer: PeerId, race: _Race[ConnectionType]) -> None:
        if race.connections:
            self.heard_from(peer)
            return
        self.failures += 1
        lost = self._lost.pop(peer, None)
        backoff = lost.backoff if lost else Backoff(self._chance, first=FIRST_WAIT, most=LONGEST_WAIT)
        backoff.failed(trio.current_time())
        self._lost[peer] = _Lost(backoff, race)
        if len(self._lost) > MOST_LOST:
            self._lost.popitem(last=False)

    def _start(self, peer: PeerId, addresses: Sequence[str]) -> _Race[ConnectionType]:
        usable = _in_order(addresses)
        if not usable:
            known = f"none of {', '.join(addresses)} can be dialled" if addresses else "no address is known"
            raise PeerUnreachableError(f"peer {peer} cannot be dialled: {known}")
        race: _Race[ConnectionType] = _Race(usable[:MOST_ADDRESSES])
        self._under_way[peer] = race
        self.dials += 1
        if not self._background.start(lambda: self._run(peer, race)):
            race.reasons = dict.fromkeys(race.addresses, "this peer's transport is closed")
            race.over.set()
            del self._under_way[peer]
        return race

    async def _run(self, peer: PeerId, race: _Race[ConnectionType]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                for address in race.addresses:
                    failed = trio.Event()
                    nursery.start_soon(self._attempt, peer, address, race, failed, nursery.cancel_scope)
                    with trio.move_on_after(HEAD_START):
                        await failed.wait()
        finally:
            self._note(peer, race)
            self._under_way.pop(peer, None)
            race.over.set()
        for late in race.connections[1:]:
            await self._hang_up(late)

    async def _attempt(
        self,
        peer: PeerId,
        address: str,
        race: _Race[ConnectionType],
        failed: trio.Event,
        others: trio.CancelScope,
    ) -> None:
        try:
            with trio.fail_after(DIAL_TIMEOUT):
                race.connections.append(await self._dial(peer, address))
            others.cancel()
        except trio.TooSlowError:
            race.reasons[address] = f"no answer within {DIAL_TIMEOUT:g} s"
        except NetworkError as error:
            race.reasons[address] = error.message
        finally:
            failed.set()


def _in_order(addresses: Sequence[str]) -> list[str]:
    """The addresses that can be dialled, those through relays last: they are slower, and cost others something."""
    told = dict.fromkeys(addresses)
    relayed = [address for address in told if is_circuit(address)][:MOST_RELAYED]
    direct = [address for address in told if is_dialable(address)][: MOST_ADDRESSES - len(relayed)]
    return [*direct, *relayed]


class _Race(Generic[ConnectionType]):
    """One dial of one peer."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = tuple(addresses)
        self.connections: list[ConnectionType] = []
        self.reasons: dict[str, str] = {}
        self.over = trio.Event()

    def error(self, peer: PeerId, when: str = "") -> PeerUnreachableError:
        """Who could not be reached, where, and why."""
        tried = "; ".join(f"{address}: {self.reasons.get(address, 'not tried')}" for address in self.addresses)
        return PeerUnreachableError(f"peer {peer} did not answer ({tried}){when}")


@dataclass(frozen=True, slots=True)
class _Lost(Generic[ConnectionType]):
    """A peer that did not answer."""

    backoff: Backoff
    race: _Race[ConnectionType]
