"""What a caller asks of a stage when it opens a generation, to protobuf and back.

Nothing that comes off the wire is believed before it was checked here.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from hivemind_p2p.errors import ConfigurationError, ProtocolError
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding.checkpoint import MAX_LAYERS
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import LayerSpan, Link, PeerId

GENERATION_ID_BYTES = 16
MAX_ROOM = 2**20
"""Tokens of one text; the longest contexts of published models."""
MAX_ENDS = 64
MAX_DRAFTS = 16
"""Drafted tokens a step: more are hardly ever right."""
LONGEST_LINK = 512
TOKEN_BYTES = 4
MAX_TEXT_BYTES = TOKEN_BYTES * MAX_ROOM
"""Of the payload behind an Open."""

Mode = pb.Mode


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
        mode: Who chooses tokens, and what the caller gets.
        activations: How hidden states are written on the ring; empty for the stage's own dtype.
        drafts: Tokens that are drafted a step at the most; 0 for no speculation.
        draft_model: Link of the model that drafts; empty where the text itself does.
        budget: Tokens that may be computed, and are paid, in all.
        text: The text so far, where the stage has use for it.
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
    payment: bytes = b""
    mode: pb.Mode = pb.TOKENS
    activations: str = ""
    drafts: int = 0
    draft_model: str = ""
    budget: int = 0
    text: Sequence[int] = field(default=(), repr=False)

    @property
    def last(self) -> bool:
        """Whether it is the last stage of the route."""
        return self.index == self.stages - 1

    @property
    def work_id(self) -> str:
        """What receipts call this stage's part of the generation."""
        return f"{self.generation_id.hex()}/{self.index}"

    @property
    def paid_tokens(self) -> int:
        """Tokens that are billed at the most."""
        return self.budget or self.room


def encode_open(request: OpenRequest) -> tuple[pb.ToStage, bytes]:
    """The message that opens a generation on a stage, and its payload."""
    opening = pb.Open(
        generation_id=request.generation_id,
        link=request.link,
        span=pb.Span(start=request.span.start, stop=request.span.stop),
        index=request.index,
        stages=request.stages,
        previous_peer=request.previous,
        next_peer=request.next,
        room=request.room,
        sampling=_encode_sampling(request.sampling),
        ends=sorted(request.ends),
        payment=request.payment,
        mode=request.mode,
        activations=request.activations,
        speculation=pb.Speculation(most=request.drafts, draft_model=request.draft_model),
        budget=request.budget,
    )
    return pb.ToStage(open=opening), encode_text(request.text)


def decode_open(message: pb.Open, payload: memoryview | bytes, caller: PeerId) -> OpenRequest:
    """What a caller asks for.

    Raises:
        ProtocolError: It is malformed.
    """
    if not _sound(message, len(payload)):
        raise ProtocolError(f"peer {caller} opened a generation with values that no honest peer sends")
    try:
        options = _decode_sampling(message.sampling)
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
        mode=message.mode,
        activations=message.activations,
        drafts=message.speculation.most,
        draft_model=message.speculation.draft_model,
        budget=message.budget,
        text=decode_text(payload),
    )


def _sound(message: pb.Open, payload: int) -> bool:
    return (
        len(message.generation_id) == GENERATION_ID_BYTES
        and len(message.link) <= LONGEST_LINK
        and message.index < message.stages <= MAX_LAYERS
        and 1 <= message.room <= MAX_ROOM
        and len(message.ends) <= MAX_ENDS
        and message.span.start < message.span.stop
        and message.mode in pb.Mode.values()
        and len(message.activations) <= MAX_ENDS
        and message.speculation.most <= MAX_DRAFTS
        and len(message.speculation.draft_model) <= LONGEST_LINK
        and payload % TOKEN_BYTES == 0
        and payload <= TOKEN_BYTES * message.room
    )


def _encode_sampling(options: SamplingOptions) -> pb.Sampling:
    return pb.Sampling(**{name: getattr(options, name) for name in _sampling_names()})


def _decode_sampling(message: pb.Sampling) -> SamplingOptions:
    return SamplingOptions(**{name: getattr(message, name) for name in _sampling_names()})


def _sampling_names() -> list[str]:
    """Options that the message and the library have under the same name."""
    known = pb.Sampling.DESCRIPTOR.fields_by_name
    return [option.name for option in fields(SamplingOptions) if option.name in known]


def encode_text(tokens: Sequence[int]) -> bytes:
    """Token ids as uint32, little-endian."""
    ids = array("I", tokens)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tobytes()


def decode_text(payload: memoryview | bytes) -> Sequence[int]:
    """Token ids from a payload whose length was checked."""
    ids = array("I")
    ids.frombytes(payload)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids


__all__ = ["Mode", "OpenRequest", "decode_open", "decode_text", "encode_open", "encode_text"]
