"""Open, to protobuf and back."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import requests
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import LayerSpan, Link, PeerId

CALLER = PeerId("c")


def request(**changed: object) -> requests.OpenRequest:
    values: dict[str, object] = {
        "generation_id": b"i" * 16,
        "link": Link("magnet:a"),
        "span": LayerSpan(2, 4),
        "index": 1,
        "stages": 3,
        "previous": PeerId("p"),
        "next": PeerId("n"),
        "room": 100,
        "sampling": SamplingOptions(temperature=0.5, top_k=3, top_p=0.75, seed=7),
        "ends": frozenset({1, 2}),
        "payment": b"pay",
        "mode": pb.LOGITS,
        "activations": "int8",
        "drafts": 5,
        "draft_model": "magnet:draft",
        "budget": 300,
        "text": [5, 2**32 - 1, 0],
    }
    return requests.OpenRequest(**(values | changed))  # type: ignore[arg-type]


def decoded(made: requests.OpenRequest) -> requests.OpenRequest:
    message, payload = requests.encode_open(made)
    return requests.decode_open(pb.Open.FromString(message.open.SerializeToString()), payload, CALLER)


def test_an_open_request_goes_there_and_back() -> None:
    found = decoded(request())
    assert list(found.text) == [5, 2**32 - 1, 0]
    assert found == request(text=found.text)
    assert found.paid_tokens == 300
    assert decoded(request(budget=0)).paid_tokens == 100


@pytest.mark.parametrize(
    "changed",
    [
        {"generation_id": b"short"},
        {"index": 3},
        {"stages": 2**20},
        {"room": 0},
        {"room": 2**30},
        {"ends": frozenset(range(100))},
        {"link": Link("m" * 600)},
        {"drafts": 17},
        {"draft_model": "m" * 600},
        {"activations": "x" * 100},
        {"text": [1] * 101},
        {"mode": 9},
    ],
)
def test_what_no_honest_peer_opens(changed: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        decoded(request(**changed))


def test_half_a_token() -> None:
    message, _ = requests.encode_open(request())
    with pytest.raises(ProtocolError):
        requests.decode_open(message.open, b"\0" * 6, CALLER)


def test_sampling_that_is_impossible() -> None:
    message, _ = requests.encode_open(request())
    message.open.sampling.temperature = float("nan")
    with pytest.raises(ProtocolError, match="sampling"):
        requests.decode_open(message.open, b"", CALLER)


@given(value=st.binary(max_size=200), payload=st.binary(max_size=64))
def test_any_bytes_are_an_open_request_or_a_protocol_error(value: bytes, payload: bytes) -> None:
    try:
        found = requests.decode_open(pb.Open.FromString(value), payload, CALLER)
    except (ProtocolError, DecodeError):
        return
    assert found.span.start < found.span.stop
    assert found.index < found.stages
    assert len(found.text) <= found.room


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_texts_go_there_and_back(tokens: list[int]) -> None:
    assert list(requests.decode_text(requests.encode_text(tokens))) == tokens
