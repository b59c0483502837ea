"""A network inside one process: for tests, and for simulations of many peers under a mock clock.

    network = MemoryNetwork(latency=0.025, bandwidth=10_000_000, seed=7)
    alice, bob = network.join(alice_identity), network.join(bob_identity)
    network.partition([{alice.peer_id}, {bob.peer_id}])

It keeps the promises that libp2p keeps, and breaks as libp2p does:

- A peer is dialled at an address that was learned (`learn`), or over the connection that it opened itself.
- A stream is in order and bounded: a writer waits for a reader. Each direction between two peers has its own
  `latency` (seconds) and `bandwidth` (bytes a second, shared by all streams of that direction).
- `loss` is the probability that one write breaks its stream, for both sides and at once. A lost packet shows up as
  delay on a reliable stream, and delay is what `latency` is for; what the layers above have to survive is a
  stream that breaks.
- Across a partition nothing arrives. Streams stall and go on after `heal`; a dial waits, and fails after
  `DIAL_TIMEOUT` seconds.
- A killed peer's streams end: what was on its way still arrives, and then comes a clean end, which is how the
  death of a process looks from the other side of a socket. Its address answers nobody.

Handlers run as trio system tasks, because a peer joins without a nursery; one that raises breaks its stream.
"""

from __future__ import annotations

import itertools
import random
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import PeerUnreachableError, ProtocolError
from hivemind_p2p.identity import Identity
from hivemind_p2p.interfaces import StreamHandler
from hivemind_p2p.net.pipe import PipeStream, stream_pair
from hivemind_p2p.types import PeerId, PeerInfo

DIAL_TIMEOUT: Final = 5.0
"""Seconds a dial waits for a peer that does not answer."""

_events = telemetry.source("memory")


@dataclass(frozen=True, slots=True)
class MemoryStatistics:
    """What a memory transport has done.

    Attributes:
        opened: Streams that this peer opened.
        accepted: Streams that others opened to it.
        refused: Streams that could not be opened, by this peer.
        connections: Peers that it has a connection with.
    """

    opened: int
    accepted: int
    refused: int
    connections: int


class MemoryLink:
    """One direction between two peers, shared by their streams."""

    def __init__(self, network: MemoryNetwork, source: PeerId, target: PeerId) -> None:
        self._network = network
        self._source = source
        self._target = target
        self._free_at = 0.0

    @property
    def blocked(self) -> bool:
        """Whether a partition lies between the two."""
        return self._network.parted(self._source, self._target)

    def arrival(self, size: int) -> float:
        """When `size` bytes that are sent now arrive: after what is being sent already, and the latency."""
        now = trio.current_time()
        if self._network.bandwidth is None:
            return now + self._network.latency
        self._free_at = max(self._free_at, now) + size / self._network.bandwidth
        return self._free_at + self._network.latency

    def loses(self) -> bool:
        """Whether the stream breaks on this write."""
        return self._network.draw_loss()


class MemoryNetwork:
    """Where the peers of one process meet.

    Args:
        latency: Seconds from one peer to another.
        bandwidth: Bytes a second in each direction between two peers; None for no limit.
        loss: The probability that one write breaks its stream.
        seed: Makes the losses repeatable.
    """

    def __init__(
        self, *, latency: float = 0.0, bandwidth: float | None = None, loss: float = 0.0, seed: int = 0
    ) -> None:
        self.latency = latency
        self.bandwidth = bandwidth
        self._loss = loss
        self._random = random.Random(seed)  # noqa: S311 - a simulation, no secret
        self._transports: dict[PeerId, MemoryTransport] = {}
        self._by_address: dict[str, PeerId] = {}
        self._links: dict[tuple[PeerId, PeerId], MemoryLink] = {}
        self._island: dict[PeerId, int] = {}
        self._killed: set[PeerId] = set()
        self._numbers = itertools.count(1)
        self._changed = trio.lowlevel.ParkingLot()

    def join(self, who: Identity | PeerId) -> MemoryTransport:
        """A new peer on this network; one that was killed or closed may join again, at a new address."""
        peer_id = who.peer_id if isinstance(who, Identity) else who
        if peer_id in self._transports:
            raise ValueError(f"{peer_id} is on this network already")
        self._by_address = {address: owner for address, owner in self._by_address.items() if owner != peer_id}
        address = f"/memory/{next(self._numbers)}"
        transport = MemoryTransport(self, peer_id, address)
        self._transports[peer_id] = transport
        self._by_address[address] = peer_id
        self._killed.discard(peer_id)
        self._wake()
        return transport

    def partition(self, islands: Iterable[Iterable[PeerId]]) -> None:
        """Parts the network: peers reach only their own island. Peers that no island names form one together."""
        self._island = {peer: number for number, island in enumerate(islands, start=1) for peer in island}
        self._wake()

    def heal(self) -> None:
        """Ends the partition."""
        self._island = {}
        self._wake()

    def kill(self, peer_id: PeerId) -> None:
        """Ends a peer's process: its handlers stop, its streams end, its address answers nobody."""
        transport = self._transports.pop(peer_id)
        self._killed.add(peer_id)
        transport.leave()

    def parted(self, first: PeerId, second: PeerId) -> bool:
        """Whether a partition lies between two peers."""
        return self._island.get(first, 0) != self._island.get(second, 0)

    def draw_loss(self) -> bool:
        """Whether the next write is lost."""
        return self._loss > 0 and self._random.random() < self._loss

    # -- what the transports ask -------------------------------------------------------------------------------------

    def owner(self, address: str) -> PeerId | None:
        """The peer that was given an address."""
        return self._by_address.get(address)

    def find(self, peer_id: PeerId) -> MemoryTransport | None:
        """A living peer."""
        return self._transports.get(peer_id)

    def remove(self, peer_id: PeerId) -> None:
        """Takes a peer off that closes in good order."""
        self._transports.pop(peer_id, None)

    def link(self, source: PeerId, target: PeerId) -> MemoryLink:
        """The link from one peer to another."""
        if (source, target) not in self._links:
            self._links[source, target] = MemoryLink(self, source, target)
        return self._links[source, target]

    async def reach(self, source: PeerId, target: PeerId) -> bool:
        """Waits until `target` answers `source`; False if it does not within `DIAL_TIMEOUT`."""
        with trio.move_on_after(DIAL_TIMEOUT):
            while not self._answers(source, target):
                await self._changed.park()
        return self._answers(source, target)

    def _answers(self, source: PeerId, target: PeerId) -> bool:
        return target not in self._killed and not self.parted(source, target)

    def _wake(self) -> None:
        self._changed.unpark_all()
        for transport in self._transports.values():
            transport.wake()


class MemoryTransport:
    """One peer's access to a `MemoryNetwork`; implements `hivemind_p2p.interfaces.Transport`."""

    def __init__(self, network: MemoryNetwork, peer_id: PeerId, address: str) -> None:
        self._network = network
        self._peer_id = peer_id
        self._address = address
        self._learned: dict[PeerId, tuple[str, ...]] = {}
        self._handlers: dict[str, StreamHandler] = {}
        self._connected: set[PeerId] = set()
        self._streams: weakref.WeakSet[PipeStream] = weakref.WeakSet()
        self._scopes: set[trio.CancelScope] = set()
        self._gone = False
        self._opened = self._accepted = self._refused = 0

    @property
    def peer_id(self) -> PeerId:
        """Who this peer is."""
        return self._peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this peer can be dialled."""
        return (self._address,)

    def statistics(self) -> MemoryStatistics:
        """What this transport has done so far."""
        return MemoryStatistics(self._opened, self._accepted, self._refused, len(self._connected))

    def learn(self, peer: PeerInfo) -> None:
        """Remembers where a peer can be dialled."""
        if peer.addresses:
            self._learned[peer.peer_id] = peer.addresses

    def round_trip(self, peer: PeerId) -> float | None:
        """Seconds to a connected peer and back."""
        return 2 * self._network.latency if peer in self._connected else None

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Calls `handler` in a task of its own for each stream that a peer opens under `protocol`."""
        self._handlers[protocol] = handler

    async def open_stream(self, peer: PeerId, protocol: str) -> PipeStream:
        """Opens a stream, dialling the peer first where there is no connection: one round trip each.

        Raises:
            PeerUnreachableError: None of its addresses answered, or none is known.
            ProtocolError: It does not speak the protocol.
        """
        try:
            target = await self._reach(peer)
            if protocol not in target._handlers:
                raise ProtocolError(f"peer {peer} does not speak {protocol}")
        except (PeerUnreachableError, ProtocolError):
            self._refused += 1
            raise
        there, back = self._network.link(self._peer_id, peer), self._network.link(peer, self._peer_id)
        opened, accepted = stream_pair(self._peer_id, peer, protocol, there=there, back=back)
        self._opened += 1
        self._streams.add(opened)
        target.accept(accepted)
        return opened

    async def _reach(self, peer: PeerId) -> MemoryTransport:
        await trio.lowlevel.checkpoint()
        if self._gone or peer == self._peer_id:
            raise PeerUnreachableError(f"{self._peer_id} cannot dial {peer}: it is gone, or dials itself")
        round_trips = 1 if peer in self._connected else 2
        if peer not in self._connected:
            self._check_addresses(peer)
        answered = await self._network.reach(self._peer_id, peer)
        await trio.sleep(round_trips * 2 * self._network.latency)
        target = self._network.find(peer)
        if not answered or target is None or self._gone:
            self._connected.discard(peer)
            tried = ", ".join(self._learned.get(peer, ())) or "its own connection"
            raise PeerUnreachableError(f"peer {peer} did not answer (tried {tried})")
        self._connected.add(peer)
        target._connected.add(self._peer_id)
        return target

    def _check_addresses(self, peer: PeerId) -> None:
        addresses = self._learned.get(peer, ())
        if not addresses:
            raise PeerUnreachableError(f"no address of peer {peer} is known")
        if all(self._network.owner(address) != peer for address in addresses):
            raise PeerUnreachableError(f"peer {peer} did not answer (tried {', '.join(addresses)})")

    def accept(self, stream: PipeStream) -> None:
        """Takes a stream that another peer opens."""
        self._accepted += 1
        self._streams.add(stream)
        trio.lowlevel.spawn_system_task(self._serve, self._handlers[stream.protocol], stream)

    async def _serve(self, handler: StreamHandler, stream: PipeStream) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                await handler(stream)
            except Exception as error:
                _events.error("handler_failed", peer=stream.remote, protocol=stream.protocol, error=repr(error))
                stream.reset()
            finally:
                self._scopes.discard(scope)

    def wake(self) -> None:
        """Lets all streams look again, after the network has changed."""
        for stream in tuple(self._streams):
            stream.wake()

    def leave(self) -> None:
        """Ends everything at once."""
        self._gone = True
        for scope in self._scopes:
            scope.cancel()
        for stream in tuple(self._streams):
            stream.hang_up()
        for other in tuple(self._connected):
            self.disconnect(other)

    def disconnect(self, peer: PeerId) -> None:
        """Forgets a connection, on both sides."""
        self._connected.discard(peer)
        other = self._network.find(peer)
        if other is not None and self._peer_id in other._connected:
            other.disconnect(self._peer_id)

    async def aclose(self) -> None:
        """Leaves the network in good order: dials are refused at once."""
        self._network.remove(self._peer_id)
        self.leave()
        await trio.lowlevel.checkpoint()
