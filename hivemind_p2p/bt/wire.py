"""The messages of the swarm as records, to protobuf and back; everything that comes in is checked here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.hashing import HASH
from hivemind_p2p.bt.metainfo import LARGEST_MANIFEST, LONGEST_PIECE, Manifest
from hivemind_p2p.errors import ProtocolError, RecordError
from hivemind_p2p.proto import swarm_pb2 as pb

PROTOCOL = "/hivemind/swarm/1"

MOST_BLOCKS = 256
"""Blocks that a peer may have asked for and not got yet: four times what this version ever asks for."""

MOST_HAVES = 1 << 16
"""Pieces in one Have message."""


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
    """The payload is the bitfield of the pieces that the sender holds, empty where it holds all."""

    complete: bool


@dataclass(frozen=True, slots=True)
class Have:
    """The sender has got more pieces."""

    pieces: tuple[int, ...]


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
class Piece:
    """The payload is a block."""

    block: Block


@dataclass(frozen=True, slots=True)
class Refusal:
    """The sender cannot send a block."""

    block: Block


Message: TypeAlias = Hello | ManifestFollows | Holding | Have | Request | Piece | Refusal


def encode(message: Message) -> pb.Message:
    """The protobuf of a message."""
    made = pb.Message()
    match message:
        case Hello(infohash, want_manifest):
            made.hello.infohash = infohash
            made.hello.want_manifest = want_manifest
        case ManifestFollows():
            made.manifest.SetInParent()
        case Holding(complete):
            made.holding.complete = complete
            made.holding.SetInParent()
        case Have(pieces):
            made.have.pieces.extend(pieces)
            made.have.SetInParent()
        case Request(blocks):
            made.request.blocks.extend(_block(block) for block in blocks)
            made.request.SetInParent()
        case Piece(block):
            made.piece.block.CopyFrom(_block(block))
        case Refusal(block):
            made.refusal.block.CopyFrom(_block(block))
    return made


def _block(block: Block) -> pb.Block:
    return pb.Block(piece=block.piece, begin=block.begin, length=block.length)


def decode(message: pb.Message) -> Message:
    """The message in a protobuf.

    Raises:
        ProtocolError: It is empty, or holds a number out of bounds.
    """
    kind = message.WhichOneof("body")
    if kind == "hello":
        if len(message.hello.infohash) != HASH:
            raise ProtocolError(f"an info hash has {HASH} bytes, this has {len(message.hello.infohash)}")
        return Hello(message.hello.infohash, message.hello.want_manifest)
    if kind == "manifest":
        return ManifestFollows()
    if kind == "holding":
        return Holding(message.holding.complete)
    if kind == "have":
        if len(message.have.pieces) > MOST_HAVES:
            raise ProtocolError(f"{len(message.have.pieces)} pieces in one message, more than {MOST_HAVES}")
        return Have(tuple(message.have.pieces))
    return _decode_blocks(kind, message)


def _decode_blocks(kind: str | None, message: pb.Message) -> Message:
    if kind == "request":
        if len(message.request.blocks) > MOST_BLOCKS:
            raise ProtocolError(f"{len(message.request.blocks)} blocks in one request, more than {MOST_BLOCKS}")
        return Request(tuple(_checked(block) for block in message.request.blocks))
    if kind == "piece":
        return Piece(_checked(message.piece.block))
    if kind == "refusal":
        return Refusal(_checked(message.refusal.block))
    raise ProtocolError("a message of an unknown kind")


def _checked(block: pb.Block) -> Block:
    if not 0 < block.length <= LONGEST_PIECE or block.begin > LONGEST_PIECE - block.length:
        raise ProtocolError(f"a block of {block.length} bytes at {block.begin} fits no piece")
    return Block(block.piece, block.begin, block.length)


def decode_holding(holding: Holding, payload: memoryview, pieces: int) -> Bitfield:
    """The pieces that a source says it holds.

    Raises:
        ProtocolError: The bitfield is not one of this content.
    """
    if holding.complete:
        return Bitfield.full(pieces)
    try:
        return Bitfield.from_bytes(pieces, payload)
    except ValueError as error:
        raise ProtocolError(f"a source sent no proper bitfield: {error}") from error


def encode_holding(held: Bitfield) -> tuple[Holding, bytes]:
    """What a source says of what it holds: the message and its payload."""
    return (Holding(True), b"") if held.complete else (Holding(False), held.to_bytes())


def largest_payload(manifest: Manifest | None) -> int:
    """Bytes of payload that a source may send: a piece or a bitfield, or the manifest where it is not known yet."""
    if manifest is None:
        return LARGEST_MANIFEST
    return max(manifest.piece_length, (manifest.pieces + 7) // 8)


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
