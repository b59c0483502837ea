"""Sharding's records to protobuf and back. Nothing that comes off the wire is believed before it was checked here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import trio
from google.protobuf.message import DecodeError

from hivemind_p2p.errors import DeadlineExceededError, RecordError
from hivemind_p2p.interfaces import Channel, MessageType
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding.checkpoint import MAX_LAYERS
from hivemind_p2p.types import Link, Record

PROTOCOL = "/hivemind/sharding/2"

MAX_ROOM = 2**20
"""Tokens of one text; the longest contexts of published models."""
MAX_ENDS = 64
MAX_LOST = 16
MAX_MODELS = 16
"""Models that one publisher announces."""
MAX_WEIGHT_BYTES = 2**48
"""Bytes of one layer's weights, of an embedding, of a head: far above any model's."""
LONGEST_LINK = 512
LONGEST_TEXT = 1024


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A published model, as its publisher announces it.

    Attributes:
        stages_wanted: Into how many spans its layers are cut at least.
        architecture: The model library's name of the class.
        layer_bytes: What one layer's weights take in memory.
        embedding_bytes: What the host of the first layer keeps besides.
        head_bytes: What the host of the last layer keeps besides, and reads for each token.
        by_hand: Whether peers host only the layers that they are asked to host.
    """

    link: Link
    name: str
    layer_count: int
    stages_wanted: int
    architecture: str
    layer_bytes: int = 0
    embedding_bytes: int = 0
    head_bytes: int = 0
    by_hand: bool = False

    @property
    def most_layers(self) -> int:
        """The longest span that a peer is to host."""
        return -(-self.layer_count // self.stages_wanted)


def encode_models(records: Iterable[ModelRecord]) -> bytes:
    """The value of a publisher's record."""
    models = [
        pb.Model(
            link=record.link,
            name=record.name,
            layer_count=record.layer_count,
            stages_wanted=record.stages_wanted,
            architecture=record.architecture,
            layer_bytes=record.layer_bytes,
            embedding_bytes=record.embedding_bytes,
            head_bytes=record.head_bytes,
            by_hand=record.by_hand,
        )
        for record in records
    ]
    return pb.Models(models=models).SerializeToString()


def decode_models(record: Record) -> tuple[ModelRecord, ...]:
    """The models that a publisher announces.

    Raises:
        RecordError: It is malformed.
    """
    try:
        message = pb.Models.FromString(record.value)
    except DecodeError as error:
        raise RecordError(f"the models that {record.signer} announces are malformed: {error}") from error
    sound = len(message.models) <= MAX_MODELS and all(
        len(model.link) <= LONGEST_LINK
        and len(model.name) <= LONGEST_TEXT
        and len(model.architecture) <= LONGEST_TEXT
        and 1 <= model.stages_wanted <= model.layer_count <= MAX_LAYERS
        and max(model.layer_bytes, model.embedding_bytes, model.head_bytes) <= MAX_WEIGHT_BYTES
        for model in message.models
    )
    if not sound:
        raise RecordError(f"the models that {record.signer} announces hold values that no honest peer sends")
    return tuple(
        ModelRecord(
            link=Link(model.link),
            name=model.name,
            layer_count=model.layer_count,
            stages_wanted=model.stages_wanted,
            architecture=model.architecture,
            layer_bytes=model.layer_bytes,
            embedding_bytes=model.embedding_bytes,
            head_bytes=model.head_bytes,
            by_hand=model.by_hand,
        )
        for model in message.models
    )


def find_model(records: Sequence[Record], link: Link) -> ModelRecord | None:
    """What the directory says of a model; where several announce it, the one whose id comes first is believed."""
    for record in sorted(records, key=lambda record: record.signer):
        for model in sound_models([record]):
            if model.link == link:
                return model
    return None


def sound_models(records: Iterable[Record]) -> list[ModelRecord]:
    """All models of the records that are well formed."""
    found: list[ModelRecord] = []
    for record in records:
        try:
            found += decode_models(record)
        except RecordError:
            continue  # one forged or outdated record must not hide the others
    return found


async def receive(channel: Channel, kind: type[MessageType], deadline: float, what: str) -> MessageType:
    """The next message, which has no payload, within a deadline.

    Raises:
        DeadlineExceededError: It did not come within `deadline` seconds.
    """
    try:
        with trio.fail_after(deadline):
            message, _ = await channel.receive(kind)
            return message
    except trio.TooSlowError as error:
        raise DeadlineExceededError(f"peer {channel.remote} did not {what} within {deadline:g} s") from error


async def send(channel: Channel, message: pb.ToStage | pb.FromStage, deadline: float) -> None:
    """Sends a message without payload within a deadline.

    Raises:
        DeadlineExceededError: The other side took nothing for `deadline` seconds.
    """
    try:
        with trio.fail_after(deadline):
            await channel.send(message)
    except trio.TooSlowError as error:
        raise DeadlineExceededError(f"peer {channel.remote} took no message within {deadline:g} s") from error
