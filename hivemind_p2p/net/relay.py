"""The relay: carries calls to peers that cannot be called directly (libp2p's circuit relay v2, the side in the middle).

Participants: a peer that wants to be called and reserves a place; a caller; this relay between them.
Messages: ``HopMessage`` from both to the relay (RESERVE, CONNECT), ``StopMessage`` from the relay to the peer that is
    called; after both have said OK, the bytes of the two streams.
Goals: a call costs the relay two streams and one buffer in each direction; what the relay carries is encrypted end to
    end; no peer takes more than its share; a peer that is gone holds no place.
Non-goals: relaying through other relays (refused, as the specification wants); vouchers (optional there, and nobody
    here asks for them).

Why not libp2p's own: it gives the place to whichever peer the message names instead of the one that asks, forgets the
first of two calls of one peer, and waits half a second at each refusal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import base58
import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import AddressError, NetworkError
from hivemind_p2p.interfaces import Clock
from hivemind_p2p.net.binary_addresses import to_bytes
from hivemind_p2p.net.calls import Call
from hivemind_p2p.net.links import Links
from hivemind_p2p.net.relay_book import Refusal, RelayBook, RelayLimits, RelayStatistics
from hivemind_p2p.proto import reachability_pb2 as wire
from hivemind_p2p.types import PeerId

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"

BUFFER: Final = 256 * 1024
"""Bytes read at a time: as many as a muxer's frame holds."""

_STATUS_OF: Final = {
    Refusal.FULL: wire.RelayStatus.RESOURCE_LIMIT_EXCEEDED,
    Refusal.NO_PLACE: wire.RelayStatus.NO_RESERVATION,
}

_events = telemetry.source("relay")


class Relay:
    """Relays for others as long as its host runs.

    Args:
        links: This peer's connections.
        limits: How much is given.
        clock: Seconds since the epoch.
        addresses: Where this relay can be dialled, asked anew for each reservation.
    """

    def __init__(
        self, links: Links, limits: RelayLimits, *, clock: Clock, addresses: Callable[[], tuple[str, ...]]
    ) -> None:
        self._links = links
        self._book = RelayBook(limits)
        self._clock = clock
        self._addresses = addresses
        links.serve(HOP, self._answer)

    def statistics(self) -> RelayStatistics:
        """What has been relayed so far."""
        return self._book.statistics()

    def holders(self) -> tuple[PeerId, ...]:
        """Who has a place: a connection with them that looks idle is one that they wait at."""
        return self._book.holders()

    async def _answer(self, call: Call) -> None:
        request = await call.receive(wire.HopMessage)
        if call.endpoint is None:
            await _say(call, wire.RelayStatus.PERMISSION_DENIED)
        elif request.type == wire.HopMessage.RESERVE and request.HasField("type"):
            await self._reserve(call, call.endpoint[0])
        elif request.type == wire.HopMessage.CONNECT:
            await self._connect(call, request)
        else:
            await _say(call, wire.RelayStatus.UNEXPECTED_MESSAGE)

    async def _reserve(self, call: Call, host: str) -> None:
        """Gives the place to who asks, whoever the message names."""
        for holder in self._book.holders():
            if self._links.direct(holder) is None:
                self._book.give_up(holder)
        # Places are counted by a clock that nobody sets; only what is told to others is the time of day.
        now = trio.current_time()
        expires = self._book.reserve(call.peer, host, now)
        if isinstance(expires, Refusal):
            await _say(call, wire.RelayStatus.RESERVATION_REFUSED)
            return
        expires += self._clock() - now
        addresses = [_binary(f"{address}/p2p/{self._links.peer_id}") for address in self._addresses()]
        await call.send(
            wire.HopMessage(
                type=wire.HopMessage.STATUS,
                status=wire.RelayStatus.OK,
                reservation=wire.Reservation(expire=int(expires), addrs=[each for each in addresses if each]),
                limit=self._limit(),
            )
        )
        _events.info("place_given", peer=call.peer)

    async def _connect(self, call: Call, request: wire.HopMessage) -> None:
        called = PeerId(base58.b58encode(request.peer.id).decode())
        link = self._links.direct(called) if _is_peer_id(request.peer.id) else None
        refusal = self._book.open_circuit(call.peer, called, trio.current_time()) if link else Refusal.NO_PLACE
        if link is None or refusal is not None:
            await _say(call, _STATUS_OF[refusal or Refusal.NO_PLACE])
            return
        relayed = 0
        try:
            other = await self._stop(call, await self._links.call(link, STOP))
            if other is None:
                return
            await _say(call, wire.RelayStatus.OK)
            _events.info("circuit_opened", caller=call.peer, called=called)
            relayed = await self._carry(call, other)
        except NetworkError as error:
            _events.info("circuit_failed", caller=call.peer, called=called, reason=error.message)
            await _say(call, wire.RelayStatus.CONNECTION_FAILED)
        finally:
            self._book.close_circuit(call.peer, called, relayed)

    async def _stop(self, call: Call, other: Call) -> Call | None:
        """Asks the peer that is called whether it takes the call."""
        caller = wire.RelayPeer(id=base58.b58decode(call.peer))
        try:
            await other.send(wire.StopMessage(type=wire.StopMessage.CONNECT, peer=caller, limit=self._limit()))
            answer = await other.receive(wire.StopMessage)
        except BaseException:
            await other.reset()
            raise
        if answer.type != wire.StopMessage.STATUS or answer.status != wire.RelayStatus.OK:
            await other.reset()
            await _say(call, wire.RelayStatus.CONNECTION_FAILED)
            return None
        return other

    async def _carry(self, call: Call, other: Call) -> int:
        """Carries bytes both ways until one side ends or a limit is reached; how many there were."""
        circuit = _Circuit(self._book.limits.circuit_bytes or math.inf)
        call.keep()
        try:
            with trio.move_on_after(self._book.limits.circuit_seconds or math.inf):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(circuit.pump, call, other, nursery.cancel_scope)
                    nursery.start_soon(circuit.pump, other, call, nursery.cancel_scope)
        finally:
            # A circuit ends for both: in order after the last byte of either, else as a wire that breaks.
            for side in (call, other):
                await (side.close() if circuit.in_order else side.reset())
            _events.info("circuit_ended", caller=call.peer, called=other.peer, relayed=circuit.relayed)
        return circuit.relayed

    def _limit(self) -> wire.Limit:
        limits = self._book.limits
        return wire.Limit(duration=limits.circuit_seconds, data=limits.circuit_bytes)


class _Circuit:
    """The bytes of one call."""

    def __init__(self, most: float) -> None:
        self._most = most
        self.relayed = 0
        self.in_order = False

    async def pump(self, source: Call, sink: Call, circuit: trio.CancelScope) -> None:
        """Carries one direction to its end, which ends the other as well."""
        carried = 0
        try:
            while data := await source.read(BUFFER):
                carried += len(data)
                self.relayed += len(data)
                if carried > self._most:
                    return
                await sink.write(data)
            self.in_order = True
        except NetworkError as error:
            _events.debug("circuit_broke", reason=error.message)
        finally:
            circuit.cancel()


async def _say(call: Call, status: wire.RelayStatus) -> None:
    try:
        await call.send(wire.HopMessage(type=wire.HopMessage.STATUS, status=status))
    except NetworkError:
        _events.debug("answer_unheard", peer=call.peer)


def _is_peer_id(raw: bytes) -> bool:
    return 0 < len(raw) <= 64


def _binary(address: str) -> bytes:
    try:
        return to_bytes(address)
    except AddressError:
        return b""
