"""Sharding's records to protobuf and back. Nothing that comes off the wire is believed before it was checked here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import trio
from google.protobuf.message import DecodeError

from hivemind_p2p.errors import ConfigurationError, DeadlineExceededError, ProtocolError, RecordError
from hivemind_p2p.interfaces import Channel, MessageType
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding.checkpoint import MAX_LAYERS
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import LayerSpan, Link, PeerId, Record

PROTOCOL = "/hivemind/sharding/1"
RING_PROTOCOL = "/hivemind/ring/1"

GENERATION_ID_BYTES = 16
PREFILL_CHUNK = 512
"""Tokens of a prompt that travel and are computed together: bounds a frame (512 x 8192 x 4 bytes are 16 MiB), and lets
the stages of a route work on a long prompt at the same time."""
MAX_ROOM = 2**20
"""Tokens of one text; the longest contexts of published models."""
MAX_ENDS = 64
MAX_LOST = 16
MAX_MODELS = 16
"""Models that one publisher announces."""
LONGEST_LINK = 512
LONGEST_TEXT = 1024


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A published model, as its publisher announces it.

    Attributes:
        stages_wanted: Into how many even spans its layers are cut.
        architecture: The model library's name of the class.
    """

    link: Link
    name: str
    layer_count: int
    stages_wanted: int
    architecture: str


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """What a caller asks of a stage when it opens a generation.

    Attributes:
        index: The stage's place in the route.
        stages: Stages in the route.
        previous: Who sends to this stage on the ring.
        next: Whom it sends to.
        room: Tokens, the prompt counted, that the text may come to.
        ends: Token ids that end the text.
        payment: Opaque.
    """

    generation_id: bytes
    link: Link
    span: LayerSpan
    index: int
    stages: int
    previous: PeerId
    next: PeerId
    room: int
    sampling: SamplingOptions
    ends: frozenset[int]
    payment: bytes

    @property
    def last(self) -> bool:
        """Whether it is the last stage of the route."""
        return self.index == self.stages - 1

    @property
    def work_id(self) -> str:
        """What receipts call this stage's part of the generation."""
        return f"{self.generation_id.hex()}/{self.index}"


def encode_models(records: Iterable[ModelRecord]) -> bytes:
    """The value of a publisher's record."""
    models = [
        pb.Model(
            link=record.link,
            name=record.name,
            layer_count=record.layer_count,
            stages_wanted=record.stages_wanted,
            architecture=record.architecture,
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
        for model in message.models
    )
    if not sound:
        raise RecordError(f"the models that {record.signer} announces hold values that no honest peer sends")
    return tuple(
        ModelRecord(Link(model.link), model.name, model.layer_count, model.stages_wanted, model.architecture)
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


def encode_open(request: OpenRequest) -> pb.ToStage:
    """The message that opens a generation on a stage."""
    sampling = request.sampling
    return pb.ToStage(
        open=pb.Open(
            generation_id=request.generation_id,
            link=request.link,
            span=pb.Span(start=request.span.start, stop=request.span.stop),
            index=request.index,
            stages=request.stages,
            previous_peer=request.previous,
            next_peer=request.next,
            room=request.room,
            sampling=pb.Sampling(
                temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p, seed=sampling.seed
            ),
            ends=sorted(request.ends),
            payment=request.payment,
        )
    )


def decode_open(message: pb.Open, caller: PeerId) -> OpenRequest:
    """What a caller asks for.

    Raises:
        ProtocolError: It is malformed.
    """
    sound = (
        len(message.generation_id) == GENERATION_ID_BYTES
        and len(message.link) <= LONGEST_LINK
        and message.index < message.stages <= MAX_LAYERS
        and 1 <= message.room <= MAX_ROOM
        and len(message.ends) <= MAX_ENDS
        and message.span.start < message.span.stop
    )
    if not sound:
        raise ProtocolError(f"peer {caller} opened a generation with values that no honest peer sends")
    sampling = message.sampling
    try:
        options = SamplingOptions(sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed)
    except ConfigurationError as error:
        raise ProtocolError(f"peer {caller} wants impossible sampling: {error.message}") from error
    return OpenRequest(
        generation_id=message.generation_id,
        link=Link(message.link),
        span=LayerSpan(message.span.start, message.span.stop),
        index=message.index,
        stages=message.stages,
        previous=PeerId(message.previous_peer),
        next=PeerId(message.next_peer),
        room=message.room,
        sampling=options,
        ends=frozenset(message.ends),
        payment=message.payment,
    )


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


async def send(channel: Channel, message: pb.ToStage | pb.FromStage | pb.ToNext, deadline: float) -> None:
    """Sends a message without payload within a deadline.

    Raises:
        DeadlineExceededError: The other side took nothing for `deadline` seconds.
    """
    try:
        with trio.fail_after(deadline):
            await channel.send(message)
    except trio.TooSlowError as error:
        raise DeadlineExceededError(f"peer {channel.remote} took no message within {deadline:g} s") from error
