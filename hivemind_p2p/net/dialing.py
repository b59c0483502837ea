"""Dialling: one attempt at a peer at a time, however many want it; its addresses raced, each failure told.

libp2p tries one address a transport, which fails when a dead one stands first, and blocks a peer for a minute after
a failure. So the addresses are dialled here, each on its own, and libp2p's address book stays out of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import trio

from hivemind_p2p.errors import NetworkError, PeerUnreachableError
from hivemind_p2p.net.addresses import is_circuit, is_dialable
from hivemind_p2p.net.background import Background
from hivemind_p2p.types import PeerId

DIAL_TIMEOUT: Final = 5.0
"""Seconds for one address: TCP, Noise and Yamux take five round trips."""

HEAD_START: Final = 0.15
"""Seconds before the next address is tried besides the ones under way: half of a slow round trip (RFC 8305)."""

MOST_ADDRESSES: Final = 8
"""Addresses of one peer that are tried; a record with hundreds must not make this peer a scanner."""

MOST_RELAYED: Final = 2
"""Of them, addresses through relays."""

ConnectionType = TypeVar("ConnectionType")


class Dialler(Generic[ConnectionType]):
    """Connects to peers.

    Args:
        background: Where dials run, so that one caller that gives up does not end the dial of another.
        dial: Connects to a peer at one address, or raises `NetworkError`.
        hang_up: Closes a connection that came second.
    """

    def __init__(
        self,
        background: Background,
        *,
        dial: Callable[[PeerId, str], Awaitable[ConnectionType]],
        hang_up: Callable[[ConnectionType], Awaitable[object]],
    ) -> None:
        self._background = background
        self._dial = dial
        self._hang_up = hang_up
        self._under_way: dict[PeerId, _Race[ConnectionType]] = {}
        self.dials = self.failures = 0

    async def connect(self, peer: PeerId, addresses: Sequence[str]) -> ConnectionType:
        """A connection to a peer, from the dial that is under way if there is one.

        Raises:
            PeerUnreachableError: No address answered, or none is known that can be dialled.
        """
        race = self._under_way.get(peer)
        if race is None:
            race = self._start(peer, addresses)
        await race.over.wait()
        if not race.connections:
            raise race.error(peer)
        return race.connections[0]

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
            self.failures += not race.connections
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

    def error(self, peer: PeerId) -> PeerUnreachableError:
        """Who could not be reached, where, and why."""
        tried = "; ".join(f"{address}: {self.reasons.get(address, 'not tried')}" for address in self.addresses)
        return PeerUnreachableError(f"peer {peer} did not answer ({tried})")
