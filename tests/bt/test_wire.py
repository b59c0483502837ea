import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.metainfo import LONGEST_PIECE
from hivemind_p2p.bt.wire import (
    MOST_BLOCKS,
    MOST_HAVES,
    Block,
    Have,
    Hello,
    Holding,
    ManifestFollows,
    Piece,
    Refusal,
    Request,
    decode,
    decode_holding,
    decode_record,
    encode,
    encode_holding,
    encode_record,
)
from hivemind_p2p.errors import ProtocolError, RecordError
from hivemind_p2p.proto import swarm_pb2 as pb

numbers = st.integers(0, 2**32 - 1)
blocks = st.builds(Block, numbers, st.integers(0, 1000), st.integers(1, LONGEST_PIECE - 1000))
messages = st.one_of(
    st.builds(Hello, st.binary(min_size=32, max_size=32), st.booleans()),
    st.just(ManifestFollows()),
    st.builds(Holding, st.booleans()),
    st.builds(Have, st.lists(numbers).map(tuple)),
    st.builds(Request, st.lists(blocks, max_size=5).map(tuple)),
    st.builds(Piece, blocks),
    st.builds(Refusal, blocks),
)


@given(messages)
def test_decoding_undoes_encoding(message):
    assert decode(pb.Message.FromString(encode(message).SerializeToString())) == message


@given(st.binary(max_size=100))
def test_fuzz_what_is_malformed_raises_a_protocol_error(data):
    try:
        parsed = pb.Message.FromString(data)
    except DecodeError:
        return
    try:
        message = decode(parsed)
    except ProtocolError:
        return
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        pb.Message(),
        pb.Message(hello=pb.Hello(infohash=b"short")),
        pb.Message(have=pb.Have(pieces=[1] * (MOST_HAVES + 1))),
        pb.Message(request=pb.Request(blocks=[pb.Block(length=1)] * (MOST_BLOCKS + 1))),
        pb.Message(piece=pb.Piece()),
        pb.Message(piece=pb.Piece(block=pb.Block(length=LONGEST_PIECE + 1))),
        pb.Message(request=pb.Request(blocks=[pb.Block(begin=2**32 - 1, length=1)])),
    ],
)
def test_numbers_out_of_bounds_are_refused(message):
    with pytest.raises(ProtocolError):
        decode(message)


@given(st.sets(st.integers(0, 19)))
def test_what_a_source_holds_travels(pieces):
    held = Bitfield(20, pieces)
    message, payload = encode_holding(held)
    assert decode_holding(message, memoryview(payload), 20) == held


def test_a_bitfield_of_another_content_is_refused():
    with pytest.raises(ProtocolError):
        decode_holding(Holding(False), memoryview(b"\xff\xff"), 7)


@pytest.mark.parametrize("complete", [True, False])
def test_a_record_is_never_empty(complete):
    value = encode_record(complete=complete)
    assert value
    assert decode_record(value) is complete


def test_a_withdrawn_and_a_malformed_record():
    assert decode_record(b"") is None
    with pytest.raises(RecordError):
        decode_record(b"\xff\xff")
