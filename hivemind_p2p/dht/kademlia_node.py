"""How a peer answers libp2p's standard Kademlia messages: from the same routing table and records as our own.

Values are taken in two name spaces only, where nobody has to be trusted: `/pk/<peer id>` is that peer's public key,
and `/hivemind/<signer>/<key>` is the record that `signer` has put under `key`, with its signature. Providers are
taken from themselves only.
"""

from __future__ import annotations

import heapq
from datetime import UTC, datetime

import base58
from google.protobuf.message import DecodeError

from hivemind_p2p import identity
from hivemind_p2p.dht import ids
from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.dht.kademlia_wire import Kind, Message, Value, peer_bytes
from hivemind_p2p.dht.node import Node
from hivemind_p2p.dht.providers import ProviderStore
from hivemind_p2p.dht.records import SignedRecord
from hivemind_p2p.dht.routing_table import BUCKET_SIZE, RoutingTable
from hivemind_p2p.errors import IdentityError, RecordError
from hivemind_p2p.proto import common_pb2
from hivemind_p2p.types import PeerId, PeerInfo

PUBLIC_KEYS = b"/pk/"
RECORDS = b"/hivemind/"

_ED25519 = b"\x08\x01\x12\x20"
"""What stands before the 32 bytes of a key in libp2p's PublicKey message."""


class KademliaNode:
    """The standard's side of one peer.

    Args:
        node: The peer: its routing table and its records are used.

    Attributes:
        strangers: Peers that speak the standard's messages and not ours: other implementations.
        providers: Who has what.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.strangers = RoutingTable(node.own)
        self.providers = ProviderStore()

    def answer(self, message: Message, remote: PeerId, own: PeerInfo, *, now: float) -> Message:
        """Answers a question.

        Args:
            message: The question.
            remote: Who asks.
            own: What this peer says of itself.
            now: Seconds since the epoch.

        Raises:
            RecordError: What was to be kept is refused; the standard's answer to that is none.
        """
        match message.kind:
            case Kind.PING:
                return Message(Kind.PING)
            case Kind.FIND_NODE:
                return Message(Kind.FIND_NODE, message.key, closer=self._find(message.key, remote, own))
            case Kind.GET_PROVIDERS:
                providers = self.providers.get(message.key, now, BUCKET_SIZE)
                closer = self.closest(ids.of_bytes(message.key), without=remote)
                return Message(Kind.GET_PROVIDERS, message.key, closer=closer, providers=providers)
            case Kind.ADD_PROVIDER:
                self._add_provider(message, remote, now)
                return Message(Kind.ADD_PROVIDER, message.key)
            case Kind.GET_VALUE:
                closer = self.closest(ids.of_bytes(message.key), without=remote)
                return Message(Kind.GET_VALUE, message.key, self.value(message.key, now), closer)
            case Kind.PUT_VALUE:
                self.put(message.key, message.value, now)
                return Message(Kind.PUT_VALUE, message.key, message.value)

    def closest(self, target: NodeId, *, without: PeerId | None = None) -> tuple[PeerInfo, ...]:
        """The known peers closest to a point, ours and others: all of ours speak the standard's messages, too."""
        return tuple(
            heapq.nsmallest(
                BUCKET_SIZE,
                (
                    *self._node.table.closest(target, BUCKET_SIZE, without=without),
                    *self.strangers.closest(target, BUCKET_SIZE, without=without),
                ),
                key=lambda info: ids.distance(ids.of_peer(info.peer_id), target),
            )
        )

    def knows(self, peer: PeerId) -> bool:
        """Whether a peer stands in either routing table."""
        return peer in self._node.table or peer in self.strangers

    def value(self, key: bytes, now: float) -> Value | None:
        """What is kept under a key."""
        try:
            if key.startswith(PUBLIC_KEYS):
                return Value(key, _public_key(key), _as_text(now))
            signer, name = _split(key)
        except RecordError:
            return None
        for signed in self._node.store.get(name, now):
            if signed.record.signer == signer:
                return Value(key, pack(signed), _as_text(now))
        return None

    def put(self, key: bytes, value: Value | None, now: float) -> None:
        """Keeps a value, where it is one that can be checked.

        Raises:
            RecordError: It is not, it is forged, or there is no room for it.
        """
        if value is None or value.key != key:
            raise RecordError("a value without the key that it is to stand under")
        if key.startswith(PUBLIC_KEYS):
            # Every peer id that this version knows holds its public key: there is nothing to keep.
            if value.value != _public_key(key):
                raise RecordError("a public key that is not that of the peer that it stands under")
            return
        signer, name = _split(key)
        signed = unpack(value.value)
        self._node.store.put(signed.body, signed.signature, now, under=name, of=signer)

    def _find(self, key: bytes, remote: PeerId, own: PeerInfo) -> tuple[PeerInfo, ...]:
        closest = self.closest(ids.of_bytes(key), without=remote)
        # The one that is looked for is named even if it is this peer, which is in no table of its own.
        return (own, *closest[: BUCKET_SIZE - 1]) if key == peer_bytes(own.peer_id) else closest

    def _add_provider(self, message: Message, remote: PeerId, now: float) -> None:
        own = [provider for provider in message.providers if provider.peer_id == remote]
        if not own:
            raise RecordError(f"peer {remote} names no provider, or others than itself")
        self.providers.add(message.key, own[0], now)


def record_key(signer: PeerId, key: str) -> bytes:
    """Where the standard's messages find the record that a signer has put under a key."""
    return RECORDS + f"{signer}/{key}".encode()


def pack(signed: SignedRecord) -> bytes:
    """A record as a value."""
    return common_pb2.Signed(body=signed.body, signature=signed.signature).SerializeToString()


def unpack(value: bytes) -> common_pb2.Signed:
    """The body and the signature in a value; nothing in them has been looked at.

    Raises:
        RecordError: It is malformed.
    """
    try:
        return common_pb2.Signed.FromString(value)
    except DecodeError as error:
        raise RecordError(f"a value is no signed record: {error}") from error


def _split(key: bytes) -> tuple[PeerId, str]:
    """The signer and the key of a record that the standard's messages name."""
    if not key.startswith(RECORDS):
        raise RecordError(f"values are kept under /pk/ and /hivemind/ only, not under {key[:32]!r}")
    try:
        signer, slash, name = key[len(RECORDS) :].decode().partition("/")
    except UnicodeDecodeError as error:
        raise RecordError("a key under /hivemind/ is no text") from error
    if not slash or not name:
        raise RecordError("a key under /hivemind/ names a signer and what it has put its record under")
    return PeerId(signer), name


def _public_key(key: bytes) -> bytes:
    """The public key that belongs under a key, as libp2p's PublicKey message."""
    peer = base58.b58encode(key[len(PUBLIC_KEYS) :][:64]).decode()
    try:
        return _ED25519 + identity.public_key_of(PeerId(peer))
    except IdentityError as error:
        raise RecordError(f"no public key is known for {key[:64]!r}") from error


def _as_text(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
