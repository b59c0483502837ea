"""libp2p's standard Kademlia messages to bytes and back; what comes in is bounded here.

Source: https://github.com/libp2p/specs/tree/master/kad-dht. On a stream each message has its length before it as an
unsigned varint. What another implementation may know and this one does not (a transport in an address, a kind of
peer id) is left out rather than refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import base58
from google.protobuf.message import DecodeError

from hivemind_p2p.dht.routing_table import BUCKET_SIZE
from hivemind_p2p.dht.wire import MOST_ADDRESSES, is_peer_id
from hivemind_p2p.errors import AddressError, ProtocolError
from hivemind_p2p.net import binary_addresses
from hivemind_p2p.proto import kademlia_pb2 as pb
from hivemind_p2p.types import PeerId, PeerInfo

MAX_MESSAGE = 256 * 1024
"""Bytes of a message: 40 peers with all that may be said of them take less than half."""

MAX_KEY = 512
"""Bytes of a key: `/hivemind/`, a peer id and the longest key of a record."""

MOST_PEERS = 2 * BUCKET_SIZE
"""Peers read from one list; what comes behind is left out."""

_LONGEST_LENGTH = 4
"""Bytes of the varint before a message: more could only name a length that is refused."""


class Kind(IntEnum):
    """What a message asks, and what its answer answers."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True)
class Value:
    """What is kept under a key.

    Attributes:
        key: Which key.
        value: Its bytes.
        received: When the peer that keeps it took it, as text (RFC 3339).
    """

    key: bytes
    value: bytes
    received: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A question or an answer: they have the same form.

    Attributes:
        kind: What is asked or answered.
        key: What it is about.
        value: What to keep, or what is kept.
        closer: The peers closest to the key.
        providers: The peers that have what the key names.
    """

    kind: Kind
    key: bytes = b""
    value: Value | None = None
    closer: tuple[PeerInfo, ...] = ()
    providers: tuple[PeerInfo, ...] = ()


class MessageReader:
    """Cuts a stream of bytes into messages; holds no more than one message and what came with it."""

    def __init__(self) -> None:
        self._unread = bytearray()

    def feed(self, data: bytes) -> None:
        """Takes bytes as they come."""
        self._unread += data

    def next(self) -> bytes | None:
        """The next whole message; None until more has come.

        Raises:
            ProtocolError: The length before it is malformed or too large.
        """
        end = next((index for index, byte in enumerate(self._unread[:_LONGEST_LENGTH]) if byte < 0x80), None)
        if end is None:
            if len(self._unread) >= _LONGEST_LENGTH:
                raise ProtocolError("the length of a Kademlia message is too long")
            return None
        length, start = binary_addresses.read_varint(self._unread)
        if length > MAX_MESSAGE:
            raise ProtocolError(f"a Kademlia message of {length} bytes: the most is {MAX_MESSAGE}")
        if len(self._unread) < start + length:
            return None
        message = bytes(self._unread[start : start + length])
        del self._unread[: start + length]
        return message

    @property
    def in_the_middle(self) -> bool:
        """Whether a message has begun that has not ended."""
        return bool(self._unread)


def framed(message: bytes) -> bytes:
    """A message with its length before it."""
    return binary_addresses.write_varint(len(message)) + message


def encode(message: Message) -> bytes:
    """A message as bytes, without its length."""
    encoded = pb.Message(
        type=pb.Message.MessageType.Name(message.kind),
        key=message.key,
        closerPeers=[_encode_peer(peer) for peer in message.closer],
        providerPeers=[_encode_peer(peer) for peer in message.providers],
    )
    if message.value is not None:
        value = message.value
        encoded.record.CopyFrom(pb.StandardRecord(key=value.key, value=value.value, timeReceived=value.received))
    return encoded.SerializeToString()


def decode(data: bytes, remote: PeerId) -> Message:
    """A message off the wire.

    Raises:
        ProtocolError: It is malformed or too large.
    """
    if len(data) > MAX_MESSAGE:
        raise ProtocolError(f"peer {remote} sent a Kademlia message of {len(data)} bytes: the most is {MAX_MESSAGE}")
    try:
        message = pb.Message.FromString(data)
        kind = Kind(message.type)
    except (DecodeError, ValueError) as error:
        raise ProtocolError(f"peer {remote} sent a malformed Kademlia message: {error}") from error
    if len(message.key) > MAX_KEY or len(message.record.key) > MAX_KEY:
        raise ProtocolError(f"peer {remote} sent a key of {len(message.key)} bytes; the most is {MAX_KEY}")
    record = message.record
    return Message(
        kind,
        message.key,
        Value(record.key, record.value, record.timeReceived[:64]) if message.HasField("record") else None,
        _decode_peers(message.closerPeers),
        _decode_peers(message.providerPeers),
    )


def decode_identify(data: bytes, remote: PeerId) -> tuple[PeerInfo, tuple[str, ...]]:
    """Where a peer says that it can be dialled, and what it speaks.

    Raises:
        ProtocolError: It is malformed.
    """
    try:
        message = pb.Identify.FromString(data)
    except DecodeError as error:
        raise ProtocolError(f"peer {remote} sent a malformed identify message: {error}") from error
    return PeerInfo(remote, _decode_addresses(message.listenAddrs, remote)), tuple(message.protocols)


def peer_bytes(peer: PeerId) -> bytes:
    """A peer id as bytes."""
    return base58.b58decode(peer)


def _encode_peer(info: PeerInfo) -> pb.Message.Peer:
    known: list[bytes] = []
    for address in info.addresses:
        try:
            known.append(binary_addresses.to_bytes(address))
        except AddressError:
            continue  # another peer said it; nobody could dial it
    return pb.Message.Peer(id=peer_bytes(info.peer_id), addrs=known, connection=pb.Message.CAN_CONNECT)


def _decode_peers(peers: Iterable[pb.Message.Peer]) -> tuple[PeerInfo, ...]:
    decoded: dict[PeerId, PeerInfo] = {}
    for _, peer in zip(range(MOST_PEERS), peers, strict=False):
        peer_id = PeerId(base58.b58encode(peer.id[:64]).decode())
        if is_peer_id(peer_id):
            decoded[peer_id] = PeerInfo(peer_id, _decode_addresses(peer.addrs, peer_id))
    return tuple(decoded.values())


def _decode_addresses(raw: Iterable[bytes], peer: PeerId) -> tuple[str, ...]:
    decoded: list[str] = []
    for _, data in zip(range(MOST_ADDRESSES), raw, strict=False):
        try:
            # Some write who is expected there behind the address, which a `PeerInfo` says already.
            decoded.append(binary_addresses.to_text(data).removesuffix(f"/p2p/{peer}"))
        except AddressError:
            continue
    return tuple(address for address in decoded if address)
