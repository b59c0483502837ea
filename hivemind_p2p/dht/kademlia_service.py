"""libp2p's standard Kademlia on our streams, so that other implementations' DHTs find peers and providers through us.

Participants: peers of the hive, which all answer; hosts of other libp2p implementations whose DHT is set to this
protocol id.

Messages: the standard's (see `kademlia_wire`), on a stream of their own or several in sequence.

Goals:
    - One routing table and one set of records: what is stored through our own protocol is found through the standard's
      (`/hivemind/<signer>/<key>`), and the other way round.
    - A stranger that asks is asked who it is (libp2p's identify) and then named to others, as long as it answers.

Non-goals: values that nobody can check; the public IPFS network; signed peer records, which few send.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.dht import ids, kademlia_wire, providers, wire
from hivemind_p2p.dht.channels import PROTOCOL as OWN_PROTOCOL
from hivemind_p2p.dht.channels import REQUEST_DEADLINE
from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.dht.kademlia_node import KademliaNode
from hivemind_p2p.dht.kademlia_wire import Kind, Message, MessageReader, Value, framed
from hivemind_p2p.dht.lookup import Lookup
from hivemind_p2p.dht.node import Node
from hivemind_p2p.dht.walk import walk
from hivemind_p2p.errors import (
    DeadlineExceededError,
    HivemindError,
    NetworkError,
    ProtocolError,
    RecordError,
    StreamClosedError,
)
from hivemind_p2p.interfaces import ByteStream, Clock, Network
from hivemind_p2p.types import PeerId, PeerInfo

PROTOCOL = "/hivemind/kad/1.0.0"

IDENTIFY = "/ipfs/id/1.0.0"
"""Whoever opens a stream under it is told where this peer can be dialled and what it speaks."""

MOST_STREAMS = 512
"""Streams answered at once."""

MOST_STREAMS_OF_PEER = 32
"""Streams answered at once of one peer: stock implementations open one a question, ten at a time."""

IDLE = 60.0
"""Seconds until a stream on which nothing is asked is closed."""

PING_AFTER = 300.0
"""Seconds of silence after which a stranger is asked whether it is still there, before it is named to others again."""

MOST_PINGED = 8
"""Strangers asked in one sweep."""

MOST_UNKNOWN = 16
"""Strangers that wait to be asked who they are."""

_events = telemetry.source("kademlia")


class KademliaService:
    """Answers the standard's messages and speaks them.

    Args:
        network: Its `/hivemind/kad/1.0.0` is answered from now on.
        node: The peer whose routing table and records are used.
        clock: Seconds since the epoch.
    """

    def __init__(self, network: Network, node: Node, clock: Clock) -> None:
        self._network = network
        self._node = node
        self._clock = clock
        self._kademlia = KademliaNode(node)
        self._streams_of: Counter[PeerId] = Counter()
        self._provided: dict[bytes, float] = {}
        self._unknown, self._to_identify = trio.open_memory_channel[PeerId](MOST_UNKNOWN)
        self.answered = self.refused = 0
        network.serve_stream(PROTOCOL, self._serve, most_at_once=MOST_STREAMS)

    # -- asking ------------------------------------------------------------------------------------------------------

    async def find_peers(self, key: bytes) -> tuple[PeerInfo, ...]:
        """The peers closest to a key (of a peer: the bytes of its id), asked in the standard's words."""

        async def ask(info: PeerInfo) -> Sequence[PeerInfo]:
            return (await self._ask(info, Message(Kind.FIND_NODE, key))).closer

        return (await self._walk(ids.of_bytes(key), ask)).closest()

    async def provide(self, key: bytes) -> int:
        """Says at the peers closest to a key that this peer has what it names, and again every 22 hours.

        Returns:
            How many peers took it.

        Raises:
            RecordError: The key has more than 80 bytes, or none, or this peer has no address that it could name.
        """
        own = self._own_info()
        self._kademlia.providers.add(key, own, self._clock(), own=True)
        self._provided[key] = trio.current_time() + providers.RENEW_AFTER
        message = Message(Kind.ADD_PROVIDER, key, providers=(own,))
        return await self._tell(await self.find_peers(key), message)

    async def find_providers(self, key: bytes) -> tuple[PeerInfo, ...]:
        """Who has what a key names, as far as the peers closest to it know."""
        known = self._kademlia.providers.get(key, self._clock(), providers.MOST_OF_KEY)
        found = {info.peer_id: info for info in known}

        async def ask(info: PeerInfo) -> Sequence[PeerInfo]:
            answer = await self._ask(info, Message(Kind.GET_PROVIDERS, key))
            for provider in answer.providers:
                found.setdefault(provider.peer_id, provider)
            return answer.closer

        await self._walk(ids.of_bytes(key), ask)
        return tuple(found.values())

    async def put_value(self, key: bytes, value: bytes) -> int:
        """Stores a value of `/hivemind/<signer>/<key>`; returns how many peers took it.

        Raises:
            RecordError: It is none that another peer could check.
        """
        held = Value(key, value)
        self._kademlia.put(key, held, self._clock())
        return await self._tell(await self.find_peers(key), Message(Kind.PUT_VALUE, key, held))

    async def get_value(self, key: bytes) -> bytes | None:
        """The newest value under a key that passes the checks; None if nobody has one."""

        async def ask(info: PeerInfo) -> Sequence[PeerInfo]:
            answer = await self._ask(info, Message(Kind.GET_VALUE, key))
            with suppress(RecordError):
                self._kademlia.put(key, answer.value, self._clock())
            return answer.closer

        await self._walk(ids.of_bytes(key), ask)
        found = self._kademlia.value(key, self._clock())
        return found.value if found else None

    async def ping(self, info: PeerInfo) -> None:
        """Asks a peer whether it is there.

        Raises:
            NetworkError: It is not, or speaks something else.
        """
        await self._ask(info, Message(Kind.PING))

    # -- life --------------------------------------------------------------------------------------------------------

    async def identify_strangers(self) -> None:
        """Asks strangers who they are, until cancelled."""
        async for peer in self._to_identify:
            try:
                await self._identify(peer)
            except HivemindError as error:
                _events.debug("not_identified", peer=peer, error=error.message)

    async def sweep(self) -> None:
        """Drops what has expired and strangers that are gone, and renews what this peer provides and is due."""
        self._kademlia.providers.expire(self._clock())
        async with trio.open_nursery() as nursery:
            for info in self._kademlia.strangers.silent(trio.current_time(), PING_AFTER, MOST_PINGED):
                nursery.start_soon(self._check, info)
        for key in [key for key, due_at in self._provided.items() if due_at <= trio.current_time()]:
            try:
                await self.provide(key)
            except RecordError as error:
                _events.warning("not_provided", key=key.hex(), reason=error.message)

    async def _check(self, info: PeerInfo) -> None:
        with suppress(HivemindError):  # it is named no more, which is all that this was for
            await self.ping(info)

    # -- answering ---------------------------------------------------------------------------------------------------

    async def _serve(self, stream: ByteStream) -> None:
        remote = stream.remote
        if self._streams_of[remote] >= MOST_STREAMS_OF_PEER:
            return
        self._streams_of[remote] += 1
        try:
            await self._converse(stream)
        finally:
            self._streams_of[remote] -= 1
            if not self._streams_of[remote]:
                del self._streams_of[remote]

    async def _converse(self, stream: ByteStream) -> None:
        reader = MessageReader()
        while True:
            data: bytes | None = None
            with trio.move_on_after(IDLE):
                data = await _read(stream, reader)
            if data is None:
                return
            await self._answer(stream, data)

    async def _answer(self, stream: ByteStream, data: bytes) -> None:
        remote = stream.remote
        message = kademlia_wire.decode(data, remote)
        try:
            answer = self._kademlia.answer(message, remote, self._own_info(), now=self._clock())
        except RecordError as error:
            self.refused += 1
            # The standard has no words for a refusal: the stream ends.
            raise ProtocolError(f"peer {remote} was refused: {error.message}") from error
        self.answered += 1
        if not self._kademlia.knows(remote):
            with suppress(trio.WouldBlock):
                self._unknown.send_nowait(remote)
        with trio.fail_after(REQUEST_DEADLINE):
            await _send(stream, answer)

    async def _identify(self, peer: PeerId) -> None:
        stream = await self._open(peer, IDENTIFY)
        reader = MessageReader()
        try:
            with trio.fail_after(REQUEST_DEADLINE):
                data = await _read(stream, reader)
        except trio.TooSlowError as error:
            raise DeadlineExceededError(f"peer {peer} did not say who it is") from error
        finally:
            await stream.aclose()
        if data is None:
            raise ProtocolError(f"peer {peer} did not say who it is")
        info, protocols = kademlia_wire.decode_identify(data, peer)
        # One of ours gets into the routing table by its own requests.
        if PROTOCOL in protocols and OWN_PROTOCOL not in protocols:
            self._kademlia.strangers.seen(info, trio.current_time())

    # -- inside ------------------------------------------------------------------------------------------------------

    def _own_info(self) -> PeerInfo:
        return wire.bounded(PeerInfo(self._node.own, self._network.addresses))

    async def _walk(self, target: NodeId, ask: Callable[[PeerInfo], Awaitable[Sequence[PeerInfo]]]) -> Lookup:
        at = trio.current_time()
        lookup = self._node.find_peers(target, at, start=self._kademlia.strangers.closest(target, wire.MOST_PEERS))
        left_behind = await walk(lookup, ask)
        for peer in left_behind:
            self._failed(peer)
        self._node.finished(lookup, trio.current_time(), left_behind)
        return lookup

    async def _tell(self, peers: Sequence[PeerInfo], message: Message) -> int:
        """Sends a message to several peers; returns how many took it."""
        taken = 0

        async def tell(info: PeerInfo) -> None:
            nonlocal taken
            try:
                await self._ask(info, message)
            except HivemindError:
                return  # the others are what replicas are for
            taken += 1

        async with trio.open_nursery() as nursery:
            for info in peers:
                nursery.start_soon(tell, info)
        return taken

    async def _ask(self, info: PeerInfo, message: Message) -> Message:
        """One question to one peer, on a stream of its own.

        Raises:
            NetworkError: It could not be reached, did not answer in time, or sent nonsense.
        """
        peer = info.peer_id
        self._network.learn(info)
        try:
            with trio.fail_after(REQUEST_DEADLINE):
                answer = await self._exchange(peer, message)
        except trio.TooSlowError as error:
            self._failed(peer)
            raise DeadlineExceededError(f"peer {peer} did not answer a Kademlia request in time") from error
        except NetworkError:
            self._failed(peer)
            raise
        if peer not in self._node.table and peer in self._kademlia.strangers:
            self._kademlia.strangers.seen(info, trio.current_time())
        return answer

    async def _exchange(self, peer: PeerId, message: Message) -> Message:
        stream = await self._open(peer, PROTOCOL)
        try:
            await _send(stream, message)
            if message.kind is Kind.ADD_PROVIDER:
                await stream.send_eof()
            data = await _read(stream, MessageReader())
        finally:
            await stream.aclose()
        if data is None:
            # Many answer ADD_PROVIDER with silence; to anything else it is a refusal.
            if message.kind is Kind.ADD_PROVIDER:
                return Message(Kind.ADD_PROVIDER, message.key)
            raise StreamClosedError(f"peer {peer} did not answer a {message.kind.name} request")
        answer = kademlia_wire.decode(data, peer)
        if answer.kind is not message.kind:
            raise ProtocolError(f"peer {peer} answered {message.kind.name} with {answer.kind.name}")
        return answer

    async def _open(self, peer: PeerId, protocol: str) -> ByteStream:
        return await self._network.open_stream(peer, protocol, deadline=REQUEST_DEADLINE)

    def _failed(self, peer: PeerId) -> None:
        self._kademlia.strangers.failed(peer, trio.current_time())


async def _send(stream: ByteStream, message: Message) -> None:
    try:
        await stream.send_all(framed(kademlia_wire.encode(message)))
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise StreamClosedError(f"peer {stream.remote} ended a Kademlia stream") from error


async def _read(stream: ByteStream, reader: MessageReader) -> bytes | None:
    """The next message; None where the other side has ended the stream between two."""
    while (message := reader.next()) is None:
        try:
            data = await stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamClosedError(f"the Kademlia stream with peer {stream.remote} is broken") from error
        if not data:
            if reader.in_the_middle:
                raise StreamClosedError(f"peer {stream.remote} ended a Kademlia stream inside a message")
            return None
        reader.feed(data)
    return message
