"""The messages of the swarm as records, to protobuf and back; everything that comes in is checked here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.hashing import HASH
from hivemind_p2p.bt.metainfo import LONGEST_PIECE, Manifest
from hivemind_p2p.errors import ProtocolError, RecordError
from hivemind_p2p.proto import swarm_pb2 as pb
from hivemind_p2p.types import PeerId, PeerInfo

PROTOCOL = "/hivemind/swarm/2"

LONGEST_BLOCK = 4 * 1024 * 1024
"""Bytes of a block that is asked for, and of all blocks that travel in one message: a usual piece in one go, and little
enough to keep in memory for each peer."""

MOST_BLOCKS = 256
"""Blocks that a peer may have asked for and not got yet: twice what this version ever asks for."""

MOST_HAVES = 1 << 16
"""Pieces in one Have message."""

MOST_MEMBERS = 50
"""Peers in one Members message, as in BEP 11."""

MOST_ADDRESSES = 8
"""Addresses of one peer: as many as are ever dialled."""

LONGEST_ADDRESS = 256
"""Characters of an address, and of a peer id."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Opens a channel: which content, and whether its manifest is wanted."""

    infohash: bytes
    want_manifest: bool = False


@dataclass(frozen=True, slots=True)
class ManifestFollows:
    """The payload is the manifest."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What the sender holds, everything or a bitfield, and where it can be dialled."""

    complete: bool
    pieces: bytes = b""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Have:
    """The sender has got more pieces."""

    pieces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Interest:
    """What the sender wants that it does not hold: nothing, everything, or a bitfield.

    With `in_order` it reads while it fetches.
    """

    interested: bool
    everything: bool = False
    pieces: bytes = b""
    in_order: bool = False


@dataclass(frozen=True, slots=True)
class Choking:
    """Whether the sender refuses requests."""

    choking: bool


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes ``[begin, begin + length)`` of a piece."""

    piece: int
    begin: int
    length: int


@dataclass(frozen=True, slots=True)
class Request:
    """Asks for blocks."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Takes requests back that have not been answered."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """The payload is these blocks, one behind the other."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The sender will not send a block."""

    block: Block


@dataclass(frozen=True, slots=True)
class Members:
    """Others that the sender speaks with about this content."""

    members: tuple[PeerInfo, ...]


Rare: TypeAlias = Hello | ManifestFollows | Holding | Interest | Choking | Members
Message: TypeAlias = Rare | Have | Request | Cancel | Piece | Refusal


def encode(message: Message) -> pb.Message:
    """The protobuf of a message."""
    if isinstance(message, Piece):
        return pb.Message(piece=pb.Piece(blocks=map(_block, message.blocks)))
    if isinstance(message, Refusal):
        return pb.Message(refusal=pb.Refusal(block=_block(message.block)))
    if isinstance(message, Request):
        return pb.Message(request=pb.Request(blocks=map(_block, message.blocks)))
    if isinstance(message, Cancel):
        return pb.Message(cancel=pb.Cancel(blocks=map(_block, message.blocks)))
    if isinstance(message, Have):
        return pb.Message(have=pb.Have(pieces=message.pieces))
    return _encode_rare(message)


def _encode_rare(message: Rare) -> pb.Message:
    made = pb.Message()
    match message:
        case Choking(choking):
            made.choking.CopyFrom(pb.Choking(choking=choking))
        case Interest(interested, everything, some, in_order):
            made.interest.CopyFrom(
                pb.Interest(interested=interested, everything=everything, pieces=some, in_order=in_order)
            )
        case Holding(complete, held, addresses):
            made.holding.CopyFrom(pb.Holding(complete=complete, pieces=held, addresses=addresses))
        case Members(members):
            made.members.CopyFrom(pb.Members(members=map(_member, members)))
        case Hello(infohash, want_manifest):
            made.hello.CopyFrom(pb.Hello(infohash=infohash, want_manifest=want_manifest))
        case ManifestFollows():
            made.manifest.SetInParent()
    return made


def _block(block: Block) -> pb.Block:
    return pb.Block(piece=block.piece, begin=block.begin, length=block.length)


def _member(member: PeerInfo) -> pb.Member:
    return pb.Member(peer_id=member.peer_id, addresses=member.addresses[:MOST_ADDRESSES])


def decode(message: pb.Message) -> Message:
    """The message in a protobuf.

    Raises:
        ProtocolError: It is empty, or holds a number out of bounds.
    """
    made: Message
    match message.WhichOneof("body"):
        case "piece":
            made = Piece(_blocks(message.piece))
        case "have":
            made = Have(_pieces(message.have))
        case "request":
            made = Request(_blocks(message.request))
        case "refusal":
            made = Refusal(_checked(message.refusal.block))
        case "cancel":
            made = Cancel(_blocks(message.cancel))
        case kind:
            made = _decode_rare(kind, message)
    return made


def _decode_rare(kind: str | None, message: pb.Message) -> Rare:
    made: Rare
    match kind:
        case "choking":
            made = Choking(message.choking.choking)
        case "interest":
            interest = message.interest
            made = Interest(interest.interested, interest.everything, interest.pieces, interest.in_order)
        case "holding":
            holding = message.holding
            made = Holding(holding.complete, holding.pieces, _addresses(holding.addresses))
        case "members":
            made = Members(_members(message.members))
        case "hello":
            made = _hello(message.hello)
        case "manifest":
            made = ManifestFollows()
        case _:
            raise ProtocolError("a message of an unknown kind")
    return made


def _hello(hello: pb.Hello) -> Hello:
    if len(hello.infohash) != HASH:
        raise ProtocolError(f"an info hash has {HASH} bytes, this has {len(hello.infohash)}")
    return Hello(hello.infohash, hello.want_manifest)


def _pieces(have: pb.Have) -> tuple[int, ...]:
    if len(have.pieces) > MOST_HAVES:
        raise ProtocolError(f"{len(have.pieces)} pieces in one message, more than {MOST_HAVES}")
    return tuple(have.pieces)


def _blocks(message: pb.Request | pb.Cancel | pb.Piece) -> tuple[Block, ...]:
    if len(message.blocks) > MOST_BLOCKS:
        raise ProtocolError(f"{len(message.blocks)} blocks in one message, more than {MOST_BLOCKS}")
    return tuple(_checked(block) for block in message.blocks)


def _checked(block: pb.Block) -> Block:
    if not 0 < block.length <= LONGEST_BLOCK or block.begin > LONGEST_PIECE - block.length:
        raise ProtocolError(f"a block of {block.length} bytes at {block.begin} fits no piece")
    return Block(block.piece, block.begin, block.length)


def _members(message: pb.Members) -> tuple[PeerInfo, ...]:
    if len(message.members) > MOST_MEMBERS:
        raise ProtocolError(f"{len(message.members)} members in one message, more than {MOST_MEMBERS}")
    if any(not 0 < len(member.peer_id) <= LONGEST_ADDRESS for member in message.members):
        raise ProtocolError("a member without a proper peer id")
    return tuple(PeerInfo(PeerId(member.peer_id), _addresses(member.addresses)) for member in message.members)


def _addresses(addresses: Sequence[str]) -> tuple[str, ...]:
    if len(addresses) > MOST_ADDRESSES or any(len(address) > LONGEST_ADDRESS for address in addresses):
        raise ProtocolError(f"more than {MOST_ADDRESSES} addresses, or one of over {LONGEST_ADDRESS} characters")
    return tuple(addresses)


def ranges(piece: int, length: int) -> tuple[Block, ...]:
    """A piece of `length` bytes as blocks that may be asked for."""
    if length <= LONGEST_BLOCK:
        return (Block(piece, 0, length),)
    starts = range(0, length, LONGEST_BLOCK)
    return tuple(Block(piece, start, min(LONGEST_BLOCK, length - start)) for start in starts)


def decode_pieces(data: bytes, pieces: int) -> Bitfield:
    """A bitfield that a peer sent.

    Raises:
        ProtocolError: It is not one of this content.
    """
    try:
        return Bitfield.from_bytes(pieces, data)
    except ValueError as error:
        raise ProtocolError(f"a peer sent no proper bitfield: {error}") from error


def decode_holding(holding: Holding, pieces: int) -> Bitfield:
    """The pieces that a peer says it holds.

    Raises:
        ProtocolError: The bitfield is not one of this content.
    """
    return Bitfield.full(pieces) if holding.complete else decode_pieces(holding.pieces, pieces)


def encode_holding(held: Bitfield, addresses: Sequence[str] = ()) -> Holding:
    """What a peer says of what it holds."""
    known = tuple(addresses)[:MOST_ADDRESSES]
    return Holding(True, b"", known) if held.complete else Holding(False, held.to_bytes(), known)


def largest_payload(manifest: Manifest) -> int:
    """Bytes of payload that a peer may send: a block as long as they come, or as many short ones."""
    return min(manifest.length, LONGEST_BLOCK)


def encode_record(*, complete: bool) -> bytes:
    """The value of a source's record in the directory. Never empty: an empty one means withdrawn."""
    return pb.SourceRecord(complete=complete, serves=True).SerializeToString()


def decode_record(value: bytes) -> bool | None:
    """Whether a source has everything; None if it has withdrawn its record.

    Raises:
        RecordError: It is malformed.
    """
    try:
        record = pb.SourceRecord.FromString(value)
    except DecodeError as error:
        raise RecordError("a source's record is malformed") from error
    return record.complete if record.serves else None


def directory_key(infohash: bytes) -> str:
    """The key under which the sources of a content publish their records."""
    return f"content:{infohash.hex()}"
