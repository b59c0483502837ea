"""The directory's messages to protobuf and back. Everything that comes in is bounded here; nothing is trusted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from google.protobuf.message import DecodeError

from hivemind_p2p import identity
from hivemind_p2p.dht import ids
from hivemind_p2p.dht.ids import NodeId
from hivemind_p2p.dht.messages import (
    FindPeers,
    FindRecords,
    Question,
    ReadMany,
    Refusal,
    Request,
    Response,
    SignedBytes,
    Store,
)
from hivemind_p2p.dht.records import MARK_BYTES, MAX_BODY, MAX_KEY, SignedRecord
from hivemind_p2p.dht.routing_table import BUCKET_SIZE
from hivemind_p2p.errors import IdentityError, ProtocolError
from hivemind_p2p.proto import common_pb2, dht_pb2
from hivemind_p2p.types import PeerId, PeerInfo

MOST_PEERS = BUCKET_SIZE
"""Peers named in one answer."""

MOST_ADDRESSES = 16
"""Addresses of one peer: several interfaces times several transports."""

LONGEST_ADDRESS = 256
"""Characters of a multiaddr; one through a relay has about 120."""

LONGEST_PEER_ID = 64
"""Characters: that of an Ed25519 key has 52."""

MOST_RECORDS = 256
"""Records in one message: their signatures take about 40 ms to check, in small steps."""

MOST_KNOWN = 1024
"""Marks of known records in one question: 8 KiB."""

MOST_KEYS = 256
"""Keys in one question."""

MAX_BATCH = 256 * 1024
"""Bytes of records in one message: well below what a frame's header may hold, whatever is added to it."""

USUAL_PEER = 1024
"""Bytes of a peer up to which it is remembered, parsed: the same 20 are named in answer after answer."""

LONGEST_REASON = 256
"""Characters of a refusal."""


def encode_request(request: Request) -> dht_pb2.Request:
    """A request for the wire."""
    message = dht_pb2.Request(sender=_encode_peer(request.sender))
    match request.question:
        case FindPeers(target):
            message.find_peers.target = ids.to_bytes(target)
        case Store(records, target, copy_seconds):
            message.store.records.extend(_encode_record(record) for record in records)
            message.store.target = b"" if target is None else ids.to_bytes(target)
            message.store.copy_seconds = copy_seconds
            message.store.SetInParent()
        case FindRecords(key, after, known):
            message.find_records.key = key
            message.find_records.after = after
            message.find_records.known = b"".join(sorted(known))
            message.find_records.SetInParent()
        case ReadMany(keys):
            message.read_many.keys.extend(keys)
            message.read_many.SetInParent()
    return message


def decode_request(message: dht_pb2.Request, remote: PeerId) -> Request:
    """A request off the wire.

    Args:
        message: What came.
        remote: Who is at the other end of the channel.

    Raises:
        ProtocolError: It is malformed or too large, or its sender is not `remote`.
    """
    sender = _decode_peer(message.sender, remote)
    if sender.peer_id != remote:
        raise ProtocolError(f"peer {remote} calls itself {sender.peer_id} in a request")
    return Request(sender, _decode_question(message, remote))


def encode_response(response: Response) -> dht_pb2.Response:
    """A response for the wire."""
    return dht_pb2.Response(
        peers=[_encode_peer(peer) for peer in response.peers],
        records=[_encode_record(record) for record in response.records],
        next=response.next,
        refusals=[
            dht_pb2.Refusal(index=refusal.index, reason=refusal.reason[:LONGEST_REASON])
            for refusal in response.refusals
        ],
        kept=response.kept,
    )


def decode_response(message: dht_pb2.Response, remote: PeerId) -> Response:
    """A response off the wire.

    Raises:
        ProtocolError: It is malformed or too large.
    """
    _bound(remote, "peers", len(message.peers), MOST_PEERS)
    _bound(remote, "refusals", len(message.refusals), MOST_RECORDS)
    _bound(remote, "bytes of a cursor", len(message.next), MAX_KEY)
    return Response(
        peers=tuple(_decode_peer(peer, remote) for peer in message.peers),
        records=_decode_records(message.records, remote),
        next=message.next,
        refusals=tuple(Refusal(refusal.index, refusal.reason[:LONGEST_REASON]) for refusal in message.refusals),
        kept=message.kept,
    )


def as_bytes(signed: SignedRecord) -> SignedBytes:
    """A record as it goes onto the wire."""
    return SignedBytes(signed.body, signed.signature)


def batches(records: Iterable[SignedRecord]) -> Iterator[tuple[SignedRecord, ...]]:
    """Records in groups that fit into one message each."""
    batch: list[SignedRecord] = []
    size = 0
    for record in records:
        if batch and (size + record.size > MAX_BATCH or len(batch) == MOST_RECORDS):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(record)
        size += record.size
    if batch:
        yield tuple(batch)


def bounded(info: PeerInfo) -> PeerInfo:
    """A peer with no more addresses than may be told, the first ones."""
    addresses = tuple(address for address in info.addresses if 0 < len(address) <= LONGEST_ADDRESS)
    return PeerInfo(info.peer_id, addresses[:MOST_ADDRESSES])


def is_peer_id(peer_id: str) -> bool:
    """Whether this is the id of a peer: of an Ed25519 key, in base58."""
    # What is far too long must not get into the memory of former answers: a liar would fill it with megabytes.
    return len(peer_id) <= LONGEST_PEER_ID and _is_peer_id(peer_id)


@lru_cache(maxsize=4096)
def _is_peer_id(peer_id: str) -> bool:
    try:
        identity.public_key_of(PeerId(peer_id))
    except IdentityError:
        return False
    return True


@lru_cache(maxsize=1024)
def _encode_peer(info: PeerInfo) -> bytes:
    return dht_pb2.Peer(peer_id=info.peer_id, addresses=info.addresses).SerializeToString()


def _encode_record(record: SignedBytes) -> common_pb2.Signed:
    return common_pb2.Signed(body=record.body, signature=record.signature)


def _decode_question(message: dht_pb2.Request, remote: PeerId) -> Question:
    match message.WhichOneof("question"):
        case "find_peers":
            return FindPeers(_decode_target(message.find_peers.target, remote))
        case "store":
            target = _decode_target(message.store.target, remote) if message.store.target else None
            return Store(_decode_records(message.store.records, remote), target, message.store.copy_seconds)
        case "find_records":
            _bound(remote, "bytes of a key", len(message.find_records.key.encode()), MAX_KEY)
            _bound(remote, "bytes of a cursor", len(message.find_records.after), MAX_KEY)
            return FindRecords(
                message.find_records.key,
                message.find_records.after,
                _decode_marks(message.find_records.known, remote),
            )
        case "read_many":
            _bound(remote, "keys", len(message.read_many.keys), MOST_KEYS)
            for key in message.read_many.keys:
                _bound(remote, "bytes of a key", len(key.encode()), MAX_KEY)
            return ReadMany(tuple(message.read_many.keys))
        case _:
            raise ProtocolError(f"peer {remote} asked nothing that this version understands")


def _decode_target(target: bytes, remote: PeerId) -> NodeId:
    _bound(remote, "bytes of a target", len(target), ids.ID_BYTES)
    if len(target) < ids.ID_BYTES:
        raise ProtocolError(f"peer {remote} asked for a target of {len(target)} bytes")
    return ids.from_bytes(target)


def _decode_marks(marks: bytes, remote: PeerId) -> frozenset[bytes]:
    _bound(remote, "marks", len(marks) // MARK_BYTES, MOST_KNOWN)
    if len(marks) % MARK_BYTES:
        raise ProtocolError(f"peer {remote} sent {len(marks)} bytes of marks, of which each has {MARK_BYTES}")
    return frozenset(marks[at : at + MARK_BYTES] for at in range(0, len(marks), MARK_BYTES))


def _decode_peer(raw: bytes, remote: PeerId) -> PeerInfo:
    try:
        return _parse_usual_peer(raw) if len(raw) <= USUAL_PEER else _parse_peer(raw)
    except ProtocolError as error:
        raise ProtocolError(f"peer {remote} named {error.message}") from error


def _parse_peer(raw: bytes) -> PeerInfo:
    """A peer that somebody names; what is wrong with it is said without saying who named it."""
    try:
        peer = dht_pb2.Peer.FromString(raw)
    except DecodeError as error:
        raise ProtocolError("what is no peer") from error
    if not is_peer_id(peer.peer_id):
        raise ProtocolError(f"{peer.peer_id[:64]!r}, which is no peer id")
    if len(peer.addresses) > MOST_ADDRESSES:
        raise ProtocolError(f"a peer with {len(peer.addresses)} addresses; the most is {MOST_ADDRESSES}")
    if any(len(address) > LONGEST_ADDRESS for address in peer.addresses):
        raise ProtocolError(f"a peer with an address of more than {LONGEST_ADDRESS} characters")
    return PeerInfo(PeerId(peer.peer_id), tuple(peer.addresses))


_parse_usual_peer = lru_cache(maxsize=4096)(_parse_peer)


def _decode_records(records: Iterable[common_pb2.Signed], remote: PeerId) -> tuple[SignedBytes, ...]:
    decoded: list[SignedBytes] = []
    for record in records:
        _bound(remote, "records", len(decoded) + 1, MOST_RECORDS)
        _bound(remote, "bytes of a record", len(record.body), MAX_BODY)
        _bound(remote, "bytes of a signature", len(record.signature), identity.SIGNATURE_BYTES)
        decoded.append(SignedBytes(record.body, record.signature))
    return tuple(decoded)


def _bound(remote: PeerId, what: str, number: int, most: int) -> None:
    if number > most:
        raise ProtocolError(f"peer {remote} sent {number} {what}; the most is {most}")
